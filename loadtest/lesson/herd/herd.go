// Package herd counts the requests that the release of a lock causes to ZooKeeper:
// if all waiters watch the holder's node, and if each watches its predecessor. The
// second way is the service's own lock. The first one exists only here.
package herd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/lock/zklock"
	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

const (
	// Waiters is the least number of clients that wait when a lock is released.
	Waiters = 50
	// Releases are counted. A heartbeat in one of them does not change the median.
	Releases = 5
	// Limit is the most requests that a release may cause without a herd.
	Limit = 5

	// sessionTTL is so long that few heartbeats fall into the count.
	sessionTTL = time.Minute
	// closeTimeout bounds the closing of all clients.
	closeTimeout = 30 * time.Second
	// poll is the interval at which the server's counters are read.
	poll = 2 * time.Millisecond
	name = "SKU"
)

// Way is one way to wait for a lock.
type Way struct {
	open func(servers []string) (locker, error)
	// watches is how many watches the server has while one client holds the lock and
	// that many wait: with so many, the server has handled all requests.
	watches func(waiters int) int
}

type locker interface {
	Lock(ctx context.Context, name string) (unlock func(context.Context) error, err error)
	Close(ctx context.Context) error
}

// predecessor adapts the service's own lock.
type predecessor struct{ lock.Locker }

func (l predecessor) Lock(ctx context.Context, name string) (unlock func(context.Context) error, err error) {
	held, err := l.Locker.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	return held.Unlock, nil
}

// All waiters watch the holder: a release wakes all of them.
var All = Way{
	open:    func(servers []string) (locker, error) { return newAll(servers, "/all") },
	watches: func(waiters int) int { return waiters },
}

// Predecessor is the service's own lock: each waiter watches the node before its own.
var Predecessor = Way{
	open: func(servers []string) (locker, error) {
		l, err := zklock.New(zklock.Config{Servers: servers, Prefix: "/predecessor", TTL: sessionTTL, Owner: "lesson"})
		return predecessor{l}, err
	},
	watches: func(waiters int) int {
		if waiters == 0 {
			return 2 // the holder watches its own node, and the queue for new waiters
		}
		return 2*waiters + 1 // each watches its own node, and each waiter its predecessor
	},
}

// Measure returns the median number of requests for one release. ctx needs a deadline.
func Measure(ctx context.Context, server *sandbox.ZooKeeper, way Way) (requests int, err error) {
	c := counter{node: server.Nodes[0]}
	q := queue{way: way, servers: server.Addrs()}
	defer func() { err = errors.Join(err, q.close()) }()
	for waiting := range Waiters + Releases {
		if err := q.join(ctx); err != nil {
			return 0, err
		}
		if waiting == 0 {
			<-q.clients[0].granted // so that the first client is first in the queue
		}
		if err := c.awaitWatches(ctx, way.watches(waiting)); err != nil {
			return 0, err
		}
	}
	var counts []int
	for left := Waiters + Releases - 2; left >= Waiters-1; left-- {
		before, err := c.requests(ctx)
		if err != nil {
			return 0, err
		}
		if err := q.release(ctx); err != nil {
			return 0, err
		}
		if err := c.awaitWatches(ctx, way.watches(left)); err != nil {
			return 0, err
		}
		after, err := c.requests(ctx)
		if err != nil {
			return 0, err
		}
		counts = append(counts, after-before)
	}
	slices.Sort(counts)
	return counts[len(counts)/2], nil
}

// queue has the clients of one lock, in order of arrival.
type queue struct {
	way     Way
	servers []string
	clients []*client
	first   int // the holder
}

// client waits for the lock, and holds it once granted is closed.
type client struct {
	locker  locker
	granted chan struct{}
	unlock  func(context.Context) error // valid after granted, as is err
	err     error
}

func (q *queue) join(ctx context.Context) error {
	l, err := q.way.open(q.servers)
	if err != nil {
		return err
	}
	c := &client{locker: l, granted: make(chan struct{})}
	q.clients = append(q.clients, c)
	go func() { // until close
		defer close(c.granted)
		c.unlock, c.err = l.Lock(ctx, name)
	}()
	return nil
}

// release releases the lock and returns when the next client holds it.
func (q *queue) release(ctx context.Context) error {
	holder, next := q.clients[q.first], q.clients[q.first+1]
	<-holder.granted
	if holder.err != nil {
		return holder.err
	}
	if err := holder.unlock(ctx); err != nil {
		return err
	}
	q.first++
	<-next.granted // at ctx's end at the latest
	return next.err
}

// close closes all clients and waits for their calls of Lock.
func (q *queue) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var group errgroup.Group
	for _, c := range q.clients {
		group.Go(func() error {
			err := c.locker.Close(ctx)
			<-c.granted
			return err
		})
	}
	return group.Wait()
}

// counter reads the server's own counters.
type counter struct {
	node  *sandbox.ZooKeeperNode
	reads int // which the server counts too
}

// requests is how many requests the server has received, without this counter's.
func (c *counter) requests(ctx context.Context) (int, error) {
	n, err := c.read(ctx, "zk_packets_received")
	return n - c.reads, err
}

// awaitWatches waits until the server has that many watches.
func (c *counter) awaitWatches(ctx context.Context, watches int) error {
	for last := 0; ; {
		n, err := c.read(ctx, "zk_watch_count")
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("the server has %d watches instead of %d: %w", last, watches, ctx.Err())
		case err != nil || n == watches:
			return err
		}
		last = n
		_ = sleep.For(ctx, poll)
	}
}

func (c *counter) read(ctx context.Context, name string) (int, error) {
	c.reads++
	text, err := c.node.Ask(ctx, "mntr")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+"\t"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("ZooKeeper at %s does not report %s", c.node.Addr, name)
}
