package sandbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"flashsale/internal/sandbox/image"
)

const (
	// nodeStart bounds the start of a node. It takes 10 to 15 seconds; on a machine
	// with a load of 50, two minutes were seen.
	nodeStart = 5 * time.Minute
	// nodeStop bounds its end, which takes two seconds.
	nodeStop = time.Minute
	// nodeVolumes are the disks that its pods can claim. One that was released is not
	// given out again.
	nodeVolumes = 16
	// nodeServer and nodeDNS are the addresses of the API server and of its DNS.
	nodeServer, nodeDNS = "10.99.0.1:6443", "10.96.0.10:53"
	// nodePause and nodeCoreDNS are the images of its own pods.
	nodePause, nodeCoreDNS = "flashsale.local/pause:1", "flashsale.local/coredns:1"
)

// nodeFiles start a node, and configure its programs.
//
//go:embed node
var nodeFiles embed.FS

// Node is a real Kubernetes cluster of one node: etcd, API server, controllers,
// scheduler, kubelet with containerd, kube-proxy, CoreDNS, and 16 volumes of the
// StorageClass "local", which is the default. A released volume is not given out again.
// Services have addresses in 10.96.0.0/16, pods in 10.244.0.0/24, and the node's own is
// 10.99.0.1. It is safe for concurrent use.
//
// All of it is in namespaces of its own. The machine's addresses, firewall, mounts and
// sysctls stay as they are, and several nodes can run side by side. Nothing is fetched:
// a pod's image must have been imported, and have imagePullPolicy Never or IfNotPresent;
// see EtcdImage, MySQLImage and package image.
// Pods reach each other and the API server, and nothing else. The node ends with Close,
// or with this process, however that ends, unless Keep was called. In each case its
// processes, mounts, cgroups and folder are gone a few seconds later.
//
//	node, err := sandbox.StartNode(ctx)
//	defer node.Close()
//	err = node.ImportImage(ctx, image.API("flashsale.local/api:1", "bin/api"))
//	_, err = node.Kubectl(ctx, "apply", "-k", "deploy/kubernetes/demo")
//	_, err = node.Kubectl(ctx, "rollout", "status", "--namespace=flashsale", "deployment/flashsale", "--timeout=2m")
//	client := http.Client{Transport: &http.Transport{DialContext: node.Dial}} // reaches ClusterIPs
type Node struct {
	// Kubeconfig is the path of an administrator's kubeconfig. The API server is
	// reached from the node's network alone: see Enter.
	Kubeconfig string
	// Token is the administrator's bearer token.
	Token string
	// CA is the API server's certificate authority, in PEM.
	CA []byte

	folder   *folder
	root     string // the name of its cgroups
	programs nodePrograms
	keeper   *exec.Cmd
	input    io.WriteCloser // of PID 1
	said     bytes.Buffer   // the keeper's errors; complete once gone is closed
	pid      string         // PID 1, as the machine counts
	tls      *tls.Config    // trusts the API server
	mu       sync.Mutex     // held while input is written

	ready   chan struct{} // closed once PID 1 starts programs
	gone    chan struct{} // closed once the keeper has ended
	failed  context.Context
	fail    context.CancelCauseFunc
	closing sync.Once
	left    error // the result of Close
}

// StartNode starts a node and waits until a pod of it answers DNS queries at its
// ClusterIP. On an error nothing is left. ctx bounds only the start.
func StartNode(ctx context.Context) (*Node, error) {
	programs, err := checkNode(ctx)
	if err != nil {
		return nil, fmt.Errorf("a Kubernetes node cannot run here: %w", err)
	}
	folder, err := openFolder("")
	if err != nil {
		return nil, fmt.Errorf("open the node's folder: %w", err)
	}
	n := &Node{
		Kubeconfig: filepath.Join(folder.path, "pki", "admin.conf"), Token: Secret(),
		folder: folder, root: filepath.Base(folder.path), programs: programs,
		ready: make(chan struct{}), gone: make(chan struct{}),
	}
	n.failed, n.fail = context.WithCancelCause(context.Background())
	if err := n.configure(); err != nil {
		return nil, errors.Join(err, folder.remove())
	}
	if err := n.unshare(); err != nil {
		return nil, errors.Join(err, folder.remove())
	}
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a Kubernetes node: %w", err), n.Close())
	}
	return n, nil
}

// Close ends the node and removes its folder. The error says what is left. Further
// calls return the same.
func (n *Node) Close() error {
	n.closing.Do(func() {
		n.fail(errors.New("the node was closed"))
		_ = n.input.Close()                          // ends PID 1
		_ = n.keeper.Process.Signal(syscall.SIGTERM) // also after Keep
		select {
		case <-n.gone:
		case <-time.After(nodeStop):
			n.left = fmt.Errorf("the node has not ended within %s", nodeStop)
			return
		}
		for _, path := range append(cgroupsOf(n.root), n.folder.path) {
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				n.left = errors.Join(n.left, fmt.Errorf("the node has left %s behind", path))
			}
		}
		n.left = errors.Join(n.left, n.folder.owner.Close())
	})
	return n.left
}

// Keep lets the node run on after the end of this process, and returns the command
// that ends it.
func (n *Node) Keep() (stop string, err error) {
	if err := n.launch(context.Background(), "keep"); err != nil {
		return "", err
	}
	return "kill " + strconv.Itoa(n.keeper.Process.Pid), nil
}

// Dir is the node's folder. Each program has its log in Dir/log; those of pods are in
// Dir/log/pods.
func (n *Node) Dir() string { return n.folder.path }

// Enter is the start of a command that runs in the node's network.
func (n *Node) Enter() []string { return []string{"nsenter", "--target=" + n.pid, "--net", "--"} }

