package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kubernetes is a private Kubernetes API server without nodes, scheduler or
// controllers. It stores objects, validates them against their schemas and checks the
// rights of its clients.
type Kubernetes struct {
	*Process
	URL string
	// Token is an administrator's bearer token.
	Token string
	// CA is the server's certificate authority, in PEM.
	CA []byte

	folder *folder
}

// StartKubernetes starts an API server on a free port that stores its objects in an
// etcd cluster. It runs until Close or until this process ends; the objects stay in
// etcd. ctx bounds only the start.
func StartKubernetes(ctx context.Context, etcdEndpoints []string) (*Kubernetes, error) {
	program, err := kubernetesProgram(apiserver)
	if err != nil {
		return nil, err
	}
	folder, err := openFolder("")
	if err != nil {
		return nil, fmt.Errorf("open the server's folder: %w", err)
	}
	k := &Kubernetes{folder: folder, Token: Secret()}
	if err := k.start(ctx, program, etcdEndpoints); err != nil {
		return nil, errors.Join(err, folder.remove())
	}
	return k, nil
}

// Close kills the server and removes its folder. The server has no data that is not
// in etcd, and would wait for open watches.
func (k *Kubernetes) Close() error {
	k.Kill()
	return k.folder.remove()
}

// Kubectl runs kubectl as the administrator, with an input such as manifests for
// "apply -f -", and returns what it prints. The error contains what it says to stderr.
func (k *Kubernetes) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	program, err := kubernetesProgram(kubectl)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--server=" + k.URL, "--token=" + k.Token, "--certificate-authority=" + k.file("apiserver.crt")}, args...)...)
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr, cmd.Env = strings.NewReader(input), &stderr, []string{"HOME=" + k.folder.path}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// FindKubernetes says whether the API server has been built.
func FindKubernetes() error {
	_, err := kubernetesProgram(apiserver)
	return err
}

// apiserver and kubectl are among the programs that scripts/setup builds.
const (
	apiserver = "kube-" + kubernetesVersion + "/kube-apiserver"
	kubectl   = "kube-" + kubernetesVersion + "/kubectl"
)

// kubernetesProgram is where scripts/setup puts a program that it has built, or the
// folder of several.
func kubernetesProgram(name string) (string, error) {
	path, err := cacheFolder(name)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", &MissingError{Program: name, Do: kubernetesDo, err: err}
	}
	return path, nil
}

func (k *Kubernetes) start(ctx context.Context, program string, etcdEndpoints []string) error {
	reserved, err := ReservePort()
	if err != nil {
		return err
	}
	k.URL = "https://" + reserved.Addr
	if err := os.WriteFile(k.file("tokens.csv"), []byte(k.Token+",administrator,administrator,system:masters\n"), 0o600); err != nil {
		return err
	}
	k.Process, err = StartProcess(ctx, ProcessConfig{
		Name: "kube-apiserver", LogPath: k.file("kube-apiserver.log"), Ports: []*Port{reserved}, Ready: k.ready,
		Argv: []string{
			program,
			"--etcd-servers=" + strings.Join(etcdEndpoints, ","),
			"--bind-address=" + loopback, "--secure-port=" + portOf(reserved.Addr),
			// It refuses to advertise a loopback address, and this one is never used.
			"--advertise-address=10.0.0.1", "--endpoint-reconciler-type=none",
			"--service-cluster-ip-range=10.0.0.0/24",
			"--cert-dir=" + k.folder.path, // where the server creates apiserver.crt and its key
			"--authorization-mode=RBAC", "--token-auth-file=" + k.file("tokens.csv"),
			// The same key signs and verifies the tokens of service accounts. The admission
			// plug-in of that name is for pods, which do not exist here.
			"--service-account-key-file=" + k.file("apiserver.key"), "--service-account-signing-key-file=" + k.file("apiserver.key"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--disable-admission-plugins=ServiceAccount",
		},
	})
	return err
}

func (k *Kubernetes) file(name string) string { return filepath.Join(k.folder.path, name) }

// ready also waits for the roles that the server creates at its start. The
// certificate shows that the server at our port is ours.
func (k *Kubernetes) ready(ctx context.Context) (err error) {
	if k.CA, err = os.ReadFile(k.file("apiserver.crt")); err != nil {
		return err
	}
	client, err := (&TLS{CA: k.file("apiserver.crt")}).client()
	if err != nil {
		return err
	}
	return getReady(ctx, &http.Client{Transport: &http.Transport{TLSClientConfig: client, DisableKeepAlives: true}}, k.URL, k.Token)
}
