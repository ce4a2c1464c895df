package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// aService is etcd in one pod, behind a Service.
const aService = `
apiVersion: v1
kind: Service
metadata: {name: etcd}
spec: {selector: {app: etcd}, ports: [{port: 2379}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: etcd}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: etcd, labels: {app: etcd}}
spec:
  containers:
    - name: etcd
      image: flashsale.local/etcd:1
      imagePullPolicy: Never
      args: [--data-dir=/data/etcd, --listen-client-urls=http://0.0.0.0:2379, --advertise-client-urls=http://etcd.default.svc.cluster.local:2379]
      readinessProbe: {httpGet: {path: /readyz, port: 2379}, periodSeconds: 1}
      resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 512Mi}}
      securityContext:
        runAsNonRoot: true
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
        seccompProfile: {type: RuntimeDefault}
      volumeMounts: [{name: data, mountPath: /data}]
  securityContext: {fsGroup: 65532}
  volumes: [{name: data, persistentVolumeClaim: {claimName: etcd}}]
`

func TestNodeRunsAPodBehindAServiceAndLeavesNothingBehind(t *testing.T) {
	tier.OnlyTestAll(t, "a Kubernetes node")
	sandboxtest.NeedsNode(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	before := sysctls(t)
	began := time.Now()
	node := startNode(t)
	t.Logf("the node was ready after %s", time.Since(began).Round(100*time.Millisecond))
	was := newRemains(t, node.Dir())

	im, err := sandbox.EtcdImage("flashsale.local/etcd:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := node.ImportImage(t.Context(), im); err != nil {
		t.Fatal(err)
	}
	if _, err := node.KubectlInput(t.Context(), aService, "apply", "--filename=-"); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Kubectl(t.Context(), "wait", "--for=condition=Ready", "pod/etcd", "--timeout=3m"); err != nil {
		events, _ := node.Kubectl(t.Context(), "get", "events,pods,pv,pvc", "--all-namespaces")
		t.Fatal(err, events)
	}

	// From this process, by the Service's address, which DNS knows.
	ip, err := node.Kubectl(t.Context(), "get", "service/etcd", "--output=jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := node.Lookup(t.Context(), "etcd.default.svc.cluster.local"); err != nil || len(found) != 1 || found[0] != ip {
		t.Errorf("DNS has %v for the Service, %v; want %s", found, err, ip)
	}
	client := http.Client{Transport: &http.Transport{DialContext: node.Dial, DisableKeepAlives: true}}
	// kube-proxy learns a moment after kubectl that the pod is ready.
	sandboxtest.Eventually(t, "an answer at the Service's address", func() bool {
		response, err := client.Get("http://" + net.JoinHostPort(ip, "2379") + "/version")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return err == nil && strings.Contains(string(body), `"etcdserver":"3.`)
	})
	// From inside of the pod, by the Service's name.
	if said, err := node.Exec(t.Context(), "default", "etcd", "etcdctl", "--endpoints=http://etcd.default.svc.cluster.local:2379", "put", "sku", "42"); err != nil || said != "OK\n" {
		t.Errorf("put through the Service: %q, %v", said, err)
	}
	if said, err := node.Exec(t.Context(), "default", "etcd", "etcdctl", "get", "--print-value-only", "sku"); err != nil || said != "42\n" {
		t.Errorf("get in the pod: %q, %v", said, err)
	}

	memory, err := node.Memory()
	if err != nil || len(memory) != 7 {
		t.Errorf("Memory: %v, %v; want the seven programs", memory, err)
	}
	total := int64(0)
	for _, bytes := range memory {
		total += bytes
	}
	t.Logf("memory of the node's own programs: %d MB, %v", total>>20, memory)

	ending := time.Now()
	if err := node.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("the node was gone after %s", time.Since(ending).Round(100*time.Millisecond))
	if left := was.left(t); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	if after := sysctls(t); after != before {
		t.Errorf("the machine's sysctls are now\n%s, and were\n%s", after, before)
	}
	wantEmpty(t, temp)
	if _, err := node.Kubectl(t.Context(), "version"); err == nil || !strings.Contains(err.Error(), "the node was closed") {
		t.Errorf("kubectl after Close: %v", err)
	}
}

func TestNodeLeavesNothingBehindWhenItsStarterIsKilled(t *testing.T) {
	tier.OnlyTestAll(t, "a Kubernetes node")
	sandboxtest.NeedsNode(t)
	temp := t.TempDir()
	before := sysctls(t)
	t.Setenv("TMPDIR", temp)
	starter, lines := startStarter(t, "node")
	was := newRemains(t, lines[0])
	sandboxtest.Eventually(t, "what a running node has", func() bool {
		left := was.left(t)
		for _, part := range []string{"kubelet", "/coredns", "pod/never", "cgroup", "folder"} {
			if !strings.Contains(left, part) {
				return false
			}
		}
		return true
	})
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait() // it was killed
	sandboxtest.Eventually(t, "the end of the node", func() bool { return was.left(t) == "" })
	if after := sysctls(t); after != before {
		t.Errorf("the machine's sysctls are now\n%s, and were\n%s", after, before)
	}
	wantEmpty(t, temp)
}

// A node that is kept outlives its starter, and ends by the command that Keep returns.
func TestKeptNodeRunsUntilItIsEnded(t *testing.T) {
	tier.OnlyTestAll(t, "a Kubernetes node")
	sandboxtest.NeedsNode(t)
	starter, lines := startStarter(t, "kept node")
	was := newRemains(t, lines[0])
	if err := starter.Wait(); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command("sh", "-c", lines[2]+" get nodes").CombinedOutput(); err != nil || !strings.Contains(string(said), " Ready ") {
		t.Errorf("after the end of its starter: %s, %v", said, err)
	}
	if out, err := exec.Command("sh", "-c", lines[1]).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", lines[1], err, out)
	}
	sandboxtest.Eventually(t, "the end of the node", func() bool { return was.left(t) == "" })
}

