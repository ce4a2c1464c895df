package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"flashsale/internal/sleep"
)

// hosts are network namespaces, connected by one switch to each other and to this
// machine. The switch has a namespace, too.
type hosts struct {
	net    int        // the subnet, from 198.18.0.0/15, which is reserved for benchmarks
	index  int        // of this machine's own interface
	hub    *namespace // the switch's
	named  map[string]*namespace
	ipOf   map[string]string
	places int
}

// namespace exists while its holder runs, and so never outlives this process.
type namespace struct {
	kind   string // "net" or "mount"
	holder *Process
}

const (
	// holds is what a holder prints once it has its namespace.
	holds = "holds"
	// trialTimeout bounds the trial of namespaces. It takes some milliseconds.
	trialTimeout = 10 * time.Second
)

// trial does in a namespace of its own what hosts need.
const trial = `unshare --net sh -ec "ip link add left type veth peer name right; ip link add switch type bridge
nft 'table ip trial { chain in { type filter hook input priority 0; ip saddr 198.18.0.1 numgen random mod 100 < 2 drop; }; }'"`

// checkNamespaces returns why hosts cannot be made here, or nil.
func checkNamespaces(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can create network namespaces")
	}
	for _, program := range []struct{ name, from string }{{"ip", "iproute2"}, {"nft", "nftables"}} {
		if _, err := findProgram(program.name, source{"scripts/setup --nftables", program.from}); err != nil {
			return err
		}
	}
	return shell(ctx, "try network namespaces", trial)
}

// startHosts creates a network without hosts. choose returns the number of a subnet.
func startHosts(ctx context.Context, choose func() (int, error)) (_ *hosts, err error) {
	if err := checkNamespaces(ctx); err != nil {
		return nil, err
	}
	h := &hosts{named: map[string]*namespace{}, ipOf: map[string]string{}}
	defer func() {
		if err != nil {
			h.stop()
		}
	}()
	if h.hub, err = unshare(ctx, "net", "", "sh"); err != nil {
		return nil, err
	}
	// Another process may have chosen the same subnet. Only one of them can add the interface.
	for range netTries {
		if h.net, err = choose(); err != nil {
			return nil, err
		}
		if err = shell(ctx, "connect the hosts", "ip link add "+h.ours()+" type veth peer name uplink netns "+h.hub.pid()); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	ours := h.ours()
	added, err := net.InterfaceByName(ours)
	if err != nil {
		return nil, err
	}
	h.index = added.Index
	return h, shell(ctx, "set up the switch of the hosts",
		"ip address add "+h.gateway()+"/24 dev "+ours, "ip link set "+ours+" up",
		h.hub.at("ip link add switch type bridge"), h.hub.at("ip link set switch up"), h.hub.at("ip link set uplink master switch up"))
}

// add adds a host, unless there is one of that name.
func (h *hosts) add(ctx context.Context, name string) (err error) {
	if h.named[name] != nil {
		return nil
	}
	if h.places++; h.places > maxHosts {
		return fmt.Errorf("a network has at most %d hosts", maxHosts)
	}
	n, err := unshare(ctx, "net", "", "sh")
	if err != nil {
		return err
	}
	ip, port := h.prefix()+strconv.Itoa(h.places), fmt.Sprintf("port%d", h.places)
	h.named[name], h.ipOf[name] = n, ip
	return shell(ctx, "set up the host of "+name,
		h.hub.at("ip link add "+port+" type veth peer name eth0 netns "+n.pid()), h.hub.at("ip link set "+port+" master switch up"),
		n.at("ip address add "+ip+"/24 dev eth0"), n.at("ip link set eth0 up"), n.at("ip link set lo up"))
}

// loss is a share of the packets that a host sends to, or receives from, an address.
type loss struct {
	match   string // in the words of nft
	sent    bool   // or else received
	percent int
}

// lose replaces what the host loses. No packet is answered: to both sides it looks as
// if the network had lost it.
func (h *hosts) lose(ctx context.Context, name string, all []loss) error {
	hooks := map[bool][]string{}
	for _, l := range all {
		rule := l.match + " drop"
		if l.percent < 100 {
			rule = fmt.Sprintf("%s numgen random mod 100 < %d drop", l.match, l.percent)
		}
		hooks[l.sent] = append(hooks[l.sent], rule)
	}
	rules := fmt.Sprintf("table ip loss\ndelete table ip loss\ntable ip loss {\nchain in {\ntype filter hook input priority 0\n%s\n}\nchain out {\ntype filter hook output priority 0\n%s\n}\n}",
		strings.Join(hooks[false], "\n"), strings.Join(hooks[true], "\n"))
	return shell(ctx, "set what "+name+" loses", h.named[name].at("nft -f - <<'END'\n"+rules+"\nEND"))
}

func (h *hosts) stop() {
	if h.hub != nil {
		h.hub.holder.Kill()
	}
	for _, n := range h.named {
		n.holder.Kill()
	}
}

const (
	// maxHosts leaves addresses for the gateway and the broadcast.
	maxHosts = 250
	// nets is the number of subnets. netTries are enough: two processes seldom choose the
	// same one of so many.
	nets     = 512
	netTries = 5
)

// freeNet returns the number of a subnet that this machine does not use.
func freeNet() (int, error) {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return 0, err
	}
	for _, n := range rand.Perm(nets) {
		if !slices.ContainsFunc(taken, func(a net.Addr) bool { return strings.HasPrefix(a.String(), (&hosts{net: n}).prefix()) }) {
			return n, nil
		}
	}
	return 0, errors.New("every subnet of 198.18.0.0/15 is in use")
}

