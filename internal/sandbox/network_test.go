package sandbox_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// kinds are the networks of this machine.
func kinds(t *testing.T) []sandbox.NetworkKind {
	t.Helper()
	tier.OnlyTestAll(t, "nftables, to cut networks")
	best, why := sandbox.BestNetwork()
	if best == sandbox.Namespaces {
		return []sandbox.NetworkKind{best, sandbox.Relays}
	}
	if why := namespacesRefused(); why != "" {
		t.Run(string(sandbox.Namespaces), func(t *testing.T) { tier.LeaveOut(t, why) })
		return []sandbox.NetworkKind{best}
	}
	if os.Geteuid() == 0 {
		t.Fatalf("root must be able to test network namespaces: %s", why)
	}
	t.Log("network namespaces are not tested:", why)
	return []sandbox.NetworkKind{best}
}

// namespacesRefused returns what tests of namespaces need where the kernel refuses them to
// root, as in a container without privileges, or "". A missing program is no such reason.
func namespacesRefused() string {
	_, why := sandbox.BestNetwork()
	if os.Geteuid() != 0 || !strings.HasPrefix(why, "try network namespaces: ") {
		return ""
	}
	return "the right to create namespaces: " + strings.Join(strings.Fields(why), " ")
}

// TestPathsAreCutOneByOne: a path that is not cut keeps working.
func TestPathsAreCutOneByOne(t *testing.T) {
	for _, kind := range kinds(t) {
		t.Run(string(kind), func(t *testing.T) {
			ctx := t.Context()
			stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1, Network: kind, DelayEtcd: true})
			probers := startProbers(t, stack)
			reach := func(when, broken string) {
				t.Helper()
				for _, path := range []struct{ from, to int }{{0, toMySQL}, {1, toMySQL}, {0, toEtcd}, {1, toEtcd}, {0, 1}, {1, 0}} {
					name := fmt.Sprintf("%d-%d", path.from, path.to)
					if !slices.Contains(strings.Fields(broken), name) {
						sandboxtest.Eventually(t, "path "+name+" to work "+when, func() bool { return probers.reaches(path.from, path.to) })
					} else if probers.reaches(path.from, path.to) {
						t.Errorf("path %s works %s", name, when)
					}
				}
			}
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			heal := func() {
				t.Helper()
				check(stack.Network.Heal(ctx))
			}
			reach("at first", "")
			for _, cut := range []struct{ from, to, broken string }{
				{"replica-1", "mysql-1", "0--1"},
				{"mysql-1", "replica-1", "0--1"},
				{"replica-2", "etcd-1", "1--2"},
				{"etcd-1", "replica-2", "1--2"},
			} {
				check(stack.Network.Cut(ctx, cut.from, cut.to))
				reach("with a cut from "+cut.from+" to "+cut.to, cut.broken)
				heal()
			}
			check(stack.Network.CutBoth(ctx, "replica-1", "replica-2"))
			reach("with a cut between the replicas", "0-1 1-0")
			heal()
			reach("after healing", "")

			const delay = 300 * time.Millisecond
			fastest := func(from int) time.Duration { // a busy machine may delay some, but not all
				return min(probers.takes(from, toEtcd), probers.takes(from, toEtcd), probers.takes(from, toEtcd))
			}
			check(stack.Network.Delay(ctx, "replica-1", "etcd-1", delay))
			slow, fast := probers.takes(0, toEtcd), fastest(1)
			if slow < delay || fast > delay {
				t.Errorf("with %s from replica-1 to etcd: replica-1 waits %s, replica-2 %s", delay, slow, fast)
			}
			heal()
			if took := fastest(0); took > delay {
				t.Errorf("after healing, replica-1 waits %s for etcd", took)
			}

			if err := stack.Network.Cut(ctx, "replica-1", "mysql-9"); err == nil {
				t.Error("a party that does not exist was cut off")
			}
			if kind == sandbox.Relays {
				if err := stack.Network.Lose(ctx, "replica-1", "mysql-1", 2); err == nil || !strings.Contains(err.Error(), "network namespaces") {
					t.Errorf("loss with relays: got %v, want an error that names what it needs", err)
				}
				return
			}
			const sent = 200 // as many as the receiver's buffer holds
			for _, tt := range []struct {
				percent, least, most int
			}{{100, 0, 0}, {30, 100, 180}, {0, sent, sent}} {
				check(stack.Network.Lose(ctx, "replica-1", "replica-2", tt.percent))
				if got := probers.receives(0, 1, sent); got < tt.least || got > tt.most {
					t.Errorf("replica-2 received %d of %d packets with a loss of %d %%", got, sent, tt.percent)
				}
				if got := probers.receives(1, 0, sent); got != sent {
					t.Errorf("replica-1 received %d of %d packets with a loss in the other direction", got, sent)
				}
			}
		})
	}
}

