package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Etcd is one node of a private etcd cluster. It is ready once the cluster has a
// leader: if a majority was stopped, restart its nodes at the same time.
type Etcd struct {
	*Process
	// Name is the node's name in its cluster: "etcd-1".
	Name string
	// Endpoint is its client URL.
	Endpoint string
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
			"--cluster-token="+token)
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
	return &Etcd{Process: p, Name: n.name, Endpoint: n.client}, nil
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
	secure, err := n.tls.client()
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{n.client}, TLS: secure, Logger: zap.NewNop()})
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