// ours names this machine's own interface in the network. A name has at most 15 letters.
func (h *hosts) ours() string { return fmt.Sprintf("fs%d", h.net) }

func (h *hosts) prefix() string { return fmt.Sprintf("198.%d.%d.", 18+h.net/256, h.net%256) }
func (h *hosts) subnet() string { return h.prefix() + "0/24" }

// gateway is this machine's own address in the network.
func (h *hosts) gateway() string { return h.prefix() + "254" }

// unshare creates a namespace of the given kind and runs a script in it, with the
// argument $0.
func unshare(ctx context.Context, kind, script, arg string) (*namespace, error) {
	holder, err := StartProcess(ctx, ProcessConfig{Name: "unshare", Argv: []string{"unshare", "--" + kind, "sh", "-ec", script + "\necho " + holds + "\nexec sleep infinity", arg}})
	if err != nil {
		return nil, err
	}
	for holder.LogTail(1) != holds {
		if !holder.current().running() {
			return nil, fmt.Errorf("unshare --%s failed; its output ends:\n%s", kind, lastLines(holder.LogTail(tailLines), tailLines))
		}
		if err := sleep.For(ctx, readyPause); err != nil {
			holder.Kill()
			return nil, err
		}
	}
	return &namespace{kind, holder}, nil
}

func (n *namespace) pid() string { return strconv.Itoa(n.holder.Pid()) }

// enter is the prefix of a command that runs in the namespace.
func (n *namespace) enter() []string {
	file := map[string]string{"net": "net", "mount": "mnt"}[n.kind]
	return []string{"nsenter", fmt.Sprintf("--%s=/proc/%d/ns/%s", n.kind, n.holder.Pid(), file)}
}

// at makes a shell command run in a network namespace.
func (n *namespace) at(command string) string {
	return strings.Join(n.enter(), " ") + " " + command
}

func shell(ctx context.Context, what string, commands ...string) error {
	script := "PATH=$PATH:/usr/sbin:/sbin\n" + strings.Join(commands, "\n")
	return runToItsEnd(ctx, what, []string{"sh", "-ec", script}, os.TempDir())
}