// Dial connects from the node's network: to a pod, to a ClusterIP, to the API server.
// The address must be an IP address with its port.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return dialFrom(ctx, "/proc/"+n.pid+"/ns/net", network, address)
}

// Forward listens at an address of this machine until the node ends, and relays each
// connection to that port of a name in the node. It looks the name up for each connection,
// because a pod that was replaced has another address.
func (n *Node) Forward(name, port string) (addr string, err error) {
	r, err := startRelay(loopback, name, func(ctx context.Context) (net.Conn, error) {
		found, err := n.Lookup(ctx, name)
		if err != nil {
			return nil, err
		}
		return n.Dial(ctx, "tcp", net.JoinHostPort(found[0], port))
	})
	if err != nil {
		return "", err
	}
	context.AfterFunc(n.failed, r.close)
	return r.addr, nil
}

// Kubectl runs kubectl as the administrator and returns what it prints. The error
// contains what it says to stderr, or why the node has ended.
func (n *Node) Kubectl(ctx context.Context, args ...string) (string, error) {
	return n.KubectlInput(ctx, "", args...)
}

// KubectlInput is Kubectl with an input, such as manifests for "apply -f -".
func (n *Node) KubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	return n.command(ctx, "kubectl "+strings.Join(args, " "), input, append(n.KubectlCommand(), args...))
}

// KubectlCommand is the start of a command line of kubectl as the administrator, for a
// node that is kept.
func (n *Node) KubectlCommand() []string {
	return append(n.Enter(), filepath.Join(n.programs.kube, "kubectl"), "--kubeconfig="+n.Kubeconfig)
}

// Exec runs a command in a pod and returns what it prints. The pod may also be
// "deployment/NAME" or "statefulset/NAME".
func (n *Node) Exec(ctx context.Context, namespace, pod string, command ...string) (string, error) {
	return n.Kubectl(ctx, append([]string{"exec", "--namespace=" + namespace, pod, "--"}, command...)...)
}

// ImportImage makes an image known to the node.
func (n *Node) ImportImage(ctx context.Context, im *image.Image) error {
	archive := n.file("tmp", "image-"+Secret()+".tar")
	defer os.Remove(archive)
	if err := im.Save(archive); err != nil {
		return err
	}
	_, err := n.command(ctx, "import "+im.Name, "", []string{
		"nsenter", "--target=" + n.pid, "--mount", "--", filepath.Join(n.programs.containerd, "ctr"),
		"--namespace=k8s.io", "images", "import", "--local", archive,
	})
	return err
}

// EtcdImage is the image of etcd's own programs, which scripts/setup --kubernetes builds.
func EtcdImage(name string) (*image.Image, error) {
	folder, err := kubernetesProgram("etcd-" + etcdVersion)
	if err != nil {
		return nil, err
	}
	return image.Etcd(name, folder), nil
}

// MySQLImage is the image of the MySQL that scripts/setup --mysql has extracted.
func MySQLImage(name string) (*image.Image, error) {
	folder, err := cacheFolder("mysql")
	if err == nil {
		_, err = os.Stat(folder)
	}
	if err != nil {
		return nil, &MissingError{Program: "MySQL", Do: "run `scripts/setup --mysql`", err: err}
	}
	return image.MySQL(name, folder), nil
}

// Lookup returns the addresses that the node's DNS has for a name, such as
// "api.flashsale.svc.cluster.local".
func (n *Node) Lookup(ctx context.Context, name string) ([]string, error) {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return n.Dial(ctx, network, nodeDNS)
	}}
	return resolver.LookupHost(ctx, name+".")
}

// Memory returns the bytes of memory that each program of the node's own has, by name.
func (n *Node) Memory() (map[string]int64, error) {
	own, err := os.Readlink("/proc/" + n.pid + "/ns/pid")
	if err != nil {
		return nil, fmt.Errorf("memory of the node: %w", err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	memory := map[string]int64{}
	for _, process := range processes {
		// An error means that the process has ended, or is no process of the node.
		if space, err := os.Readlink(process + "/ns/pid"); err != nil || space != own {
			continue
		}
		line, err := os.ReadFile(process + "/cmdline")
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(string(line), "\x00")
		statm, err := os.ReadFile(process + "/statm")
		var size, resident int64
		if err == nil {
			_, err = fmt.Sscan(string(statm), &size, &resident)
		}
		if name = filepath.Base(name); err == nil && slices.Contains(nodeProgramNames, name) {
			memory[name] += resident * int64(os.Getpagesize())
		}
	}
	return memory, nil
}

// command runs a program until ctx or the node ends.
func (n *Node) command(ctx context.Context, name, input string, argv []string) (string, error) {
	ctx, cancel := n.bound(ctx)
	defer cancel()
	runtime.LockOSThread() // see runToItsEnd
	defer runtime.UnlockOSThread()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = n.environment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.SysProcAttr, cmd.WaitDelay = ChildAttr(), time.Second
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// bound returns a context that also ends with the node or one of its programs.
func (n *Node) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.failed, func() { cancel(context.Cause(n.failed)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// environment has nothing of this process's: no proxy, and no kubeconfig of its user.
func (n *Node) environment() []string {
	path := []string{
		n.programs.kube, n.programs.containerd, n.programs.etcd, os.Getenv("PATH"),
		"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
	}
	return []string{"PATH=" + strings.Join(path, ":"), "HOME=" + n.file("home"), "TMPDIR=" + n.file("tmp")}
}

func (n *Node) file(name ...string) string {
	return filepath.Join(append([]string{n.folder.path}, name...)...)
}
