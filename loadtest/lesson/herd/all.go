package herd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-zookeeper/zk"
)

// all is a lock that is correct but expensive: each waiter watches the holder's
// node. It does not handle failures of the server.
type all struct {
	conn   *zk.Conn
	events <-chan zk.Event
	prefix string
}

func newAll(servers []string, prefix string) (*all, error) {
	conn, events, err := zk.Connect(servers, sessionTTL, zk.WithLogger(silent{}))
	if err != nil {
		return nil, err
	}
	return &all{conn: conn, events: events, prefix: prefix}, nil
}

// silent discards the library's log, which would mix with the lesson's.
type silent struct{}

func (silent) Printf(string, ...any) {}

// Lock joins the queue and reads it again whenever the holder has changed.
func (l *all) Lock(ctx context.Context, name string) (unlock func(context.Context) error, err error) {
	anyone := zk.WorldACL(zk.PermAll)
	path := l.prefix + "/" + name
	for _, folder := range []string{l.prefix, path} {
		if _, err := l.conn.Create(folder, nil, zk.FlagPersistent, anyone); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return nil, fmt.Errorf("create %s: %w", folder, err)
		}
	}
	node, err := l.conn.Create(path+"/", nil, zk.FlagEphemeralSequential, anyone)
	if err != nil {
		return nil, fmt.Errorf("join the queue for %s: %w", name, err)
	}
	for {
		queue, _, err := l.conn.Children(path)
		if err != nil {
			return nil, fmt.Errorf("read the queue for %s: %w", name, err)
		}
		first := path + "/" + slices.Min(queue)
		if first == node {
			return func(context.Context) error { return l.conn.Delete(node, -1) }, nil
		}
		_, _, changed, err := l.conn.GetW(first)
		if errors.Is(err, zk.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("watch the holder of %s: %w", name, err)
		}
		select {
		case e := <-changed:
			if e.Err != nil {
				return nil, fmt.Errorf("wait for %s: %w", name, e.Err)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close ends the session, which removes the client from all queues.
func (l *all) Close(context.Context) error {
	l.conn.Close()
	for range l.events { // closed when the session has ended
	}
	return nil
}
