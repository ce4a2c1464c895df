// Package sandbox runs private servers for demonstrations, tests and load runs:
// MySQL or MariaDB, etcd, and replicas of the service, each a child process on a free
// loopback port, with its data in one temporary folder.
//
// A server answers queries when Start returns. It is as durable as in production:
// it syncs every commit to disk. It ends with Stop, or with this process, however
// that ends. The package never touches a server that it did not start.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Config says which servers a Stack has.
type Config struct {
	// Dir holds the servers' data and logs. It must be empty or not exist yet; Stop
	// keeps it. With "" it is a temporary folder, which Stop removes. Syncing to disk
	// means little if that folder is in memory; set TMPDIR to move it.
	Dir string
	// MySQL asks for a database server.
	MySQL bool
	// Database is the product. "" is the value of FLASHSALE_TEST_DATABASE, else MySQL
	// if it is installed, else MariaDB.
	Database Product
	// MySQLNodes is the number of database servers: 0 or 1 for a single server, 2 or 3
	// for a Cluster. A group of MySQL needs 3.
	MySQLNodes int
	// Network connects the servers, and the replicas of Stack.StartFleet.
	Network NetworkKind
	// DelayEtcd makes replicas reach etcd by relays also with Namespaces: Network.Delay
	// needs them.
	DelayEtcd bool
	// MySQLDisk is the size of the disk of a single database server, in MiB, which
	// MySQL.FillDisk fills. The disk is in memory. It needs root; 256 suffice. 0 is the
	// disk of Dir.
	MySQLDisk int
	// FakeClock gives a single database server a clock that MySQL.JumpClock steps. It
	// needs root and libfaketime.
	FakeClock bool
	// MaxConnections is the most clients of the database; 0 is 500.
	MaxConnections int
	// EtcdNodes is the size of the etcd cluster: 0 for none, else 1 or 3.
	EtcdNodes int
	// EtcdQuota is the most bytes of etcd's database; 0 is etcd's default.
	EtcdQuota int64
	// EtcdProgram is the start of a command that calls etcdnode.Main and so serves one
	// node. nil is the hidden command etcd-node of this executable: importing this
	// package does not link the etcd server.
	EtcdProgram []string
	// TLS makes the servers accept only TLS with a client certificate of its CA; nil is
	// plain text.
	TLS *TLS
}

// Stack is a set of running servers.
type Stack struct {
	// MySQL is nil if none was asked for. In a Cluster it is the first server.
	MySQL *MySQL
	// Cluster is nil unless there are several database servers.
	Cluster *Cluster
	// Etcd are the nodes of one cluster.
	Etcd []*Etcd
	// Network is nil with Loopback.
	Network *Network

	folder *folder
	stop   sync.Once
}

