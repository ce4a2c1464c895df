package backend

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/go-zookeeper/zk"

	"flashsale/internal/doctor"
	"flashsale/internal/lock/zklock"
)

// minZooKeeper is the first version with TTL and container nodes.
var minZooKeeper = doctor.Version{Major: 3, Minor: 5}

var everyone = zk.WorldACL(zk.PermAll)

// root is the node above all locks.
func (s *Servers) root() string { return "/" + strings.Trim(s.Prefix, "/") }

// inZooKeeper opens the lock of a ZooKeeper ensemble.
func inZooKeeper(ctx context.Context, cfg *Config) (*Backend, error) {
	root := cfg.Servers.root()
	conn, err := zooKeeper(ctx, cfg)
	if err != nil {
		return nil, err
	}
	source, newest, err := zooKeeperSource(conn, root)
	if err != nil {
		conn.Close()
		return nil, err
	}
	locker, err := zklock.New(zklock.Config{
		Servers: cfg.Servers.ZooKeeperServers, Prefix: "/" + strings.Trim(cfg.prefix(), "/"), TTL: cfg.TTL, Owner: cfg.owner(), Logger: cfg.Logger,
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Backend{
		Locker: locker, Source: source, Newest: newest, close: func() error { conn.Close(); return nil },
		ping: func(ctx context.Context) error {
			return within(ctx, func() error { return tryZooKeeperWrite(conn, root) })
		},
	}, nil
}

// tryZooKeeperWrite writes the root node if it has a version that it never has.
func tryZooKeeperWrite(conn *zk.Conn, root string) error {
	if state := conn.State(); state != zk.StateHasSession {
		return fmt.Errorf("no session: %s", state) // the library would wait for one
	}
	_, err := conn.Set(root, nil, math.MaxInt32)
	switch {
	case errors.Is(err, zk.ErrBadVersion):
		return nil
	case errors.Is(err, zk.ErrNoAuth):
		return noWrites(err)
	}
	return err
}

// zooKeeper opens a session, apart from the lock's own.
func zooKeeper(ctx context.Context, cfg *Config) (*zk.Conn, error) {
	conn, events, err := zk.Connect(cfg.Servers.ZooKeeperServers, cfg.TTL, zk.WithLogger(silent{}), zk.WithLogInfo(false))
	if err != nil {
		return nil, fmt.Errorf("--zookeeper-servers: %w", err)
	}
	for {
		select {
		case event := <-events:
			if event.State == zk.StateHasSession {
				return conn, nil
			}
		case <-ctx.Done():
			conn.Close()
			return nil, fmt.Errorf("no server opened a session: %w", ctx.Err())
		}
	}
}

// silent drops the client library's log. Each call returns its error.
type silent struct{}

func (silent) Printf(string, ...any) {}

// zooKeeperSource creates the root node, whose creation identifies the data. newest is
// the latest transaction; the number of a later node is larger.
func zooKeeperSource(conn *zk.Conn, root string) (source string, newest uint64, err error) {
	path := ""
	for part := range strings.SplitSeq(strings.Trim(root, "/"), "/") {
		path += "/" + part
		if _, err := conn.Create(path, nil, 0, everyone); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return "", 0, fmt.Errorf("create %s: %w", path, err)
		}
	}
	_, created, err := conn.Exists(root)
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", root, err)
	}
	// A new node has the number of the latest transaction.
	probe, err := conn.CreateProtectedEphemeralSequential(root+"/newest-", nil, everyone)
	if err != nil {
		return "", 0, fmt.Errorf("create a node under %s: %w", root, err)
	}
	_, latest, err := conn.Exists(probe)
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", probe, err)
	}
	if err := conn.Delete(probe, -1); err != nil {
		return "", 0, fmt.Errorf("delete %s: %w", probe, err)
	}
	return fmt.Sprintf("zookeeper %x made at %d", created.Czxid, created.Ctime), uint64(latest.Czxid), nil
}

func examineZooKeeper(ctx context.Context, e *examination) error {
	var down []string
	for _, addr := range e.servers.ZooKeeperServers {
		lines, err := ask(ctx, addr, "srvr", "")
		if err != nil || len(lines) == 0 {
			down = append(down, addr)
			continue
		}
		e.zooKeeperServer(addr, lines)
	}
	if n := len(e.servers.ZooKeeperServers); 2*len(down) >= n {
		return fmt.Errorf("%d of %d servers do not answer: %s", len(down), n, strings.Join(down, ", "))
	}
	if len(down) > 0 {
		e.Warn(doctor.Answers, "start them: an ensemble works while more than half of its servers run", "these servers do not: %s", strings.Join(down, ", "))
	}
	// Opening a session is a write that a quorum must accept.
	ctx, cancel := context.WithTimeout(ctx, 2*examineTimeout)
	defer cancel()
	conn, err := zooKeeper(ctx, &Config{Servers: *e.servers, TTL: examineTimeout})
	if err != nil {
		return err
	}
	defer conn.Close()
	// The second operation fails, which undoes the first. The server checks the first
	// one's ACL before.
	_, err = conn.Multi(&zk.CreateRequest{Path: e.servers.root() + "/doctor", Acl: everyone}, &zk.CheckVersionRequest{Path: "/", Version: math.MaxInt32})
	if errors.Is(err, zk.ErrBadVersion) || errors.Is(err, zk.ErrNoNode) { // no node: the first replica creates the root
		e.Fine("writes", "accepted")
		return nil
	}
	return err
}

// zooKeeperServer examines one server's answer to srvr.
func (e *examination) zooKeeperServer(addr string, lines []string) {
	const moreServers = "start more servers, so that more than half run"
	status := fields(lines, ": ")
	version, known := status["Zookeeper version"]
	switch mode := status["Mode"]; {
	case mode == "" && !known && strings.Contains(lines[0], "whitelist"):
		e.Warn("mode "+addr, "add srvr to 4lw.commands.whitelist", "unknown: the server does not allow srvr")
		return
	case mode == "":
		e.Fault("mode "+addr, moreServers, "it serves no requests: %s", strings.Join(lines, " "))
		return
	case mode == "read-only":
		e.Fault("mode "+addr, moreServers, "it is read-only")
	default:
		e.Fine("mode "+addr, "%s", mode)
	}
	version, _, _ = strings.Cut(version, "-")
	e.CheckVersion("version "+addr, version, minZooKeeper)
}
