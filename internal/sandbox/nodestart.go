package sandbox

import (
	"bufio"
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
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox/image"
	"flashsale/internal/sleep"
)

// unshare starts the keeper, which starts PID 1 in namespaces of its own.
func (n *Node) unshare() error {
	// In no process group of this process's, and with no signal at its end: the keeper
	// cleans up after it. It also keeps the folder from being swept.
	n.keeper = exec.Command("bash", n.file("keeper.sh"), n.folder.path, n.root)
	n.keeper.SysProcAttr, n.keeper.Env = detachedAttr(), n.environment()
	n.keeper.Stderr, n.keeper.ExtraFiles = &n.said, []*os.File{n.folder.owner}
	var err error
	if n.input, err = n.keeper.StdinPipe(); err != nil {
		return err
	}
	output, err := n.keeper.StdoutPipe()
	if err != nil {
		return err
	}
	if err := n.keeper.Start(); err != nil {
		return fmt.Errorf("start a node's namespaces: %w", err)
	}
	go func() {
		defer close(n.gone)
		n.follow(output)
		_ = n.keeper.Wait() // what it leaves is looked for
		n.fail(fmt.Errorf("the node has ended: %s", strings.TrimSpace(n.said.String())))
	}()
	return nil
}

// follow reads what PID 1 says until its end.
func (n *Node) follow(output io.Reader) {
	for lines := bufio.NewScanner(output); lines.Scan(); {
		var name, status string
		switch _, err := fmt.Sscanf(lines.Text(), "ended %s %s", &name, &status); {
		case lines.Text() == "ready":
			close(n.ready)
		case err == nil:
			n.fail(fmt.Errorf("%s ended with status %s; its log ends:\n%s", name, status, n.logTail(name)))
		}
	}
}

func (n *Node) logTail(name string) string {
	text, err := os.ReadFile(n.file("log", name+".log"))
	if err != nil {
		return lastLines(err.Error(), tailLines)
	}
	return lastLines(string(text), tailLines)
}

// start starts the programs, each as soon as what it needs is there.
func (n *Node) start(ctx context.Context) error {
	ctx, cancel := n.bound(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, nodeStart)
	defer stop()
	select {
	case <-n.ready:
	case <-ctx.Done():
		return fmt.Errorf("set up its namespaces: %w", context.Cause(ctx))
	}
	pid, err := os.ReadFile(n.file("pid"))
	if err != nil {
		return err
	}
	n.pid = strings.TrimSpace(string(pid))
	group, both := errgroup.WithContext(ctx)
	served := make(chan struct{}) // the API server is ready
	group.Go(func() error { return n.startControlPlane(both, served) })
	group.Go(func() error { return n.startKubelet(both, served) })
	if err := group.Wait(); err != nil {
		return err
	}
	return n.awaitPods(ctx)
}

func (n *Node) startControlPlane(ctx context.Context, served chan<- struct{}) error {
	if err := n.launch(ctx, "etcd"); err != nil {
		return err
	}
	plain := &http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}}
	if err := n.await(ctx, "etcd", func(ctx context.Context) error { return getReady(ctx, plain, "http://127.0.0.1:2379", "") }); err != nil {
		return err
	}
	if err := n.launch(ctx, "kube-apiserver"); err != nil {
		return err
	}
	secure := &http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true, TLSClientConfig: n.tls}}
	if err := n.await(ctx, "kube-apiserver", func(ctx context.Context) error { return getReady(ctx, secure, "https://"+nodeServer, n.Token) }); err != nil {
		return err
	}
	close(served)
	if err := n.launch(ctx, "kube-controller-manager", "kube-scheduler", "kube-proxy"); err != nil {
		return err
	}
	manifests, err := n.manifests()
	if err != nil {
		return err
	}
	_, err = n.KubectlInput(ctx, manifests, "create", "--filename=-")
	return err
}

