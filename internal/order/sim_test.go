package order

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"testing"
	"time"
)

// This file and the other sim*_test.go simulate replicas, MySQL, etcd and the network in
// one synctest bubble: docs/simulation.md. Here is what all of them share: chance, time,
// ways that can be shut, and calls of servers.
//
// A run depends only on its seed. A delay is computed from the seed, the goroutine that
// waits, what it waits for, and when it began. Two goroutines almost never act in the same
// nanosecond, so the order of events does not depend on the scheduler.

// sim is one run.
type sim struct {
	t     *testing.T
	seed  uint64
	began time.Time
	// background is every goroutine of a server, of the network and of a fault.
	background sync.WaitGroup

	mysql *simMySQL
	etcd  *simEtcd
	nodes []*simNode
	skus  []string

	mu     sync.Mutex
	events []simEvent
	faults []string // violations
	links  []simLink
}

type simEvent struct {
	at   time.Duration
	text string
}

func (s *sim) now() time.Duration { return time.Since(s.began) }

func (s *sim) log(format string, args ...any) {
	e := simEvent{s.now(), fmt.Sprintf(format, args...)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// violated notes that an invariant does not hold.
func (s *sim) violated(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.log("VIOLATED: %s", text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, text)
}

func (s *sim) failed() bool { return len(s.faults) > 0 }

// history is the log, in an order that does not depend on the scheduler.
func (s *sim) history() []simEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.events)
	slices.SortFunc(all, func(a, b simEvent) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.text, b.text)) })
	return all
}

func (s *sim) hash() uint64 {
	h := fnv.New64a()
	for _, e := range s.history() {
		fmt.Fprintln(h, e.at.Nanoseconds(), e.text)
	}
	return h.Sum64()
}

// chance is a source of numbers for one action of one actor.
type chance struct{ state uint64 }

// chance depends on the seed, on who acts, and on when.
func (s *sim) chance(who string) *chance {
	c := &chance{s.seed ^ uint64(s.now())*0x9e3779b97f4a7c15}
	c.next()
	for i := range len(who) {
		c.state = (c.state ^ uint64(who[i])) * 0x100000001b3
	}
	c.next()
	return c
}

// next is SplitMix64.
func (c *chance) next() uint64 {
	c.state += 0x9e3779b97f4a7c15
	z := c.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (c *chance) n(n int) int                        { return int(c.next() % uint64(n)) }
func (c *chance) oneIn(n int) bool                   { return c.n(n) == 0 }
func (c *chance) upTo(d time.Duration) time.Duration { return time.Duration(c.next() % uint64(d)) }

// delay is about d, and sometimes much longer.
func (c *chance) delay(d time.Duration) time.Duration {
	if c.oneIn(16) {
		d *= 10
	}
	return d/2 + c.upTo(d)
}

func (c *chance) sleep(d time.Duration) { time.Sleep(c.delay(d)) }

// way is a connection that faults shut and open again.
type way struct {
	mu   sync.Mutex
	shut int           // faults that shut it
	open chan struct{} // closed while it is open
}

func newWay() *way {
	w := &way{open: make(chan struct{})}
	close(w.open)
	return w
}

func (w *way) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shut++; w.shut == 1 {
		w.open = make(chan struct{})
	}
}

func (w *way) reopen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shut--; w.shut == 0 {
		close(w.open)
	}
}

func (w *way) opened() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

// pass waits until all ways are open. It returns false if over is closed first.
func (c *chance) pass(over <-chan struct{}, ways ...*way) bool {
	for waited := true; waited; {
		waited = false
		for _, w := range ways {
			select {
			case <-w.opened():
				continue
			default:
			}
			waited = true
			select {
			case <-w.opened():
				c.sleep(200 * time.Microsecond) // others have waited as well
			case <-over:
				return false
			}
		}
	}
	return true
}

// simServer is what MySQL and etcd have in common.
type simServer struct {
	s    *sim
	name string

	mu    sync.Mutex
	down  bool
	epoch int  // restarts
	lossy bool // a third of the answers is lost
	late  bool // a third of the requests takes seconds
}

var (
	errSimRefused = errors.New("connection refused")
	errSimReset   = errors.New("connection reset")
)

func (sv *simServer) isDown() bool {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	return sv.down
}

func (sv *simServer) set(f func()) {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	f()
}

// call sends a request from a process and waits for the answer. exec runs at the server,
// perhaps long after the caller has given up: it must not write what the caller reads,
// unless call returns nil.
func (sv *simServer) call(ctx context.Context, p *simProcess, what string, exec func(c *chance) error) error {
	if isClosed(p.dead) {
		return errSimRefused
	}
	c := sv.s.chance(p.name + sv.name + what + callerOf(ctx))
	result := make(chan error, 1)
	sv.s.background.Go(func() { result <- sv.carry(ctx, p, c, exec) })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-p.dead:
		return errSimReset
	}
}

const simTrip = 300 * time.Microsecond // one way to a server

func (sv *simServer) carry(ctx context.Context, p *simProcess, c *chance, exec func(c *chance) error) error {
	to := p.node.ways[sv.name]
	over := ctx.Done()
	if c.oneIn(2) {
		over = p.dead // it is in a buffer, and will arrive
	}
	if !c.pass(over, p.node.running, to) {
		return errSimRefused
	}
	c.sleep(simTrip)
	sv.mu.Lock()
	down, epoch, late := sv.down, sv.epoch, sv.late
	sv.mu.Unlock()
	if down {
		return errSimRefused
	}
	if late && c.oneIn(3) {
		time.Sleep(c.upTo(4 * time.Second))
	}
	err := exec(c)
	sv.mu.Lock()
	lost := sv.down || sv.epoch != epoch || sv.lossy && c.oneIn(3)
	sv.mu.Unlock()
	if lost {
		return errSimReset
	}
	c.sleep(simTrip)
	if !c.pass(p.dead, p.node.running, to) {
		return errSimReset
	}
	return err
}

type callerKey struct{}

// callerOf is the name of the buyer's request that ctx belongs to.
func callerOf(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}
