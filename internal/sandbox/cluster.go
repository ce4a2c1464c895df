package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Cluster is several database servers with the same data: a group of MySQL (Group
// Replication), of which one server takes writes, or MariaDB with Galera, of which
// all do. Servers are numbered from 0, as in Nodes. A server that is gone counts as
// gone at once: a group expels it without waiting for its return.
//
// Nodes may be killed and stopped; Rejoin brings them back. Their own Restart does
// not.
type Cluster struct {
	Nodes []*MySQL

	kind  clusterKind
	hosts *hosts // nil where all are on the loopback
}

// clusterKind is what one product's clusters have of their own.
type clusterKind interface {
	name() string
	// options of server n are beside those of a server without a cluster. founds:
	// it begins the cluster.
	options(n int, founds bool) []string
	// resume returns further options for a server that was killed.
	resume(ctx context.Context, n int) ([]string, error)
	// copied: the servers begin with copies of the first one's data. Else they get
	// it from the first.
	copied() bool
	// join is called when the server runs, and before in reports that it belongs to
	// the cluster. It may be called again.
	join(ctx context.Context, m *MySQL, founds bool) error
	in(ctx context.Context, m *MySQL) error
	// writable fails where the server, or its majority, takes no writes. Else it
	// returns the number of the last change of members that the server knows of.
	writable(ctx context.Context, m *MySQL) (view int64, err error)
	// newest is the server with the most data, when all of them were killed. It
	// leaves all servers as they are to begin with.
	newest(ctx context.Context) (int, error)
}

const (
	// joinTimeout bounds the wait for a server to belong to its cluster. A server of
	// Galera takes up to ten seconds, and many times that on a busy machine.
	joinTimeout = 2 * time.Minute
	// joinPause is between two looks at it.
	joinPause = 100 * time.Millisecond
	// maxReplicationPassword is the longest by which a MySQL connects to another.
	maxReplicationPassword = 32
	// attemptTimeout bounds a question to a server that may be stopped or cut off.
	attemptTimeout = time.Second
)

// startCluster starts all servers of a cluster. On an error none is left running.
func startCluster(ctx context.Context, dir string, cfg Config) (_ *Cluster, err error) {
	program, err := findDatabase(cfg.Database)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.MySQLNodes != 3 && (cfg.MySQLNodes != 2 || program.product == RealMySQL):
		return nil, fmt.Errorf("%d database servers: 1 or 3", cfg.MySQLNodes)
	case cfg.TLS != nil:
		return nil, errors.New("a cluster of databases has no TLS here")
	}
	c := &Cluster{}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if cfg.OwnHosts {
		if c.hosts, err = startHosts(ctx, cfg.MySQLNodes); err != nil {
			return nil, err
		}
	}
	if program.product == RealMySQL {
		err = c.planGroup(program, dir, cfg)
	} else {
		err = c.planGalera(program, dir, cfg)
	}
	if err != nil {
		return nil, err
	}
	return c, c.start(ctx)
}

// plan adds a server with n reserved ports beside its own, and returns the addresses
// of those.
func (c *Cluster) plan(program *databaseProgram, dir string, cfg Config, fixed ...int) (addrs []string, err error) {
	i := len(c.Nodes)
	var ports []*Port
	if c.hosts != nil { // where all ports are free
		for _, port := range append([]int{3306}, fixed...) {
			addrs = append(addrs, net.JoinHostPort(c.hosts.ip(i), strconv.Itoa(port)))
		}
	} else {
		if ports, err = ReservePorts(1 + len(fixed)); err != nil {
			return nil, err
		}
		for _, port := range ports {
			addrs = append(addrs, port.Addr)
		}
	}
	m, err := planMySQL(program, filepath.Join(dir, fmt.Sprintf("mysql-%d", i+1)), addrs[0], cfg)
	if err != nil {
		return nil, err
	}
	m.ports = ports
	if c.hosts != nil {
		m.prefix, m.clients = c.hosts.enter(i), "%"
	}
	if i == 0 {
		m.password = m.password[:maxReplicationPassword]
	} else {
		m.password = c.Nodes[0].password // the account is part of the data
	}
	c.Nodes = append(c.Nodes, m)
	return addrs[1:], nil
}

func (c *Cluster) start(ctx context.Context) error {
	first := c.Nodes[0]
	// Alone, with nothing that a cluster would have to be told of.
	if err := first.startAlone(ctx); err != nil {
		return err
	}
	if err := first.Stop(ctx); err != nil {
		return err
	}
	group, started := errgroup.WithContext(ctx)
	for i, m := range c.Nodes {
		if i == 0 || !c.kind.copied() {
			continue
		}
		if err := copyData(ctx, first.dataDir, m.dataDir); err != nil {
			return err
		}
		group.Go(func() error { return m.startProcess(started, m.argv(c.kind.options(i, false)...)) })
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

// enter runs the server, if it does not run as a server of the cluster yet, and waits
// until it belongs to it.
func (c *Cluster) enter(ctx context.Context, n int, founds bool) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	m := c.Nodes[n]
	argv := m.argv(c.kind.options(n, founds)...)
	var err error
	if m.Process != nil && !founds && !m.current().running() {
		more, err := c.kind.resume(ctx, n)
		if err != nil {
			return err
		}
		argv = append(argv, more...)
	}
	switch {
	case m.Process == nil:
		if err = os.Mkdir(m.dataDir, 0o700); err == nil {
			err = m.startProcess(ctx, argv)
		}
	case founds || !m.current().running():
		err = m.restartWith(ctx, argv)
	}
	for err == nil {
		if err = c.kind.join(ctx, m, founds); err != nil {
			break
		}
		last := c.kind.in(ctx, m)
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", ctx.Err(), last)
		case <-time.After(joinPause):
		}
	}
	return fmt.Errorf("database server %d does not join its cluster: %w; its log ends:\n%s", n+1, err, indent(m.tail()))
}

