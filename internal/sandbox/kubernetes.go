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
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// kubernetesVersion is also the version that the module in kubeapiserver requires;
	// a test compares the two.
	kubernetesVersion = "v1.36.3"
	// certificateLife is longer than any sandbox runs.
	certificateLife = 365 * 24 * time.Hour
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
	http   *http.Client // of the readiness query
}

// StartKubernetes starts an API server on a free port that stores its objects in an
// etcd cluster. It runs until Close or until this process ends; the objects stay in
// etcd. ctx bounds only the start.
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

// Close kills the server and removes its folder. The server has no data that is not
// in etcd, and would wait for open watches.
func (k *Kubernetes) Close() error {
	k.Kill()
	return k.folder.remove()
}

// FindKubernetes says whether the API server has been built.
func FindKubernetes() error {
	_, err := kubernetesProgram()
	return err
}

// kubernetesProgram is where scripts/setup puts the API server that it has built.
func kubernetesProgram() (string, error) {
	path, err := cacheFolder("kube-apiserver-" + kubernetesVersion)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", &MissingError{Program: filepath.Base(path), Do: "run `scripts/setup --kubernetes`, which builds it in a few minutes", err: err}
	}
	return path, nil
}

func (k *Kubernetes) start(ctx context.Context, program string, etcdEndpoints []string) error {
	reserved, err := ReservePort()
	if err != nil {
		return err
	}
	k.URL = "https://" + reserved.Addr
	if err := k.writeSecrets(); err != nil {
		return fmt.Errorf("create the server's certificate: %w", err)
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
			"--bind-address=" + loopback, "--secure-port=" + portOf(reserved.Addr),
			// It refuses to advertise a loopback address, and this one is never used.
			"--advertise-address=10.0.0.1", "--endpoint-reconciler-type=none",
			"--service-cluster-ip-range=10.0.0.0/24",
			"--tls-cert-file=" + k.file("server.crt"), "--tls-private-key-file=" + k.file("key.pem"),
			"--authorization-mode=RBAC", "--token-auth-file=" + k.file("tokens.csv"),
			// One key signs and verifies the tokens of service accounts. The admission
			// plug-in of that name is for pods, which do not exist here.
			"--service-account-key-file=" + k.file("key.pem"), "--service-account-signing-key-file=" + k.file("key.pem"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--disable-admission-plugins=ServiceAccount",
		},
	})
	return err
}

func (k *Kubernetes) file(name string) string { return filepath.Join(k.folder.path, name) }

// writeSecrets creates a key, a self-signed certificate and the list of tokens.
func (k *Kubernetes) writeSecrets() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	began := time.Now().Add(-time.Hour) // the clock may be set back
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "flashsale sandbox"},
		NotBefore: began, NotAfter: began.Add(certificateLife),
		IPAddresses: []net.IP{net.ParseIP(loopback)},
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

// ready also waits for the roles that the server creates at its start. The
// certificate shows that the server at our port is ours.
func (k *Kubernetes) ready(ctx context.Context) error { return getReady(ctx, k.http, k.URL, k.Token) }
