package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/sleep"
)

// Etcd is one node of a private etcd cluster. It is ready once the cluster has a
// leader: if a majority was stopped, restart its nodes at the same time.
type Etcd struct {
	*Process
	// Name is the node's name in its cluster: "etcd-1".
	Name string
	// Endpoint is its client URL.
	Endpoint string

	node etcdNode
}

// etcdNode is a node that has not been started.
type etcdNode struct {
	name, client, peer string
	ports              []*Port
	dataDir            string
	argv               []string
	log                string
	cluster            int
	tls                *TLS
}

// electionTimeout is several elections long, also on a busy machine: each takes at most
// two seconds.
const electionTimeout = 10 * time.Second

// The ports on a host of its own.
const (
	etcdClientPort, etcdPeerPort = 2379, 2380
)

// planEtcd assigns ports and arguments to n nodes: each must know all others before
// the first starts.
func planEtcd(ctx context.Context, dir string, cfg Config, network *Network) ([]etcdNode, error) {
	program, n, secure := cfg.EtcdProgram, cfg.EtcdNodes, cfg.TLS
	if len(program) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program, which serves etcd: %w", err)
		}
		program = []string{self, "etcd-node"}
	}
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	nodes := make([]etcdNode, n)
	members := make([]string, n)
	for i := range nodes {
		name := fmt.Sprintf("etcd-%d", i+1)
		at, err := network.place(ctx, name, etcdClientPort, etcdPeerPort)
		if err != nil {
			return nil, err
		}
		nodes[i] = etcdNode{
			name: name, client: scheme + at.addrs[0], peer: "http://" + at.addrs[1], ports: at.ports,
			dataDir: filepath.Join(dir, name), argv: at.enter, log: filepath.Join(dir, name+".log"), cluster: n, tls: secure,
		}
		members[i] = name + "=" + nodes[i].peer
	}
	// The cluster's id is derived from this token. It must differ between sandboxes:
	// it identifies the source of fencing tokens.
	token := Secret()
	for i := range nodes {
		nodes[i].argv = append(slices.Concat(nodes[i].argv, program),
			"--name="+nodes[i].name,
			"--data-dir="+nodes[i].dataDir,
			"--client-url="+nodes[i].client,
			"--peer-url="+nodes[i].peer,
			"--initial-cluster="+strings.Join(members, ","),
			"--cluster-token="+token,
			fmt.Sprintf("--quota=%d", cfg.EtcdQuota))
		if secure != nil {
			nodes[i].argv = append(nodes[i].argv, "--ca="+secure.CA, "--cert="+secure.Cert, "--key="+secure.Key)
		}
	}
	return nodes, nil
}

// start starts one node. All nodes must be started at the same time: a node is ready
// once the cluster has a leader.
func (n etcdNode) start(ctx context.Context) (*Etcd, error) {
	p, err := StartProcess(ctx, ProcessConfig{Name: n.name, Argv: n.argv, LogPath: n.log, Ports: n.ports, Ready: n.ready})
	if err != nil {
		return nil, err
	}
	return &Etcd{Process: p, Name: n.name, Endpoint: n.client, node: n}, nil
}

// ready is a linearizable read of the members. It needs a leader and a quorum, and
// shows that the node at our port is ours and that all nodes have joined.
func (n etcdNode) ready(ctx context.Context) error {
	// etcd's client would wait a second after a refused connection: dial first.
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.client[strings.Index(n.client, "://")+len("://"):])
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	client, err := n.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	list, err := client.MemberList(ctx)
	if errors.Is(err, rpctypes.ErrUserEmpty) {
		return nil // a restarted node on which a test has enabled authentication
	}
	if err != nil {
		return err
	}
	joined, isOurs := 0, false
	for _, member := range list.Members {
		if member.Name != "" {
			joined++
		}
		isOurs = isOurs || member.Name == n.name && slices.Contains(member.ClientURLs, n.client)
	}
	if joined < n.cluster || !isOurs {
		return fmt.Errorf("%d of %d nodes have joined the cluster", joined, n.cluster)
	}
	return nil
}

