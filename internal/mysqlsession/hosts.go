package mysqlsession

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	// hostTimeout bounds the attempt to connect to one host of several.
	hostTimeout = time.Second
	// silentAfter is the least wait for a host that counts as silence, if the caller's
	// context ends before hostTimeout.
	silentAfter = 200 * time.Millisecond
	// leaveEvery is the least time between two replacements of all connections. If the only
	// host does not accept writes, each new connection asks for one.
	leaveEvery = 500 * time.Millisecond
)

// Connector makes connections with a configuration that Parse has returned. more are
// statements that follow the common settings. With several hosts, it connects to the one
// that accepts writes. When that host stops accepting writes, all its connections are replaced.
func Connector(cfg *mysql.Config, more ...string) (driver.Connector, error) {
	each, err := EachHost(cfg, more...)
	if err != nil {
		return nil, err
	}
	all, _ := lists.LoadOrStore(cfg.Addr, &servers{addrs: strings.Split(cfg.Addr, separator)})
	c := &connector{servers: all.(*servers)}
	for _, addr := range c.addrs {
		one := each[addr].(host)
		c.hosts, c.driver = append(c.hosts, one), one.Driver()
	}
	return c, nil
}

// EachHost makes a connector for each host of cfg, by its address. The hosts need not take
// writes.
func EachHost(cfg *mysql.Config, more ...string) (map[string]driver.Connector, error) {
	addrs := strings.Split(cfg.Addr, separator)
	firstName, _, _ := net.SplitHostPort(addrs[0])
	each := map[string]driver.Connector{}
	for _, addr := range addrs {
		one := cfg.Clone()
		one.Addr = addr
		if len(addrs) > 1 && one.TLS != nil && one.TLS.ServerName == firstName {
			one.TLS.ServerName = "" // the driver set it from the first host
		}
		driver, err := mysql.NewConnector(one)
		if err != nil {
			return nil, fmt.Errorf("malformed DSN: %w", err)
		}
		each[addr] = host{driver, append(settings[:len(settings):len(settings)], more...)}
	}
	return each, nil
}

// lists has the servers of each list of hosts. All pools of this process share them, because
// some pools connect rarely and would notice a new primary late.
var lists sync.Map

// servers is the state of one list of hosts.
type servers struct {
	addrs []string
	// generation is the generation of the usable connections. It rises when the connections
	// must be replaced.
	generation atomic.Uint64

	mu   sync.Mutex
	next int // the host to try first
	last int // the host that accepted writes last
	left time.Time
}

// leave replaces all connections of a generation.
func (s *servers) leave(generation uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if generation == s.generation.Load() && time.Since(s.left) >= leaveEvery {
		s.left = time.Now()
		s.generation.Add(1)
	}
}

func (s *servers) first() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// silent records that a host does not answer. The others are then tried before it.
func (s *servers) silent(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == n {
		s.next = (n + 1) % len(s.addrs)
	}
}

// found records which host accepts writes. It returns the generation of a connection to it
// that was begun in the given generation.
func (s *servers) found(n int, generation uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = n
	if s.last != n {
		s.last, s.left = n, time.Time{}
		generation = s.generation.Add(1)
	}
	return generation
}

// connector connects to the host that accepts writes.
type connector struct {
	*servers
	hosts  []host
	driver driver.Driver
}

func (c *connector) Driver() driver.Driver { return c.driver }

// Connect tries the hosts in turn, starting with the one that accepted writes last. It does not
// check a single host, because its users notice.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	generation := c.generation.Load()
	if len(c.hosts) == 1 {
		opened, _, err := c.hosts[0].open(ctx)
		if err != nil {
			return nil, err
		}
		return &conn{session: opened, servers: c.servers, generation: generation}, nil
	}
	var errs hostErrors
	for i, first := 0, c.first(); i < len(c.hosts) && ctx.Err() == nil; i++ {
		n := (first + i) % len(c.hosts)
		opened, err := c.try(ctx, n)
		if err == nil {
			return &conn{session: opened, servers: c.servers, generation: c.found(n, generation)}, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", c.addrs[n], err))
	}
	return nil, errs
}

// hostErrors has the reason for each host, in one line.
type hostErrors []error

func (all hostErrors) Error() string {
	return "no host can be used: " + strings.ReplaceAll(errors.Join(all...).Error(), "\n", "; ")
}

func (all hostErrors) Unwrap() []error { return all }

func (c *connector) try(ctx context.Context, n int) (session, error) {
	began := time.Now()
	attempt, cancel := context.WithTimeout(ctx, hostTimeout)
	defer cancel()
	opened, refusal, err := c.hosts[n].open(attempt)
	if err == nil && refusal != nil {
		_ = opened.Close()
		return nil, refusal
	}
	if err != nil && errors.Is(attempt.Err(), context.DeadlineExceeded) && time.Since(began) >= silentAfter {
		c.silent(n)
	}
	return opened, err
}

// conn is a connection that is closed when its server stops accepting writes. A pool checks
// that when it hands a connection out and when it gets one back.
type conn struct {
	session
	servers    *servers
	generation uint64
}

func (c *conn) old() bool { return c.generation != c.servers.generation.Load() }

// Ping returns ErrNoWrites if the server does not accept writes.
func (c *conn) Ping(ctx context.Context) error {
	if c.old() {
		return driver.ErrBadConn
	}
	_, err := checkWrites(ctx, c.session)
	return c.noted(err)
}

func (c *conn) ResetSession(ctx context.Context) error {
	if c.old() {
		return driver.ErrBadConn
	}
	return c.session.ResetSession(ctx)
}

func (c *conn) IsValid() bool { return !c.old() && c.session.IsValid() }

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	result, err := c.session.ExecContext(ctx, query, args)
	return result, c.noted(err)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.session.QueryContext(ctx, query, args)
	return rows, c.noted(err)
}

// noted replaces all connections if err shows that the server does not accept writes.
func (c *conn) noted(err error) error {
	if errors.Is(err, ErrNoWrites) || hasNumber(err, moved...) || writeDenied(err) {
		c.servers.leave(c.generation)
	}
	return err
}
