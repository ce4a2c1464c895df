package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sleep"
)

// Cluster is several database servers with the same data: MySQL with Group
// Replication, where one server accepts writes, or MariaDB with Galera, where all do.
// Servers are numbered from 0, as in Nodes. The cluster expels a failed server
// without waiting for its return.
//
// Nodes may be killed and stopped. Rejoin restarts them; their own Restart does not
// rejoin the cluster.
type Cluster struct {
	Nodes []*MySQL

	kind    clusterKind
	name    string // of the kind, for people
	copied  bool   // the servers start with copies of the first one's data; else they receive it when they join
	network *Network
}

// clusterKind is what differs between the products' clusters.
type clusterKind interface {
	// options returns the options that server n needs in the cluster. With founds it
	// starts the cluster.
	options(n int, founds bool) []string
	// resume returns further options for a server that was killed.
	resume(ctx context.Context, n int) ([]string, error)
	// join makes a running server join. It is called until in returns nil.
	join(ctx context.Context, m *MySQL, founds bool) error
	// in returns nil if the server belongs to the cluster.
	in(ctx context.Context, m *MySQL) error
	// writable returns an error if the server, or its majority, does not accept writes.
	// Otherwise it returns the number of the server's latest view of the members.
	writable(ctx context.Context, m *MySQL) (view int64, err error)
}

const (
	// joinTimeout bounds the wait for a server to join. Galera takes up to ten
	// seconds, and many times that on a busy machine.
	joinTimeout = 2 * time.Minute
	// joinPause is the time between two checks.
	joinPause = 100 * time.Millisecond
	// maxReplicationPassword is MySQL's limit for a replication account.
	maxReplicationPassword = 32
	// attemptTimeout bounds a query to a server that may be stopped or cut off.
	attemptTimeout = time.Second
)

// startCluster starts a cluster. On an error no server is left running.
func startCluster(ctx context.Context, dir string, cfg Config, network *Network) (_ *Cluster, err error) {
	program, err := findDatabase(cfg.Database)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.MySQLNodes != 3 && (cfg.MySQLNodes != 2 || program.product == RealMySQL):
		return nil, fmt.Errorf("%d database servers: must be 1 or 3", cfg.MySQLNodes)
	case cfg.TLS != nil || cfg.MySQLDisk > 0 || cfg.FakeClock:
		return nil, errors.New("TLS, a small disk and a clock of its own are not supported for a cluster of databases")
	}
	c := &Cluster{network: network}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if program.product == RealMySQL {
		err = c.planGroup(ctx, program, dir, cfg)
	} else {
		err = c.planGalera(ctx, program, dir, cfg)
	}
	if err != nil {
		return nil, err
	}
	return c, c.start(ctx)
}

// plan adds a server, which also listens on the further ports. It returns their
// addresses.
func (c *Cluster) plan(ctx context.Context, program *databaseProgram, dir string, cfg Config, further ...int) (addrs []string, err error) {
	i := len(c.Nodes)
	at, err := c.network.place(ctx, mysqlName(i), append([]int{mysqlPort}, further...)...)
	if err != nil {
		return nil, err
	}
	m, err := planMySQL(program, filepath.Join(dir, mysqlName(i)), at, cfg)
	if err != nil {
		return nil, err
	}
	if i == 0 {
		m.password = m.password[:maxReplicationPassword]
	} else {
		m.password = c.Nodes[0].password // all have the same data, accounts included
	}
	c.Nodes = append(c.Nodes, m)
	return at.addrs[1:], nil
}

func (c *Cluster) start(ctx context.Context) error {
	first := c.Nodes[0]
	// Create the first server's data before it starts the cluster.
	if err := first.startAlone(ctx); err != nil {
		return err
	}
	if err := first.Stop(ctx); err != nil {
		return err
	}
	group, started := errgroup.WithContext(ctx)
	if c.copied {
		for i, m := range c.Nodes[1:] {
			if err := copyData(ctx, first.dataDir, m.dataDir); err != nil {
				return err
			}
			group.Go(func() error { return m.startProcess(started, m.argv(c.kind.options(i+1, false)...)) })
		}
	}
	group.Go(func() error { return c.enter(started, 0, true) })
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range c.Nodes[1:] {
		if err := c.enter(ctx, i+1, false); err != nil {
			return err
		}
	}
	return nil
}

