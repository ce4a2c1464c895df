package backend

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/go-zookeeper/zk"

	"flashsale/internal/lock/zklock"
)

func (s *Servers) checkZooKeeper() error {
	if len(s.ZooKeeperServers) == 0 {
		return errors.New("--zookeeper-servers is missing")
	}
	return checkAddresses("--zookeeper-servers", s.ZooKeeperServers...)
}

// inZooKeeper opens the lock of a ZooKeeper ensemble.
func inZooKeeper(ctx context.Context, cfg *Config) (*Backend, error) {
	root := "/" + strings.Trim(cfg.Servers.Prefix, "/")
	conn, err := zooKeeper(ctx, cfg)
	if err != nil {
		return nil, err
	}
	shut := func() error { conn.Close(); return nil }
	source, newest, err := zooKeeperSource(conn, root)
	if err != nil {
		return nil, closing(err, shut)
	}
	locker, err := zklock.New(zklock.Config{
		Servers: cfg.Servers.ZooKeeperServers, Prefix: "/" + strings.Trim(cfg.prefix(), "/"), TTL: cfg.TTL, Owner: cfg.owner(), Logger: cfg.Logger,
	})
	if err != nil {
		return nil, closing(err, shut)
	}
	return &Backend{
		Locker: locker, Source: source, Newest: newest, close: shut,
		ping: func(ctx context.Context) error { return within(ctx, func() error { return askZooKeeper(conn, root) }) },
	}, nil
}

// noVersion is one that no node has.
const noVersion = math.MaxInt32

// askZooKeeper asks a majority to write a node of a version that it does not have.
// Without a session the library would wait for one.
func askZooKeeper(conn *zk.Conn, root string) error {
	if state := conn.State(); state != zk.StateHasSession {
		return fmt.Errorf("no session: %s", state)
	}
	_, err := conn.Set(root, nil, noVersion)
	switch {
	case err == nil, errors.Is(err, zk.ErrBadVersion):
		return nil
	case errors.Is(err, zk.ErrNoAuth):
		return noWrites(err)
	}
	return err
}

// zooKeeper makes a session of its own, beside the lock's, and waits for it.
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
			return nil, fmt.Errorf("no server gave a session: %w", ctx.Err())
		}
	}
}

// silent drops what the client library would log: each call returns its error.
type silent struct{}

func (silent) Printf(string, ...any) {}

// zooKeeperSource names the data by when its root was made, and says at which
// transaction it is: the number of the next node is a later one.
func zooKeeperSource(conn *zk.Conn, root string) (source string, newest uint64, err error) {
	everyone := zk.WorldACL(zk.PermAll)
	path := ""
	for part := range strings.SplitSeq(strings.Trim(root, "/"), "/") {
		path += "/" + part
		if _, err := conn.Create(path, nil, 0, everyone); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return "", 0, fmt.Errorf("make %s: %w", path, err)
		}
	}
	_, made, err := conn.Exists(root)
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", root, err)
	}
	// A node of our own is the newest there is.
	probe, err := conn.CreateProtectedEphemeralSequential(root+"/newest-", nil, everyone)
	if err != nil {
		return "", 0, fmt.Errorf("make a node under %s: %w", root, err)
	}
	_, now, err := conn.Exists(probe)
	if err != nil {
		return "", 0, fmt.Errorf("read %s: %w", probe, err)
	}
	if err := conn.Delete(probe, -1); err != nil {
		return "", 0, fmt.Errorf("remove %s: %w", probe, err)
	}
	return fmt.Sprintf("zookeeper %x made at %d", made.Czxid, made.Ctime), uint64(now.Czxid), nil
}
