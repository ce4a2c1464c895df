package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// NetworkKind is a way to connect the servers of a Stack and its replicas.
type NetworkKind string

// The kinds of networks.
const (
	// Loopback is one host for all. Nothing can be cut.
	Loopback NetworkKind = ""
	// Namespaces make each server and each replica a host of its own, whose packets can
	// be dropped. They need root, and the programs ip and nft.
	Namespaces NetworkKind = "namespaces"
	// Relays are TCP relays in this process, by which each replica reaches each server
	// and the other replicas. Servers reach each other without relays.
	Relays NetworkKind = "relays"
)

// BestNetwork returns the kind of network that this machine can have: Namespaces, or
// else Relays and the reason, for a report.
func BestNetwork() (kind NetworkKind, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), trialTimeout)
	defer cancel()
	if err := checkNamespaces(ctx); err != nil {
		return Relays, err.Error()
	}
	return Namespaces, ""
}

// Network connects the parties of a Stack: "mysql-1", "etcd-1", "replica-1" and so on.
// It breaks the paths between them, each in one direction: what is sent gets lost, and
// no connection is closed by it. This process always reaches every party. A Network is
// safe for concurrent use.
type Network struct {
	hosts     *hosts // nil with Relays
	delayEtcd bool

	mu      sync.Mutex
	parties map[string]string // names by the addresses that replicas connect to
	relays  map[path]*relay   // by who connects to whom; replicas share those to one replica
	forward map[string]*relay // to a replica
	ports   []*Port           // behind forward
	lost    map[path]int      // percent, with Namespaces
}

// path leads from the party that sends, or connects, to another.
type path struct{ from, to string }

func startNetwork(ctx context.Context, cfg Config) (_ *Network, err error) {
	n := &Network{delayEtcd: cfg.DelayEtcd, parties: map[string]string{}, relays: map[path]*relay{}, forward: map[string]*relay{}, lost: map[path]int{}}
	switch cfg.Network {
	case Loopback:
		return nil, nil
	case Relays:
		return n, nil
	case Namespaces:
	default:
		return nil, fmt.Errorf("unknown kind of network %q", cfg.Network)
	}
	if cfg.TLS != nil {
		return nil, errors.New("TLS is not supported with network namespaces: the certificates are for one address")
	}
	n.hosts, err = startHosts(ctx, freeNet)
	return n, err
}

// String names the kind, for reports.
func (n *Network) String() string {
	if n.hosts == nil {
		return "TCP relays"
	}
	return "network namespaces"
}

// Cut loses everything that from sends to to, until Heal. The other direction keeps
// working; for TCP that is of little use, as nothing is acknowledged.
//
// With Relays, all replicas connect to one address of a replica. There, a cut between
// two replicas cuts every link that has the same direction: those of other replicas to
// the address of to, and from the address of from. With two replicas it is exact.
func (n *Network) Cut(ctx context.Context, from, to string) error {
	if n.hosts != nil {
		return n.Lose(ctx, from, to, 100)
	}
	return n.each(from, to, (*way).sever)
}

// CutBoth cuts both directions.
func (n *Network) CutBoth(ctx context.Context, a, b string) error {
	if err := n.Cut(ctx, a, b); err != nil {
		return err
	}
	return n.Cut(ctx, b, a)
}

// CutOff cuts one party off from others, in both directions.
func (n *Network) CutOff(ctx context.Context, party string, others ...string) error {
	for _, other := range others {
		if err := n.CutBoth(ctx, party, other); err != nil {
			return err
		}
	}
	return nil
}

// Lose loses that share of the packets that from sends to to. It needs Namespaces.
func (n *Network) Lose(ctx context.Context, from, to string, percent int) error {
	if n.hosts == nil {
		return errors.New("TCP relays lose no packets: that needs network namespaces")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, party := range []string{from, to} {
		if n.hosts.named[party] == nil {
			return fmt.Errorf("no host is called %q", party)
		}
	}
	n.lost[path{from, to}] = percent
	host, _ := n.loss(path{from, to})
	return n.applyLoss(ctx, host)
}

// Delay makes what from sends to to arrive later by d: the round trip takes d more. The
// path must have relays: any of a replica with Relays, with the same limits as in Cut;
// with Namespaces, those between replicas and etcd with Config.DelayEtcd.
func (n *Network) Delay(_ context.Context, from, to string, d time.Duration) error {
	return n.each(from, to, func(w *way) { w.slow(d) })
}

// Heal ends all cuts, losses and delays.
func (n *Network) Heal(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.relays {
		r.there.heal()
		r.back.heal()
	}
	if n.hosts == nil {
		return nil
	}
	clear(n.lost)
	group, ctx := errgroup.WithContext(ctx)
	for name := range n.hosts.named {
		group.Go(func() error { return n.applyLoss(ctx, name) })
	}
	return group.Wait()
}

// each calls do for the way of the relay on the path.
func (n *Network) each(from, to string, do func(*way)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	there, back := n.relays[path{from, to}], n.relays[path{to, from}]
	if there == nil && back == nil {
		return fmt.Errorf("there is no relay on the path from %q to %q", from, to)
	}
	if there != nil {
		do(&there.there)
	}
	if back != nil {
		do(&back.back)
	}
	return nil
}

// loss returns which packets belong to a path, and the host that loses them: the one
// that receives them, or the replica if a relay stands between the two.
func (n *Network) loss(p path) (host string, l loss) {
	l.percent = n.lost[p]
	if r := n.relays[p]; r != nil {
		l.match, l.sent = "ip daddr "+n.hosts.gateway()+" tcp dport "+portOf(r.addr), true
		return p.from, l
	}
	l.match = "ip saddr " + n.hosts.ipOf[p.from]
	if r := n.relays[path{p.to, p.from}]; r != nil {
		l.match = "ip saddr " + n.hosts.gateway() + " tcp sport " + portOf(r.addr)
	}
	return p.to, l
}

// applyLoss makes a host lose what n.lost says.
func (n *Network) applyLoss(ctx context.Context, host string) error {
	var all []loss
	for p := range n.lost {
		if at, l := n.loss(p); at == host {
			all = append(all, l)
		}
	}
	return n.hosts.lose(ctx, host, all)
}

// place is where a party listens.
type place struct {
	addrs []string // one for each port
	ports []*Port  // reserved, unless the party has a host of its own
	enter []string // the prefix of its command line
}

// place finds a place for a server. Replicas connect to the first of its ports, which
// are as given if it has a host of its own.
func (n *Network) place(ctx context.Context, party string, ports ...int) (at place, err error) {
	if n != nil && n.hosts != nil {
		return n.placeOnHost(ctx, party, ports...)
	}
	if at.ports, err = ReservePorts(len(ports)); err != nil {
		return at, err
	}
	for _, port := range at.ports {
		at.addrs = append(at.addrs, port.Addr)
	}
	if n != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.parties[at.addrs[0]] = party
	}
	return at, nil
}

