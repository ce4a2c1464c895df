// Package sandbox runs private servers for demonstrations, tests and load runs:
// MySQL or MariaDB, etcd, and replicas of the service, each a child process on a free
// loopback port, with its data in one temporary folder.
//
// What it starts serves queries when Start returns, is as durable as in
// production (every commit is synced to disk), and is gone after Stop, or with
// this process, whatever it dies of. It never touches a server that it has not
// started. What the servers are used for is left to others.
package sandbox

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Config says which servers a Stack has.
type Config struct {
	// Dir holds the servers' data and logs: an empty folder, or one to be made,
	// that is left behind. With "" it is a temporary folder, which Stop removes.
	// Syncing to disk means little where that is in memory; TMPDIR moves it.
	Dir string
	// MySQL asks for a database server.
	MySQL bool
	// Database is which one; "" is what FLASHSALE_TEST_DATABASE says, or MySQL
	// where its program is there, and MariaDB otherwise.
	Database Product
	// MySQLNodes is how many servers the database is: 0 or 1 for one, else 2 or 3 for
	// a Cluster. A group of MySQL needs 3.
	MySQLNodes int
	// OwnHosts gives each server of a Cluster a network of its own, from which it can
	// be cut off. Only root can have that.
	OwnHosts bool
	// MaxConnections is how many clients it lets in; 0 is 500.
	MaxConnections int
	// EtcdNodes is the size of the etcd cluster: 0 for none, else 1 or 3.
	EtcdNodes int
	// EtcdProgram is the beginning of a command that serves one node, that is,
	// calls etcdnode.Main. With none it is this executable's own hidden command
	// etcd-node. (The server is not linked into all that import this package.)
	EtcdProgram []string
	// TLS makes the servers take nobody but by TLS and with a certificate that
	// its CA has signed; nil is plain text.
	TLS *TLS
}

// Stack is a set of running servers.
type Stack struct {
	// MySQL is nil where none was asked for. Of a Cluster it is the first server.
	MySQL *MySQL
	// Cluster is nil where there is one database server, or none.
	Cluster *Cluster
	// Etcd has the nodes of one cluster.
	Etcd []*Etcd

	folder *folder
	stop   sync.Once
}

// Start starts the servers, all at the same time, and returns when each has
// answered a query. On an error nothing is left running. ctx bounds the start
// alone; the servers run until Stop.
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

// Dir is the folder of the servers' data and logs.
func (s *Stack) Dir() string { return s.folder.path }

// Database is the database's product, version and number of servers, for people.
func (s *Stack) Database() string {
	if s.Cluster == nil {
		return s.MySQL.Version
	}
	return fmt.Sprintf("%s, %d servers with %s", s.MySQL.Version, len(s.Cluster.Nodes), s.Cluster.Kind())
}

// CreateDatabase makes an empty database and returns its DSN, which lists all servers
// of a Cluster. It is for a Cluster that nothing has befallen.
func (s *Stack) CreateDatabase(ctx context.Context, name string) (dsn string, err error) {
	dsn, err = s.MySQL.CreateDatabase(ctx, name)
	if err == nil && s.Cluster != nil {
		dsn = s.Cluster.DSN(name)
	}
	return dsn, err
}

// EtcdEndpoints are the client URLs of all nodes.
func (s *Stack) EtcdEndpoints() []string {
	endpoints := make([]string, len(s.Etcd))
	for i, node := range s.Etcd {
		endpoints[i] = node.Endpoint
	}
	return endpoints
}

// Stop ends the servers and removes a temporary folder. It takes a fraction of a
// second, and at most ten. It may be called again.
func (s *Stack) Stop() {
	s.stop.Do(func() {
		// Nodes of etcd are killed: they have synced what they acknowledged, and
		// a leader that is asked to end would wait seven seconds to hand over to
		// a node that ends as well.
		for _, node := range s.Etcd {
			node.Kill()
		}
		if s.Cluster != nil {
			s.Cluster.stop()
		} else if s.MySQL != nil {
			// Had it to be killed, it is gone as well, and its redo log is whole.
			_ = s.MySQL.Stop(context.Background())
		}
		_ = s.folder.remove() // what cannot be removed now, the next sweep does
	})
}

func (s *Stack) start(ctx context.Context, cfg Config) error {
	if cfg.EtcdNodes != 0 && cfg.EtcdNodes != 1 && cfg.EtcdNodes != 3 {
		return fmt.Errorf("%d etcd nodes: 0, 1 or 3", cfg.EtcdNodes)
	}
	nodes, err := planEtcd(s.folder.path, cfg.EtcdProgram, cfg.EtcdNodes, cfg.TLS)
	if err != nil {
		return err
	}
	etcd := make([]*Etcd, len(nodes))
	group, ctx := errgroup.WithContext(ctx)
	switch {
	case !cfg.MySQL:
	case cfg.MySQLNodes > 1:
		group.Go(func() (err error) {
			if s.Cluster, err = startCluster(ctx, s.folder.path, cfg); err == nil {
				s.MySQL = s.Cluster.Nodes[0]
			}
			return err
		})
	default:
		group.Go(func() (err error) {
			s.MySQL, err = startMySQL(ctx, s.folder.path, cfg)
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
