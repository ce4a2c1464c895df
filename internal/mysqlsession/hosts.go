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
	// hostTimeout bounds one host of several: one that is silent holds no more up.
	hostTimeout = time.Second
	// silentAfter is when a caller who waits for less may say so of a host, too.
	silentAfter = 200 * time.Millisecond
	// leaveEvery is the least time between two moments at which all connections to
	// one host are made again: where the only one takes no writes, each finds so.
	leaveEvery = 500 * time.Millisecond
)

// separator of the hosts in a DSN, which the driver does not know.
const separator = ","

// splitHosts takes the hosts out of a DSN, tcp(host:port,host:port), and leaves the
// first. It returns none where the DSN names one or fewer.
func splitHosts(dsn string) (first string, hosts []string, err error) {
	// As the driver finds them: a password may hold any of these.
	slash := strings.LastIndexByte(dsn, '/')
	if slash < 0 {
		return dsn, nil, nil
	}
	at := strings.LastIndexByte(dsn[:slash], '@') + 1
	network, list, ok := strings.Cut(dsn[at:slash], "(")
	list, closed := strings.CutSuffix(list, ")")
	if !ok || !closed || !strings.HasPrefix(network, "tcp") || !strings.Contains(list, separator) {
		return dsn, nil, nil
	}
	for host := range strings.SplitSeq(list, separator) {
		host = strings.TrimSpace(host)
		if host == "" {
			return "", nil, fmt.Errorf("%s names an empty host; name each as host:port", list)
		}
		if strings.ContainsAny(host, "(); ") {
			return "", nil, fmt.Errorf("%q is not a list of hosts; name all of them in one pair of parentheses, with commas: tcp(host:port,host:port)", list)
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), "3306")
		}
		hosts = append(hosts, host)
	}
	return dsn[:at] + network + "(" + hosts[0] + ")" + dsn[slash:], hosts, nil
}

// EachHost makes a connector for each host that cfg names, whether or not it takes
// writes, by its address.
func EachHost(cfg *mysql.Config, more ...string) (map[string]driver.Connector, error) {
	each := map[string]driver.Connector{}
	for _, addr := range strings.Split(cfg.Addr, separator) {
		one := cfg.Clone()
		one.Addr = addr
		if strings.Contains(cfg.Addr, separator) && one.TLS != nil && one.TLS.ServerName == hostname(cfg.Addr) {
			one.TLS.ServerName = "" // it was taken from the first host
		}
		driver, err := mysql.NewConnector(one)
		if err != nil {
			return nil, fmt.Errorf("malformed DSN: %w", err)
		}
		each[addr] = host{driver, append(settings(), more...)}
	}
	return each, nil
}

// hostname is the name of the first of some hosts.
func hostname(list string) string {
	first, _, _ := strings.Cut(list, separator)
	name, _, _ := net.SplitHostPort(first)
	return name
}

// servers are the hosts of one list, and what all pools of this process that use it
// have in common: which of them takes writes, and from when on that is so.
type servers struct {
	addrs []string
	// generation is that of the connections which may be used. It rises when the
	// server that took writes does not any more.
	generation atomic.Uint64

	mu sync.Mutex
	// from is where to begin, at where the connections of the generation are.
	from, at int
	left     time.Time
}

// known are all servers, by their list. A pool that finds its primary gone speaks
// for all: some make connections only now and then.
var known sync.Map

func serversOf(list string) *servers {
	s, _ := known.LoadOrStore(list, &servers{addrs: strings.Split(list, separator)})
	return s.(*servers)
}

// leave makes all connections of a generation be made again.
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
	return s.from
}

// silent notes that a host does not answer: others are asked before it from now on.
func (s *servers) silent(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.from == n {
		s.from = (n + 1) % len(s.addrs)
	}
}

// found notes which host takes writes, and returns the generation of a connection
// to it that was begun in the given one.
func (s *servers) found(n int, generation uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from = n
	if s.at != n {
		s.at, s.left = n, time.Time{}
		generation = s.generation.Add(1)
	}
	return generation
}

// connector connects to the host that takes writes.
type connector struct {
	*servers
	hosts  []host
	driver driver.Driver
}

func (c *connector) Driver() driver.Driver { return c.driver }

// Connect asks one host after the other whether it takes writes, beginning with the
// one that did last. Where there is but one, whoever uses it finds out.
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	generation := c.generation.Load()
	if len(c.hosts) == 1 {
		made, _, err := c.hosts[0].open(ctx)
		if err != nil {
			return nil, err
		}
		return &conn{session: made, servers: c.servers, generation: generation}, nil
	}
	var errs hostErrors
	for i, first := 0, c.first(); i < len(c.hosts) && ctx.Err() == nil; i++ {
		n := (first + i) % len(c.hosts)
		made, err := c.try(ctx, n)
		if err == nil {
			return &conn{session: made, servers: c.servers, generation: c.found(n, generation)}, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", c.addrs[n], err))
	}
	return nil, errs
}

// hostErrors say of each host why it is not used.
type hostErrors []error

func (all hostErrors) Error() string {
	texts := make([]string, len(all))
	for i, err := range all {
		texts[i] = err.Error()
	}
	return "no host can be used: " + strings.Join(texts, "; ")
}

func (all hostErrors) Unwrap() []error { return all }

func (c *connector) try(ctx context.Context, n int) (session, error) {
	began := time.Now()
	attempt, cancel := context.WithTimeout(ctx, hostTimeout)
	defer cancel()
	made, refusal, err := c.hosts[n].open(attempt)
	if err == nil && refusal != nil {
		_ = made.Close() // refusal says more
		return nil, refusal
	}
	if err != nil && errors.Is(attempt.Err(), context.DeadlineExceeded) && time.Since(began) >= silentAfter {
		c.silent(n)
	}
	return made, err
}

// session is all that database/sql asks of the driver's connections.
type session interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// conn is a connection that is given up when its server takes no more writes. A
// pool looks before it hands one out, and when it gets one back.
type conn struct {
	session
	servers    *servers
	generation uint64
}

func (c *conn) old() bool { return c.generation != c.servers.generation.Load() }

// Ping asks the server whether it takes writes: see ErrNoWrites.
func (c *conn) Ping(ctx context.Context) error {
	if c.old() {
		return driver.ErrBadConn
	}
	_, err := look(ctx, c.session)
	if errors.Is(err, ErrNoWrites) {
		c.servers.leave(c.generation)
	}
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

func (c *conn) noted(err error) error {
	if err != nil && isMoved(err) {
		c.servers.leave(c.generation)
	}
	return err
}