func (n *Network) placeOnHost(ctx context.Context, party string, ports ...int) (at place, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.hosts.add(ctx, party); err != nil {
		return at, err
	}
	at.enter = n.hosts.named[party].enter()
	for _, port := range ports {
		at.addrs = append(at.addrs, net.JoinHostPort(n.hosts.ipOf[party], strconv.Itoa(port)))
	}
	n.parties[at.addrs[0]] = party
	return at, nil
}

// subnet is where all servers are.
func (n *Network) subnet() string {
	if n != nil && n.hosts != nil {
		return n.hosts.subnet()
	}
	return "127.0.0.0/8"
}

// replicaPort is a replica's port on a host of its own.
const replicaPort = 8080

// StartFleet is the function StartFleet for replicas that use the servers of the stack:
// it puts them on its network. Their names are replica-1 and so on, also in a later
// fleet. There must be one fleet at a time.
//
// config must leave Addr empty. To have profiles on a host of its own, a replica takes
// --pprof-addr=:PORT; the host is that of its URL.
func (s *Stack) StartFleet(ctx context.Context, n int, config func(i int) ReplicaConfig) (*Fleet, error) {
	cfgs := make([]ReplicaConfig, n)
	for i := range cfgs {
		cfgs[i] = config(i)
		if s.Network == nil {
			continue
		}
		if err := s.Network.connect(ctx, replicaName(i), &cfgs[i]); err != nil {
			return nil, fmt.Errorf("connect %s: %w", replicaName(i), err)
		}
	}
	if s.Network != nil {
		s.Network.pair(n)
	}
	return StartFleet(ctx, n, func(i int) ReplicaConfig { return cfgs[i] })
}

// connect makes a replica use the network.
func (n *Network) connect(ctx context.Context, replica string, cfg *ReplicaConfig) error {
	if n.hosts != nil {
		at, err := n.placeOnHost(ctx, replica, replicaPort)
		if err != nil {
			return err
		}
		cfg.enter, cfg.Addr = at.enter, at.addrs[0]
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	through := func(text string) string {
		return address.ReplaceAllStringFunc(text, func(addr string) string {
			to := n.parties[addr]
			isRelayed := n.hosts == nil || n.delayEtcd && strings.HasPrefix(to, "etcd-")
			if to == "" || !isRelayed {
				return addr
			}
			r, err := n.relay(replica, to, addr)
			if err != nil {
				errs = append(errs, err)
				return addr
			}
			return r.addr
		})
	}
	cfg.MySQLDSN = through(cfg.MySQLDSN)
	cfg.EtcdEndpoints, cfg.Args = slices.Clone(cfg.EtcdEndpoints), slices.Clone(cfg.Args)
	for _, list := range [][]string{cfg.EtcdEndpoints, cfg.Args} {
		for i := range list {
			list[i] = through(list[i])
		}
	}
	if n.hosts == nil && n.forward[replica] == nil {
		port, err := ReservePort()
		if err != nil {
			return err
		}
		n.ports = append(n.ports, port)
		if n.forward[replica], err = newRelay(loopback, port.Addr); err != nil {
			return err
		}
	}
	if r := n.forward[replica]; r != nil {
		cfg.Args = append(cfg.Args, "--forward-addr="+r.target, "--forward-advertise="+r.addr)
	}
	return errors.Join(errs...)
}

// address matches the addresses of this package in a DSN, a URL or a flag.
var address = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+:\d+`)

// relay returns the relay by which a replica connects to a server.
func (n *Network) relay(replica, server, addr string) (r *relay, err error) {
	p := path{replica, server}
	if n.relays[p] == nil {
		host := loopback
		if n.hosts != nil {
			host = n.hosts.gateway()
		}
		if n.relays[p], err = newRelay(host, addr); err != nil {
			delete(n.relays, p)
		}
	}
	return n.relays[p], err
}

// pair makes the paths between replicas known.
func (n *Network) pair(replicas int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range replicas {
		for j := range replicas {
			if r := n.forward[replicaName(j)]; r != nil && i != j {
				n.relays[path{replicaName(i), replicaName(j)}] = r
			}
		}
	}
}

func (n *Network) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	closed := map[*relay]bool{}
	for _, r := range slices.AppendSeq(slices.Collect(maps.Values(n.relays)), maps.Values(n.forward)) {
		if !closed[r] {
			r.close()
			closed[r] = true
		}
	}
	if n.hosts != nil {
		n.hosts.stop()
	}
}