// TestReplicasRunOnTheNetwork starts real replicas, of which one loses its database.
func TestReplicasRunOnTheNetwork(t *testing.T) {
	for _, kind := range kinds(t) {
		t.Run(string(kind), func(t *testing.T) {
			stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1, Network: kind})
			dsn, err := stack.CreateDatabase(t.Context(), "flashsale")
			if err != nil {
				t.Fatal(err)
			}
			cfg := sandbox.ReplicaConfig{Program: sandboxtest.Build(t, "api"), MySQLDSN: dsn, EtcdEndpoints: stack.EtcdEndpoints()}
			fleet, err := stack.StartFleet(t.Context(), 2, func(int) sandbox.ReplicaConfig { return cfg })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := fleet.Stop(); err != nil {
					t.Error(err)
				}
			})
			if err := stack.Network.CutBoth(t.Context(), "replica-1", "mysql-1"); err != nil {
				t.Fatal(err)
			}
			ready := func(i int) bool { _, ok := get(t, fleet.URLs()[i]+"/readyz", 5*time.Second); return ok }
			sandboxtest.Eventually(t, "replica-1 to notice that it has no database", func() bool { return !ready(0) })
			if !ready(1) {
				t.Error("replica-2 is not ready though only replica-1 is cut off")
			}
			if err := stack.Network.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
			sandboxtest.Eventually(t, "replica-1 to have its database again", func() bool { return ready(0) })
		})
	}
}

// TestNothingOfANetworkIsLeft also kills a process that has cut its network.
func TestNothingOfANetworkIsLeft(t *testing.T) {
	if kinds(t)[0] != sandbox.Namespaces {
		return // relays are part of this process
	}
	for _, end := range []string{"Stop", "kill"} {
		parent := startParent(t, string(sandbox.Namespaces))
		inside := interfaceOf(parent.Addr)
		if inside == "" {
			t.Fatalf("no interface leads to %s", parent.Addr)
		}
		children := childrenOf(parent.cmd.Process.Pid)
		if len(children) != 6 { // those that hold the switch, two hosts and the mounts; two servers
			t.Fatalf("the parent has the children %v", children)
		}
		parent.end(t, end)
		gone := func() bool { return interfaceOf(parent.Addr) == "" && !slices.ContainsFunc(children, runs) }
		sandboxtest.Eventually(t, "interface "+inside+" and all processes to be gone after "+end, gone)
	}
}

// interfaceOf returns the name of the interface that leads to an address.
func interfaceOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	all, _ := net.Interfaces()
	for _, i := range all {
		nets, _ := i.Addrs()
		for _, n := range nets {
			if n, ok := n.(*net.IPNet); ok && n.Contains(net.ParseIP(host)) {
				return i.Name
			}
		}
	}
	return ""
}

// childrenOf returns the processes whose parent is pid.
func childrenOf(pid int) (children []int) {
	out, _ := exec.Command("pgrep", "--parent", strconv.Itoa(pid)).Output()
	for _, child := range strings.Fields(string(out)) {
		n, _ := strconv.Atoi(child)
		children = append(children, n)
	}
	return children
}

// Where a prober can connect to, beside other probers, which are numbered from 0.
const toMySQL, toEtcd = -1, -2

// probers are programs in place of replicas that try to reach others.
type probers struct {
	*testing.T
	urls  []string
	knows []probed
}

// probed is what a prober was told.
type probed struct{ MySQL, Etcd, Self string }