func TestNodeNamesTheProgramThatHasEnded(t *testing.T) {
	tier.OnlyTestAll(t, "a Kubernetes node")
	sandboxtest.NeedsNode(t)
	node := startNode(t)
	was := newRemains(t, node.Dir())
	went := make(chan error, 1)
	go func() {
		_, err := node.Kubectl(t.Context(), "wait", "--for=create", "pod/never", "--timeout=5m")
		went <- err
	}()
	was.kill(t, "kube-scheduler")
	select {
	case err := <-went:
		if err == nil || !strings.Contains(err.Error(), "kube-scheduler ended with status 137; its log ends:") {
			t.Errorf("kubectl: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("kubectl waits for a node that has lost its scheduler")
	}
}

func TestNodeNeedsRoot(t *testing.T) {
	tier.OnlyTestAll(t, "root, to become another user")
	folder := t.TempDir()
	for _, readable := range []string{folder, filepath.Dir(folder)} { // by any user
		if err := os.Chmod(readable, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(folder, "program")
	if err := exec.Command("cp", os.Args[0], program).Run(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env, cmd.Dir = []string{roleVar + "=node", "HOME=/nonexistent", "PATH=" + os.Getenv("PATH")}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	said, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(said), "only root") || !strings.Contains(string(said), "scripts/setup --kubernetes") {
		t.Errorf("as another user: %s, %v", said, err)
	}
}

// A container without privileges, for example, cannot run a node. Its tests are left out
// there by name, and what the machine lacks is found before anything is built.
func TestNodeIsLeftOutWhereTheMachineCannotRunIt(t *testing.T) {
	tier.OnlyTestAll(t, "root, to drop a right")
	if os.Geteuid() != 0 {
		t.Log("only root has the right")
		return
	}
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const left = "TestNodeNamesTheProgramThatHasEnded"
	cmd := exec.Command("setpriv", "--bounding-set=-sys_admin", os.Args[0], "-test.run=^"+left+"$", "-test.v")
	cmd.Env = append(os.Environ(), "FLASHSALE_TEST_LEFT_OUT="+list, "FLASHSALE_TEST_EVERYTHING=yes", "XDG_CACHE_HOME="+t.TempDir())
	if said, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(said), "--- SKIP: "+left) {
		t.Errorf("without the right to create namespaces: %v, %s", err, said)
	}
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := folder + " " + left + ": a machine that can run a Kubernetes node: try its namespaces: "
	if got, err := os.ReadFile(list); err != nil || !strings.HasPrefix(string(got), want) || strings.Count(string(got), "\n") != 1 {
		t.Errorf("recorded %q, %v, want one line that starts with %q", got, err, want)
	}
}

// startStarter starts a process that starts a node, and returns what it prints.
func startStarter(t *testing.T, role string) (starter *exec.Cmd, said []string) {
	t.Helper()
	starter = exec.Command(os.Args[0])
	starter.Env, starter.Stderr = append(os.Environ(), roleVar+"="+role), os.Stderr
	starter.SysProcAttr = sandbox.ChildAttr()
	output, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(output); len(said) < 3 && lines.Scan(); {
		said = append(said, lines.Text())
	}
	if len(said) < 3 {
		t.Fatalf("the starter printed only %q: %v", said, starter.Wait())
	}
	return starter, said
}

// beNode starts a node and prints its folder, how to end it, and how to call
// kubectl. Without keep it then waits in kubectl, to be killed.
func beNode(keep bool) {
	node, err := sandbox.StartNode(context.Background())
	stop := ""
	if err == nil && keep {
		stop, err = node.Keep()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%s\n%s\n%s\n", node.Dir(), stop, strings.Join(node.KubectlCommand(), " "))
	if !keep {
		_, err := node.Kubectl(context.Background(), "wait", "--for=create", "pod/never", "--timeout=10m")
		fmt.Fprintln(os.Stderr, err)
	}
}

func startNode(t *testing.T) *sandbox.Node {
	t.Helper()
	node, err := sandbox.StartNode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Error(err)
		}
	})
	return node
}

// remains finds what a node may leave behind.
type remains struct{ folder, pid, pids string }

func newRemains(t *testing.T, folder string) remains {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(folder, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	r := remains{folder: folder, pid: strings.TrimSpace(string(pid))}
	if r.pids, err = os.Readlink("/proc/" + r.pid + "/ns/pid"); err != nil {
		t.Fatal(err)
	}
	return r
}

// left says what there is of the node: processes, also those of pods, mounts, cgroups,
// its folder, and addresses on this machine.
func (r remains) left(t *testing.T) string {
	t.Helper()
	var left strings.Builder
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		space, _ := os.Readlink(process + "/ns/pid") // an error means that it has ended
		line, _ := os.ReadFile(process + "/cmdline")
		groups, _ := os.ReadFile(process + "/cgroup")
		if space == r.pids || strings.Contains(string(line), r.folder) || strings.Contains(string(groups), filepath.Base(r.folder)) {
			fmt.Fprintf(&left, "process %s: %s\n", process, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, r.folder) {
			fmt.Fprintf(&left, "mount %s", line)
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		found, err := filepath.Glob(pattern + filepath.Base(r.folder))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			fmt.Fprintf(&left, "cgroup %s\n", path)
		}
	}
	if _, err := os.Lstat(r.folder); err == nil {
		fmt.Fprintf(&left, "folder %s\n", r.folder)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		for _, own := range []string{"10.99.", "10.96.", "10.244."} {
			if strings.HasPrefix(address.String(), own) {
				fmt.Fprintf(&left, "address %s\n", address)
			}
		}
	}
	return left.String()
}

// kill kills one of the node's programs.
func (r remains) kill(t *testing.T, program string) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		space, _ := os.Readlink(process + "/ns/pid") // an error means that it has ended
		line, _ := os.ReadFile(process + "/cmdline")
		if space == r.pids && strings.HasPrefix(string(line), program+"\x00") {
			pid, err := strconv.Atoi(filepath.Base(process))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("the node has no %s", program)
}

// sysctls are those of this machine that a kubelet, kube-proxy or container would set.
func sysctls(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward",
		"net/bridge/bridge-nf-call-iptables", "net/netfilter/nf_conntrack_max", "net/ipv4/vs/conntrack",
	} {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			value = []byte("(none)\n") // its module is not loaded
		}
		fmt.Fprintf(&all, "%s = %s", name, value)
	}
	return all.String()
}