// enter starts the server, unless it runs with the cluster's options, and waits until
// it has joined.
func (c *Cluster) enter(ctx context.Context, n int, founds bool) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	m := c.Nodes[n]
	argv := m.argv(c.kind.options(n, founds)...)
	var err error
	switch {
	case m.Process == nil:
		if err = os.Mkdir(m.dataDir, 0o700); err == nil {
			err = m.startProcess(ctx, argv)
		}
	case founds:
		err = m.restartWith(ctx, argv)
	case !m.current().running():
		var more []string
		if more, err = c.kind.resume(ctx, n); err == nil {
			err = m.restartWith(ctx, append(argv, more...))
		}
	}
	for err == nil {
		if err = c.kind.join(ctx, m, founds); err != nil {
			break
		}
		last := c.kind.in(ctx, m)
		if last == nil {
			return nil
		}
		if sleep.For(ctx, joinPause) != nil {
			err = sleep.Cause(ctx, last)
		}
	}
	if m.Process == nil {
		return err
	}
	return fmt.Errorf("database server %d did not join its cluster: %w; its log ends:\n%s", n+1, err, lastLines(m.LogTail(tailLines), tailLines))
}

// Kind names the product's clustering, for people.
func (c *Cluster) Kind() string { return c.name }

// DSN names a database and lists all servers.
func (c *Cluster) DSN(database string) string {
	cfg := c.Nodes[0].config(database)
	addrs := make([]string, len(c.Nodes))
	for i, m := range c.Nodes {
		addrs[i] = m.addr
	}
	cfg.Addr = strings.Join(addrs, ",")
	return cfg.FormatDSN()
}

// Primary returns the server that accepts writes, or the first of several. A server
// that was cut off may report for a while that it does: the latest view counts.
func (c *Cluster) Primary(ctx context.Context) (int, error) {
	var errs []error
	primary, latest := -1, int64(-1)
	for i, m := range c.Nodes {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		view, err := c.kind.writable(attempt, m)
		cancel()
		if err == nil && view > latest {
			primary, latest = i, view
		}
		errs = append(errs, err)
	}
	if primary < 0 {
		return 0, fmt.Errorf("no database server accepts writes: %w", errors.Join(errs...))
	}
	return primary, nil
}

// SwitchPrimary makes a server of a MySQL group the primary, once all transactions
// have ended or after five seconds.
func (c *Cluster) SwitchPrimary(ctx context.Context, n int) error {
	if _, ok := c.kind.(*group); !ok {
		return errors.New("a Galera cluster has no primary to switch")
	}
	m := c.Nodes[n]
	// Without the 5 it would wait for all open transactions without a bound.
	return m.exec(ctx, "DO group_replication_set_as_primary(@@server_uuid, 5)")
}

// Rejoin waits until the server belongs to the cluster again. It starts a server that
// was killed. The caller must first resume or heal one that was paused or cut off.
func (c *Cluster) Rejoin(ctx context.Context, n int) error { return c.enter(ctx, n, false) }

// stop kills all servers. One that is asked to stop would wait for the others.
func (c *Cluster) stop() {
	var all sync.WaitGroup
	for _, m := range c.Nodes {
		if m.Process != nil {
			all.Go(m.Kill)
		}
	}
	all.Wait()
}

// copyData copies a server's data folder for another server, without auto.cnf, which
// has the server's UUID.
func copyData(ctx context.Context, from, to string) error {
	if err := runToItsEnd(ctx, "cp", []string{"cp", "-r", "--reflink=auto", from, to}, filepath.Dir(to)); err != nil {
		return err
	}
	return os.Remove(filepath.Join(to, "auto.cnf"))
}