func startProbers(t *testing.T, stack *sandbox.Stack) *probers {
	t.Helper()
	fleet, err := stack.StartFleet(t.Context(), 2, func(int) sandbox.ReplicaConfig {
		return sandbox.ReplicaConfig{
			Command: []string{os.Args[0]}, Env: []string{roleVar + "=prober"}, MySQLDSN: stack.MySQL.DSN(""), EtcdEndpoints: stack.EtcdEndpoints(),
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, r := range fleet.Replicas {
			r.Kill()
		}
	})
	p := &probers{T: t, urls: fleet.URLs(), knows: make([]probed, 2)}
	for i, url := range p.urls {
		body, ok := get(t, url+"/knows", 5*time.Second)
		if err := json.Unmarshal([]byte(body), &p.knows[i]); !ok || err != nil {
			t.Fatalf("prober %d: %q, %v", i, body, err)
		}
	}
	return p
}

func (p *probers) addr(from, to int) string {
	switch to {
	case toMySQL:
		return p.knows[from].MySQL
	case toEtcd:
		return p.knows[from].Etcd
	default:
		return p.knows[to].Self
	}
}

func (p *probers) reaches(from, to int) bool {
	_, ok := get(p.T, p.urls[from]+"/reach?addr="+p.addr(from, to), 5*time.Second)
	return ok
}

func (p *probers) takes(from, to int) (took time.Duration) {
	sandboxtest.Eventually(p, "a path to work", func() bool {
		began := time.Now()
		defer func() { took = time.Since(began) }()
		return p.reaches(from, to)
	})
	return took
}

// receives sends packets, each a datagram, and returns how many arrived.
func (p *probers) receives(from, to, packets int) int {
	p.Helper()
	count := func() int {
		body, _ := get(p.T, p.urls[to]+"/received", 5*time.Second)
		n, err := strconv.Atoi(body)
		if err != nil {
			p.Fatal(err)
		}
		return n
	}
	before := count()
	if _, ok := get(p.T, fmt.Sprintf("%s/send?addr=%s&packets=%d", p.urls[from], p.addr(from, to), packets), 5*time.Second); !ok {
		p.Fatal("could not send")
	}
	for last := -1; ; time.Sleep(100 * time.Millisecond) { // the last packets have no event
		if n := count(); n == last {
			return n - before
		} else {
			last = n
		}
	}
}

// get returns the body of an answer, and whether its status is 200.
func get(t *testing.T, url string, timeout time.Duration) (body string, ok bool) {
	t.Helper()
	client := http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return err.Error(), false
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err == nil && answer.StatusCode == http.StatusOK
}

var anAddress = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+:\d+`)

// beProber serves what probers need, at the addresses of a replica.
func beProber() {
	flags := map[string]string{}
	for _, arg := range os.Args[1:] {
		name, value, _ := strings.Cut(arg, "=")
		flags[name] = value
	}
	knows := probed{MySQL: anAddress.FindString(os.Getenv("FLASHSALE_MYSQL_DSN")), Etcd: anAddress.FindString(flags["--etcd-endpoints"]), Self: flags["--addr"]}
	if flags["--forward-advertise"] != "" {
		knows.Self = flags["--forward-advertise"]
		go func() { fmt.Fprintln(os.Stderr, http.ListenAndServe(flags["--forward-addr"], nil)) }()
	}
	packets, err := net.ListenPacket("udp", flags["--addr"])
	if err != nil {
		panic(err)
	}
	var received atomic.Int64
	go func() {
		for buf := make([]byte, 1); ; {
			if _, _, err := packets.ReadFrom(buf); err == nil {
				received.Add(1)
			}
		}
	}()
	http.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("GET /knows", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(knows) })
	http.HandleFunc("GET /received", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, received.Load()) })
	http.HandleFunc("GET /reach", func(w http.ResponseWriter, r *http.Request) {
		if err := reach(r.FormValue("addr")); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	http.HandleFunc("GET /send", func(w http.ResponseWriter, r *http.Request) {
		conn, err := net.Dial("udp", r.FormValue("addr"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		n, _ := strconv.Atoi(r.FormValue("packets"))
		for range n {
			_, _ = conn.Write([]byte{1})
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(flags["--addr"], nil))
	os.Exit(1)
}

// reach connects, sends a request and waits for the first byte, which any server sends.
func reach(addr string) error {
	const patience = time.Second
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET /readyz HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