// Start starts all servers at the same time and returns when each has answered a
// query. On an error it stops those that it started. ctx bounds only the start; the
// servers run until Stop.
func Start(ctx context.Context, cfg Config) (*Stack, error) {
	folder, err := openFolder(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the servers' folder: %w", err)
	}
	s := &Stack{folder: folder}
	if err := s.start(ctx, cfg); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Dir returns the folder with the servers' data and logs.
func (s *Stack) Dir() string { return s.folder.path }

// Database describes the database for people: product, version and number of servers.
func (s *Stack) Database() string {
	if s.Cluster == nil {
		return s.MySQL.Version
	}
	return fmt.Sprintf("%s, %d servers with %s", s.MySQL.Version, len(s.Cluster.Nodes), s.Cluster.Kind())
}

// CreateDatabase creates an empty database and returns its DSN, which lists all
// servers of a Cluster. All servers must be up.
func (s *Stack) CreateDatabase(ctx context.Context, name string) (dsn string, err error) {
	dsn, err = s.MySQL.CreateDatabase(ctx, name)
	if err == nil && s.Cluster != nil {
		dsn = s.Cluster.DSN(name)
	}
	return dsn, err
}

// CreateAccount creates an account that has only the service's rights on a database, and
// returns its DSN, which lists all servers of a Cluster. All servers must be up. Unlike the
// account of CreateDatabase, it cannot write while a server is read-only.
func (s *Stack) CreateAccount(ctx context.Context, database, name string) (dsn string, err error) {
	if err := s.MySQL.createAccount(ctx, database, name); err != nil {
		return "", fmt.Errorf("create account %s: %w", name, err)
	}
	dsn = s.MySQL.DSN(database)
	if s.Cluster != nil {
		dsn = s.Cluster.DSN(database)
	}
	return name + strings.TrimPrefix(dsn, mysqlUser), nil
}

// EtcdEndpoints returns the client URLs of all etcd nodes.
func (s *Stack) EtcdEndpoints() []string {
	endpoints := make([]string, len(s.Etcd))
	for i, node := range s.Etcd {
		endpoints[i] = node.Endpoint
	}
	return endpoints
}

// Stop ends the servers and removes a temporary folder. It takes a fraction of a
// second, at most ten seconds. Further calls do nothing.
func (s *Stack) Stop() {
	s.stop.Do(func() {
		// etcd nodes are killed: they have synced what they acknowledged, and a leader
		// that is asked to end would try for seven seconds to pass its role to a node
		// that ends as well.
		for _, node := range s.Etcd {
			if !node.Shared() {
				node.Kill()
			}
		}
		switch {
		case s.Cluster != nil:
			s.Cluster.stop()
		case s.MySQL == nil:
		case s.MySQL.Shared():
			s.MySQL.dropCreated()
		default:
			_ = s.MySQL.Stop(context.Background()) // an error means that it was killed, which is fine here
			s.MySQL.unmount()
		}
		if s.Network != nil {
			s.Network.stop()
		}
		_ = s.folder.remove() // Left reports it, and the next sweep removes it
	})
}

// Left returns what Stop has left behind: the temporary folder, this machine's interface in
// the network, and the processes that hold namespaces. The system removes an interface a
// moment after the end of its network: ask again before you call it a fault.
func (s *Stack) Left() (left []string) {
	if s.folder.owner != nil {
		if _, err := os.Stat(s.folder.path); !errors.Is(err, fs.ErrNotExist) {
			left = append(left, "folder "+s.folder.path)
		}
	}
	var held []*namespace
	if s.MySQL != nil {
		held = append(held, s.MySQL.mounts)
	}
	if s.Network != nil && s.Network.hosts != nil {
		h := s.Network.hosts
		held = slices.AppendSeq(append(held, h.hub), maps.Values(h.named))
		// Another process may have an interface with the same name by now.
		if i, err := net.InterfaceByIndex(h.index); err == nil && i.Name == h.ours() {
			left = append(left, "interface "+i.Name)
		}
	}
	for _, n := range held {
		if n != nil && n.holder.current().running() {
			left = append(left, "holder of a "+n.kind+" namespace, process "+n.pid())
		}
	}
	return left
}

func (s *Stack) start(ctx context.Context, cfg Config) error {
	if cfg.EtcdNodes != 0 && cfg.EtcdNodes != 1 && cfg.EtcdNodes != 3 {
		return fmt.Errorf("%d etcd nodes are not supported: must be 0, 1 or 3", cfg.EtcdNodes)
	}
	var err error
	if s.Network, err = startNetwork(ctx, cfg); err != nil {
		return err
	}
	nodes, err := planEtcd(ctx, s.folder.path, cfg, s.Network)
	if err != nil {
		return err
	}
	etcd := make([]*Etcd, len(nodes))
	group, ctx := errgroup.WithContext(ctx)
	switch {
	case !cfg.MySQL:
	case cfg.MySQLNodes > 1:
		group.Go(func() (err error) {
			if s.Cluster, err = startCluster(ctx, s.folder.path, cfg, s.Network); err == nil {
				s.MySQL = s.Cluster.Nodes[0]
			}
			return err
		})
	default:
		group.Go(func() (err error) {
			s.MySQL, err = startMySQL(ctx, s.folder.path, cfg, s.Network)
			return err
		})
	}
	for i, node := range nodes {
		group.Go(func() (err error) {
			etcd[i], err = node.start(ctx)
			return err
		})
	}
	err = group.Wait()
	for _, node := range etcd {
		if node != nil {
			s.Etcd = append(s.Etcd, node)
		}
	}
	return err
}