// Kind is how the servers hold the same data, for people.
func (c *Cluster) Kind() string { return c.kind.name() }

// DSN addresses one database of all servers, as DSN does of one.
func (c *Cluster) DSN(database string) string {
	cfg := c.Nodes[0].config(database)
	addrs := make([]string, len(c.Nodes))
	for i, m := range c.Nodes {
		addrs[i] = m.addr
	}
	cfg.Addr = strings.Join(addrs, ",")
	return cfg.FormatDSN()
}

// Primary is the server that takes writes. Of Galera it is the first that does. A
// server that was cut off thinks for a while that it still does; the others know of a
// later change.
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
		return 0, fmt.Errorf("no database server takes writes: %w", errors.Join(errs...))
	}
	return primary, nil
}

// SwitchPrimary makes another server of a group the primary, once its transactions
// have ended, or after five seconds.
func (c *Cluster) SwitchPrimary(ctx context.Context, n int) error {
	if _, ok := c.kind.(*group); !ok {
		return errors.New("galera has no primary to switch")
	}
	m := c.Nodes[n]
	// Without the seconds it waits for all open transactions.
	return m.exec(ctx, "DO group_replication_set_as_primary(@@server_uuid, 5)")
}

// Rejoin waits until the server belongs to the cluster again. It starts one that was
// killed. Servers that were stopped or cut off have to be running and whole before.
func (c *Cluster) Rejoin(ctx context.Context, n int) error { return c.enter(ctx, n, false) }

// Recover begins the cluster anew after all servers were killed, from the one with
// the most data.
func (c *Cluster) Recover(ctx context.Context) error {
	newest, err := c.kind.newest(ctx)
	if err != nil {
		return fmt.Errorf("find the database server with the most data: %w", err)
	}
	if err := c.enter(ctx, newest, true); err != nil {
		return err
	}
	for i := range c.Nodes {
		if i == newest {
			continue
		}
		if err := c.enter(ctx, i, false); err != nil {
			return err
		}
	}
	return nil
}

// CutOff lets nothing through any more between the server and the others. Clients
// still reach it. It needs Config.OwnHosts.
func (c *Cluster) CutOff(ctx context.Context, n int) error { return c.route(ctx, n, "add") }

// Heal ends a CutOff.
func (c *Cluster) Heal(ctx context.Context, n int) error { return c.route(ctx, n, "del") }

func (c *Cluster) route(ctx context.Context, n int, change string) error {
	if c.hosts == nil {
		return errors.New("the database servers have no hosts of their own (Config.OwnHosts)")
	}
	for i := range c.Nodes {
		if i == n {
			continue
		}
		if err := c.hosts.run(ctx, n, "ip route "+change+" blackhole "+c.hosts.ip(i)); err != nil {
			return err
		}
	}
	return nil
}

// stop ends all servers, and at the end their hosts. They are killed: one that is
// asked to end waits for the others.
func (c *Cluster) stop() {
	var all sync.WaitGroup
	for _, m := range c.Nodes {
		if m.Process != nil {
			all.Go(m.Kill)
		}
	}
	all.Wait()
	if c.hosts != nil {
		c.hosts.stop()
	}
}

// restartWith starts the server again with other arguments.
func (m *MySQL) restartWith(ctx context.Context, argv []string) error {
	m.lifecycle.Lock()
	defer m.lifecycle.Unlock()
	if err := m.stop(ctx); err != nil {
		return err
	}
	m.cfg.Argv = argv
	return m.start(ctx)
}

func (m *MySQL) tail() string {
	if m.Process == nil {
		return ""
	}
	return m.LogTail(tailLines)
}

// exec runs statements, on one connection.
func (m *MySQL) exec(ctx context.Context, statements ...string) error {
	db, err := m.open("")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err // without the statement, which may hold the password
		}
	}
	return nil
}

// ask reads one row.
func (m *MySQL) ask(ctx context.Context, query string, into ...any) error {
	db, err := m.open("")
	if err != nil {
		return err
	}
	defer db.Close()
	return db.QueryRowContext(ctx, query).Scan(into...)
}

// copyData copies a server's data folder for another server: without the name that
// MySQL has given itself.
func copyData(ctx context.Context, from, to string) error {
	if err := runToItsEnd(ctx, "cp", []string{"cp", "-r", "--reflink=auto", from, to}, filepath.Dir(to)); err != nil {
		return err
	}
	return os.Remove(filepath.Join(to, "auto.cnf"))
}