func (n etcdNode) dial() (*clientv3.Client, error) {
	secure, err := n.tls.client()
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{Endpoints: []string{n.client}, TLS: secure, Logger: zap.NewNop()})
}

// EtcdLeader returns the index of the node that leads, according to itself. It waits for
// the end of an election, at most ten seconds.
func (s *Stack) EtcdLeader(ctx context.Context) (leader int, err error) {
	ctx, cancel := context.WithTimeout(ctx, electionTimeout)
	defer cancel()
	any := func(error) bool { return true }
	err = sleep.Backoff{Min: readyPause, Max: readyPauseMax}.Retry(ctx, any, func() error {
		var errs []error
		for i, node := range s.Etcd {
			leads, err := node.node.leads(ctx)
			if leads {
				leader = i
				return nil
			}
			errs = append(errs, err)
		}
		return cmp.Or(errors.Join(errs...), errors.New("there is an election"))
	})
	if err != nil {
		return 0, fmt.Errorf("no node of etcd leads: %w", err)
	}
	return leader, nil
}

// RestartEtcd starts the nodes that do not run, at the same time: a node is ready once
// there is a leader.
func (s *Stack) RestartEtcd(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range s.Etcd {
		if !node.current().running() {
			group.Go(func() error { return node.Restart(ctx) })
		}
	}
	return group.Wait()
}

// EtcdNames returns the names of the nodes in the Network.
func (s *Stack) EtcdNames() []string {
	names := make([]string, len(s.Etcd))
	for i, node := range s.Etcd {
		names[i] = node.Name
	}
	return names
}

// leads confirms the node's role by a linearizable read: a leader that was paused or cut
// off may not know yet that there is another.
func (n etcdNode) leads(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	client, err := n.dial()
	if err != nil {
		return false, err
	}
	defer client.Close()
	if _, err := client.Get(ctx, "leader", clientv3.WithCountOnly()); err != nil {
		return false, fmt.Errorf("%s: %w", n.name, err)
	}
	status, err := client.Status(ctx, n.client)
	if err != nil {
		return false, fmt.Errorf("%s: %w", n.name, err)
	}
	return status.Leader == status.Header.MemberId, nil
}

// EtcdSnapshot saves etcd's data in a file of the stack's folder and returns its path.
func (s *Stack) EtcdSnapshot(ctx context.Context) (path string, err error) {
	client, err := s.Etcd[0].node.dial()
	if err != nil {
		return "", err
	}
	defer client.Close()
	data, err := client.Snapshot(ctx)
	if err != nil {
		return "", fmt.Errorf("snapshot of etcd: %w", err)
	}
	defer data.Close()
	file, err := os.CreateTemp(s.Dir(), "etcd-snapshot-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(file, data)
	if err = errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("snapshot of etcd: %w", err)
	}
	return file.Name(), nil
}

// EtcdRestore kills all nodes and starts them again with the data of a snapshot, at the
// same addresses. As with etcdutl, the ids of the cluster and its members stay the same,
// leases are those of the snapshot, and revisions continue from there; with bumpRevision
// a billion later, as docs/operations.md advises.
func (s *Stack) EtcdRestore(ctx context.Context, path string, bumpRevision bool) error {
	for _, node := range s.Etcd {
		node.Kill()
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range s.Etcd {
		group.Go(func() error {
			if err := os.RemoveAll(node.node.dataDir); err != nil {
				return err
			}
			restore := append(slices.Clone(node.node.argv), "--restore="+path, fmt.Sprintf("--bump-revision=%t", bumpRevision))
			if err := runToItsEnd(ctx, "restore "+node.Name, restore, s.Dir()); err != nil {
				return err
			}
			return node.Restart(ctx)
		})
	}
	return group.Wait()
}