func (n *Node) startKubelet(ctx context.Context, served <-chan struct{}) error {
	if err := n.launch(ctx, "containerd"); err != nil {
		return err
	}
	socket := "/proc/" + n.pid + "/root/run/containerd/containerd.sock"
	if err := n.await(ctx, "containerd", func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			err = conn.Close()
		}
		return err
	}); err != nil {
		return err
	}
	for _, own := range []*image.Image{image.Static(nodePause, n.programs.pause), image.Static(nodeCoreDNS, n.programs.coredns)} {
		if err := n.ImportImage(ctx, own); err != nil {
			return err
		}
	}
	select {
	case <-served:
		return n.launch(ctx, "kubelet")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitPods waits until pods can be created and find each other. The DNS server is a
// pod: when it answers at its Service's address, then scheduler, kubelet, network and
// kube-proxy work.
func (n *Node) awaitPods(ctx context.Context) error {
	if _, err := n.Kubectl(ctx, "rollout", "status", "--namespace=kube-system", "deployment/coredns", "--timeout="+nodeStart.String()); err != nil {
		return err
	}
	// Pods of a namespace need its service account, which a controller creates.
	if _, err := n.Kubectl(ctx, "wait", "--for=create", "serviceaccount/default", "--timeout="+nodeStart.String()); err != nil {
		return err
	}
	return n.await(ctx, "coredns", func(ctx context.Context) error {
		_, err := n.Lookup(ctx, "kubernetes.default.svc.cluster.local")
		return err
	})
}

// launch makes PID 1 start programs.
func (n *Node) launch(ctx context.Context, names ...string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := io.WriteString(n.input, strings.Join(names, "\n")+"\n"); err != nil {
		return fmt.Errorf("start %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// await calls ready until it succeeds. The error ends with the log of the program.
func (n *Node) await(ctx context.Context, name string, ready func(context.Context) error) error {
	any := func(error) bool { return true }
	err := sleep.Backoff{Min: readyPause, Max: readyPauseMax}.Retry(ctx, any, func() error {
		ctx, cancel := context.WithTimeout(ctx, readyAttempt)
		defer cancel()
		return ready(ctx)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s is not ready: %w; its log ends:\n%s", name, err, n.logTail(name))
	}
	return err
}

// manifests are the objects that the node has from the start.
func (n *Node) manifests() (string, error) {
	text, err := n.expand("cluster.yaml", nil)
	for i := 0; err == nil && i < nodeVolumes; i++ {
		var volume string
		volume, err = n.expand("volume.yaml", map[string]string{"number": strconv.Itoa(i)})
		text += volume
	}
	return text, err
}

// configure creates the node's folder's contents.
func (n *Node) configure() error {
	for _, folder := range []string{"pki", "log", "kubelet", "cni", "home", "tmp", "opt", "plugins", "volumes"} {
		if err := os.Mkdir(n.file(folder), 0o755); err != nil {
			return err
		}
	}
	for i := range nodeVolumes {
		if err := os.Mkdir(n.file("volumes", strconv.Itoa(i)), 0o755); err != nil {
			return err
		}
	}
	for name, path := range map[string]string{
		"keeper.sh": "keeper.sh", "init.sh": "init.sh", "containerd.toml": "containerd.toml", "cni.conflist": "cni/node.conflist",
		"kubelet.yaml": "kubelet.yaml", "proxy.yaml": "proxy.yaml",
	} {
		text, err := n.expand(name, nil)
		if err != nil {
			return err
		}
		if err := os.WriteFile(n.file(path), []byte(text), 0o600); err != nil {
			return err
		}
	}
	// Names of other machines do not exist here.
	if err := os.WriteFile(n.file("resolv.conf"), []byte("search .\n"), 0o644); err != nil {
		return err
	}
	tokens := ""
	for _, user := range []struct{ file, name, group, token string }{
		{"admin", "admin", "system:masters", n.Token},
		{"kubelet", "system:node:node1", "system:nodes", Secret()},
		{"controllers", "system:kube-controller-manager", "", Secret()},
		{"scheduler", "system:kube-scheduler", "", Secret()},
		{"proxy", "system:kube-proxy", "", Secret()},
	} {
		tokens += strings.Join([]string{user.token, user.name, user.name, user.group}, ",") + "\n"
		text, err := n.expand("kubeconfig.yaml", map[string]string{"token": user.token})
		if err != nil {
			return err
		}
		if err := os.WriteFile(n.file("pki", user.file+".conf"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(n.file("tokens.csv"), []byte(tokens), 0o600); err != nil {
		return err
	}
	return n.certify()
}

// expand returns a file of the folder node with its $variables replaced. Scripts have
// their own, and are returned as they are.
func (n *Node) expand(name string, more map[string]string) (string, error) {
	text, err := nodeFiles.ReadFile("node/" + name)
	if err != nil || filepath.Ext(name) == ".sh" {
		return string(text), err
	}
	values := map[string]string{
		"folder": n.folder.path, "root": n.root, "cni": n.programs.cni, "runc": n.programs.runc, "pause": nodePause, "coredns": nodeCoreDNS,
	}
	maps.Copy(values, more)
	return os.Expand(string(text), func(name string) string { return values[name] }), nil
}

// certify creates the node's certificate authority and what it signs. The kubelet signs
// its own certificate: the API server does not verify it.
func (n *Node) certify() error {
	authority := &x509.Certificate{
		Subject: pkix.Name{CommonName: "node"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	signer, err := n.sign("ca", authority, nil, nil)
	if err != nil {
		return err
	}
	if _, err := n.sign("server", &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{net.ParseIP("10.99.0.1"), net.ParseIP("127.0.0.1"), net.ParseIP("10.96.0.1")},
	}, authority, signer); err != nil {
		return err
	}
	// The API server's name at the kubelet, for logs and exec.
	if _, err := n.sign("client", &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver", Organization: []string{"system:masters"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, authority, signer); err != nil {
		return err
	}
	if _, err := n.newKey("accounts"); err != nil {
		return err
	}
	if n.CA, err = os.ReadFile(n.file("pki", "ca.crt")); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(n.CA)
	n.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	return nil
}

// sign creates a key and a certificate for it; with a nil signer it signs itself.
func (n *Node) sign(name string, cert, authority *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := n.newKey(name)
	if err != nil {
		return nil, err
	}
	if signer == nil {
		authority, signer = cert, key
	}
	cert.SerialNumber = big.NewInt(time.Now().UnixNano())
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	der, err := x509.CreateCertificate(rand.Reader, cert, authority, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate %s: %w", name, err)
	}
	return key, n.writePEM(name+".crt", "CERTIFICATE", der)
}

func (n *Node) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, n.writePEM(name+".key", "EC PRIVATE KEY", der)
}

func (n *Node) writePEM(name, kind string, der []byte) error {
	return os.WriteFile(n.file("pki", name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
