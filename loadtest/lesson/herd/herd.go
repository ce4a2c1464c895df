// Package herd counts what the release of a lock costs ZooKeeper: where all who
// wait watch the same node, and where each watches the one before it alone. The
// second way is the service's own lock; the first one stands here alone.
package herd

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	// Waiters is how many wait when a lock is released, at least.
	Waiters = 50
	// Releases is how many are counted: the median is not touched by a client's
	// sign of life that falls into one.
	Releases = 5
	// Limit is what a release may cost where no herd is woken: the one who leaves
	// deletes its node, and the next one looks at the queue. It does not depend on
	// how many wait.
	Limit = 5

	// sessionTTL is so long that hardly any sign of life falls into the count.
	sessionTTL = time.Minute
	// patience bounds the whole: it takes some seconds.
	patience = 30 * time.Second
	// poll is how often the server is asked whether it has come to rest.
	poll = 2 * time.Millisecond
	// name is the lock's.
	name = "SKU"
)

// Result is what a release costs, in requests that the server gets.
type Result struct {
	Waiters  int // at the least
	Releases int
	// Herd is with all who wait watching the holder, Predecessor with each watching
	// the one before it. Both are medians.
	Herd, Predecessor int
}

// Way is one way to wait for a lock.
type Way struct {
	// Title says what is watched.
	Title string

	open func(servers []string) (locker, error)
	// watches is how many watches the server has while one holds and so many wait:
	// by it one knows that it has come to rest.
	watches func(waiters int) int
}

// locker is one client's lock.
type locker interface {
	Lock(ctx context.Context, name string) (lock.Held, error)
	Close(ctx context.Context) error
}

// All watch the holder: a release wakes everybody, to look and to wait again.
var All = Way{
	Title:   "all who wait watch the holder",
	open:    func(servers []string) (locker, error) { return newAll(servers, "/all") },
	watches: func(waiters int) int { return waiters },
}

// Predecessor is the service's own lock: each watches the node before its own.
var Predecessor = Way{
	Title: "each watches the one before it",
	open: func(servers []string) (locker, error) {
		return zklock.New(zklock.Config{Servers: servers, Prefix: "/predecessor", TTL: sessionTTL, Owner: "lesson"})
	},
	watches: func(waiters int) int {
		if waiters == 0 {
			return 2 // the holder watches its node, and the queue for others to come
		}
		return 2*waiters + 1 // each its own node, and those who wait another
	},
}

// Run measures both ways on a private ZooKeeper, and writes down what it sees.
func Run(ctx context.Context, w io.Writer) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r := Result{Waiters: Waiters, Releases: Releases}
	server, err := sandbox.StartZooKeeper(ctx, 1)
	if err != nil {
		return r, err
	}
	fmt.Fprintf(w, "%d clients wait for one lock, and it is released. What the server gets to do, each time:\n", Waiters)
	for _, run := range []struct {
		way  Way
		cost *int
	}{{All, &r.Herd}, {Predecessor, &r.Predecessor}} {
		if *run.cost, err = Measure(ctx, server, run.way); err != nil {
			return r, errors.Join(fmt.Errorf("%s: %w", run.way.Title, err), server.Close())
		}
		fmt.Fprintf(w, "  %-32s %4d requests\n", run.way.Title, *run.cost)
	}
	return r, server.Close()
}

// Measure returns the median of the requests that the server gets for one release.
func Measure(ctx context.Context, server *sandbox.ZooKeeper, way Way) (requests int, err error) {
	c := counter{node: server.Nodes[0]}
	q := queue{way: way, servers: server.Addrs()}
	defer func() { err = errors.Join(err, q.close()) }()
	for waiting := range Waiters + Releases {
		if err := q.join(ctx); err != nil {
			return 0, err
		}
		if waiting == 0 {
			<-q.clients[0].granted // else the next may come before it
		}
		if err := c.rest(ctx, way.watches(waiting)); err != nil {
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
		if err := c.rest(ctx, way.watches(left)); err != nil {
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

// queue is the clients of one lock, in the order in which they came.
type queue struct {
	way     Way
	servers []string
	clients []*client
	first   int // who holds
}

// client waits for the lock, and has it once granted is closed.
type client struct {
	locker  locker
	granted chan struct{}
	held    lock.Held // these may be read after granted
	err     error
}

// join adds a client.
func (q *queue) join(ctx context.Context) error {
	l, err := q.way.open(q.servers)
	if err != nil {
		return err
	}
	c := &client{locker: l, granted: make(chan struct{})}
	q.clients = append(q.clients, c)
	go func() { // until close
		defer close(c.granted)
		c.held, c.err = l.Lock(ctx, name)
	}()
	return nil
}

// release passes the lock on, and returns when the next client has it.
func (q *queue) release(ctx context.Context) error {
	holder, next := q.clients[q.first], q.clients[q.first+1]
	<-holder.granted
	if holder.err != nil {
		return holder.err
	}
	if err := holder.held.Unlock(ctx); err != nil {
		return err
	}
	q.first++
	<-next.granted // or refused, at ctx's end
	return next.err
}

// close ends all clients, and waits for those that still wait.
func (q *queue) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
	node *sandbox.ZooKeeperNode
	asks int // which the server counts as well
}

// requests is how many the server has got, but for this counter's.
func (c *counter) requests(ctx context.Context) (int, error) {
	n, err := c.read(ctx, "zk_packets_received")
	return n - c.asks, err
}

// rest waits until the server has so many watches.
func (c *counter) rest(ctx context.Context, watches int) error {
	for last := 0; ; {
		n, err := c.read(ctx, "zk_watch_count")
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("the server has %d watches, not %d: %w", last, watches, ctx.Err())
		case err != nil || n == watches:
			return err
		}
		last = n
		_ = sleep.For(ctx, poll)
	}
}

func (c *counter) read(ctx context.Context, name string) (int, error) {
	c.asks++
	text, err := c.node.Ask(ctx, "mntr")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+"\t"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("ZooKeeper at %s does not count %s", c.node.Addr, name)
}
