package sandbox

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// kubernetesVersion is the API server's. The module in kubeapiserver names it
	// as well; a test holds the two together.
	kubernetesVersion = "v1.36.3"
	// certificateLife is far beyond what a sandbox lives.
	certificateLife = 365 * 24 * time.Hour
	// readyAnswer bounds what is read of an answer to /readyz.
	readyAnswer = 4 << 10
)

// Kubernetes is a private Kubernetes API server. It has no nodes, no scheduler
// and no controllers: it stores objects, and checks what it is asked against
// their schemas and the rights of who asks.
type Kubernetes struct {
	*Process
	// URL is where it serves.
	URL string
	// Token is an administrator's, to be sent as a bearer token.
	Token string
	// CA is the server's certificate authority, in PEM.
	CA []byte

	folder *folder
	http   *http.Client // of the readiness query
}

// StartKubernetes starts an API server on a free port, that keeps its objects in
// an etcd cluster. It is gone after Close, or with this process; the objects
// stay in etcd. ctx bounds the start alone.
func StartKubernetes(ctx context.Context, etcdEndpoints []string) (*Kubernetes, error) {
	program, err := kubernetesProgram()
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

// Close ends the server and removes its folder. The server is killed: it has
// nothing but what etcd has acknowledged, and would wait for open watches.
func (k *Kubernetes) Close() error {
	k.Kill()
	return k.folder.remove()
}

// FindKubernetes says whether the API server has been built.
func FindKubernetes() error {
	_, err := kubernetesProgram()
	return err
}

// kubernetesProgram finds what scripts/setup has built.
func kubernetesProgram() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find kube-apiserver: %w", err)
	}
	path := filepath.Join(cache, "flashsale", "kube-apiserver-"+kubernetesVersion)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("kube-apiserver is not there: build it with `scripts/setup --kubernetes`, in a few minutes: %w", err)
	}
	return path, nil
}

func (k *Kubernetes) start(ctx context.Context, program string, etcdEndpoints []string) error {
	reserved, err := ReservePort()
	if err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(reserved.Addr) // our own
	k.URL = "https://" + reserved.Addr
	if err := k.writeSecrets(host); err != nil {
		return fmt.Errorf("make the server's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.CA)
	k.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
	}}
	k.Process, err = StartProcess(ctx, ProcessConfig{
		Name: "kube-apiserver", LogPath: k.file("kube-apiserver.log"), Ports: []*Port{reserved}, Ready: k.ready,
		Argv: []string{
			program,
			"--etcd-servers=" + strings.Join(etcdEndpoints, ","),
			"--bind-address=" + host, "--secure-port=" + port,
			// It refuses to advertise the loopback interface, and looks for another
			// where it is told nothing. Nobody reads this one.
			"--advertise-address=10.0.0.1", "--endpoint-reconciler-type=none",
			"--service-cluster-ip-range=10.0.0.0/24",
			"--tls-cert-file=" + k.file("server.crt"), "--tls-private-key-file=" + k.file("key.pem"),
			"--authorization-mode=RBAC", "--token-auth-file=" + k.file("tokens.csv"),
			// Tokens of service accounts are signed and checked with the same key.
			// The admission of that name is for pods, which nobody runs here.
			"--service-account-key-file=" + k.file("key.pem"), "--service-account-signing-key-file=" + k.file("key.pem"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--disable-admission-plugins=ServiceAccount",
		},
	})
	return err
}

func (k *Kubernetes) file(name string) string { return filepath.Join(k.folder.path, name) }

// writeSecrets makes a key, a certificate that it signs itself, and the list of
// tokens.
func (k *Kubernetes) writeSecrets(host string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	began := time.Now().Add(-time.Hour) // a clock may be set back meanwhile
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "flashsale sandbox"},
		NotBefore: began, NotAfter: began.Add(certificateLife),
		IPAddresses: []net.IP{net.ParseIP(host)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	k.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	for name, content := range map[string][]byte{
		"server.crt": k.CA,
		"key.pem":    pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		"tokens.csv": fmt.Appendf(nil, "%s,administrator,administrator,system:masters\n", k.Token),
	} {
		if err := os.WriteFile(k.file(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// ready asks for /readyz: it includes the roles that the server makes for itself.
// The certificate shows that the server at our port is ours.
func (k *Kubernetes) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.URL+"/readyz", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+k.Token)
	answer, err := k.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, readyAnswer))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s: %s", answer.Status, said)
	}
	return nil
}
