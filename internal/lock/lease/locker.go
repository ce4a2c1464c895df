package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/sleep"
)

// Store is a server that gives a name to one owner at a time, for the length of
// a lease. An owner is made anew for each try of a grant: nothing that arrives
// late can be taken for a later grant's. It is safe for concurrent use.
//
// Each call has a context with a deadline, of a third of the TTL at most, and
// returns by then. Nobody but Close waits longer than it has asked for: a call
// need not return as soon as its context is cancelled.
type Store interface {
	// Try takes name for owner if nobody has it, or its lease is over. It
	// returns lock.ErrHeld, as a lock.HeldError where it is known whose it is.
	// After any other error it may or may not have been taken.
	Try(ctx context.Context, name, owner string) (lock.Token, error)
	// Renew extends the lease. lock.ErrLost: owner has it no more.
	Renew(ctx context.Context, name, owner string) error
	// Release gives name back if owner has it, and else returns lock.ErrLost. It
	// never touches another's.
	Release(ctx context.Context, name, owner string) error
}

// Config is what a Locker is made of.
type Config struct {
	Store Store
	TTL   time.Duration
	// Owner begins the name of each owner, for people: replica@host:pid, so that
	// ParseOwner finds the replica.
	Owner string
	// Changed, where the server can tell, returns when name may have become
	// free, or soon after the end of ctx. It is called after a refusal: what has
	// become free since then counts. It must not return at once again and again.
	// Without it the server is asked every Poll.
	Changed func(ctx context.Context, name string) error
	// Final, if any, says of a Store's error that waiting will not mend it, as
	// that of a wrong password: Lock fails at once.
	Final func(error) bool
	// Poll is the shortest wait between two tries; the longest is twice that.
	// MinPoll is the least, and what zero means.
	Poll time.Duration
}

const (
	// MinPoll is how often a server may be asked whether a name is free, at most.
	MinPoll = 50 * time.Millisecond
	// maxPause is the longest wait for a server in trouble, so that it is used
	// again soon after its return, and thousands of waiters do not delay that.
	maxPause = time.Second
)

// Locker is a lock.Locker on a Store. It is not fair between processes: whoever
// tries first after a release has it. In a process it is.
type Locker struct {
	cfg  Config
	gate *processlock.Locker

	ctx   context.Context // ends with Close
	close context.CancelFunc
	// work is the context of all calls of the Store but renewals. It ends when
	// Close can wait no longer.
	work context.Context
	stop context.CancelFunc
	done chan struct{}  // closed when Close has finished
	wg   sync.WaitGroup // of all calls and goroutines; grows only while open

	mu     sync.Mutex
	closed bool
	held   map[*held]bool
	// unsettled are the names for which a request has had no answer yet, with
	// the reason: it may stand on the server, and nobody holds by it.
	unsettled map[string]error
}

// New makes a Locker. It does not talk to the server yet.
func New(cfg Config) (*Locker, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("lease: no store")
	case cfg.TTL < time.Second:
		return nil, fmt.Errorf("lease: TTL is %s, must be at least 1s", cfg.TTL)
	case cfg.Poll == 0:
		cfg.Poll = MinPoll
	case cfg.Poll < MinPoll:
		return nil, fmt.Errorf("lease: poll is %s, must be at least %s", cfg.Poll, MinPoll)
	}
	if cfg.Final == nil {
		cfg.Final = func(error) bool { return false }
	}
	l := &Locker{
		cfg: cfg, gate: processlock.New(), done: make(chan struct{}),
		held: map[*held]bool{}, unsettled: map[string]error{},
	}
	l.ctx, l.close = context.WithCancel(context.Background())
	l.work, l.stop = context.WithCancel(context.Background())
	return l, nil
}

// Lock waits for its turn in the process, and then for the server's grant,
// through any trouble with the server.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	return l.enter(ctx, name, l.gate.Lock, l.await)
}

// TryLock asks once. lock.ErrHeld names the holder where the server knows it.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return l.enter(ctx, name, l.gate.TryLock, l.try)
}

// enter gets through the gate to a grant.
func (l *Locker) enter(ctx context.Context, name string,
	pass func(context.Context, string) (lock.Held, error),
	acquire func(context.Context, string, lock.Held) (*held, error)) (lock.Held, error) {
	if !l.begin() {
		return nil, lock.ErrClosed
	}
	defer l.wg.Done()
	gate, err := pass(ctx, name)
	if err != nil {
		return nil, err
	}
	until, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	h, err := acquire(until, name, gate)
	if err == nil {
		return h, nil
	}
	_ = gate.Unlock(ctx) // fails only when closed
	if l.ctx.Err() != nil {
		err = lock.ErrClosed
	}
	return nil, fmt.Errorf("lock %s: %w", name, err)
}

// await tries until it is granted, or ctx ends.
func (l *Locker) await(ctx context.Context, name string, gate lock.Held) (*held, error) {
	var trouble error
	for pause := l.cfg.Poll; ; {
		h, err := l.try(ctx, name, gate)
		if err == nil {
			return h, nil
		}
		if errors.Is(err, lock.ErrHeld) { // the server answers
			trouble, pause = nil, l.cfg.Poll
			if err = l.changed(ctx, name); err == nil {
				continue
			}
		}
		switch {
		case ctx.Err() != nil && trouble != nil:
			// As text only: a call's own time-out is not the caller's.
			return nil, fmt.Errorf("%w (%s)", ctx.Err(), trouble.Error())
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case l.cfg.Final(err):
			return nil, err
		}
		trouble = err
		_ = sleep.For(ctx, sleep.Jittered(pause))
		pause = min(2*pause, maxPause)
	}
}

// try asks the server once, under an owner's name of its own. It returns at
// ctx's end; what the server grants after that is taken back behind it.
func (l *Locker) try(ctx context.Context, name string, gate lock.Held) (*held, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	err := l.unsettled[name]
	l.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("an earlier request has had no answer: %w", err)
	}
	h := &held{locker: l, gate: gate, name: name, owner: newOwner(l.cfg.Owner)}
	asked := time.Now()
	answer := make(chan error) // of no size: sent is received
	l.wg.Go(func() {
		err := l.call(func(ctx context.Context) (err error) {
			h.token, err = l.cfg.Store.Try(ctx, name, h.owner)
			return err
		})
		doubtful := err != nil && !errors.Is(err, lock.ErrHeld) && !l.cfg.Final(err)
		if doubtful {
			l.settle(name, err)
		}
		select {
		case answer <- err:
			if doubtful {
				l.takeBack(name, h.owner, asked, true)
			}
		case <-ctx.Done(): // nobody is there to take it
			if doubtful || err == nil {
				l.takeBack(name, h.owner, asked, doubtful)
			}
		}
	})
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return h, l.grant(h, asked)
}

// grant makes a grant of what the server has given.
func (l *Locker) grant(h *held, asked time.Time) error {
	l.mu.Lock()
	h.kept = keep(l.cfg.TTL, asked, func(ctx context.Context) error {
		return l.cfg.Store.Renew(ctx, h.name, h.owner)
	}, func() { h.lose() })
	var err error
	switch {
	case l.closed:
		err = lock.ErrClosed
	case !h.kept.Alive():
		err = fmt.Errorf("the answer has come after the lease's own time of %s: %w", l.cfg.TTL, lock.ErrLost)
	default:
		l.held[h] = true
	}
	if err != nil {
		h.state = gone
	}
	l.mu.Unlock()
	if err != nil {
		l.wg.Go(func() {
			h.kept.Stop()
			l.takeBack(h.name, h.owner, asked, false)
		})
	}
	return err
}

// takeBack releases what owner has. A doubtful request, one that has failed, may
// have been applied, or be so later: that is looked for until the lease must have
// ended by itself. Until the server has answered, nothing else is asked of it for
// that name: no requests pile up before a dead one, and nobody waits for the end
// of a lease of our own.
func (l *Locker) takeBack(name, owner string, asked time.Time, doubtful bool) {
	defer func() {
		if doubtful {
			l.settle(name, nil)
		}
	}()
	end := asked.Add(l.cfg.TTL + l.callTimeout())
	for pause := l.cfg.Poll; ; pause = min(2*pause, maxPause) {
		last := l.ctx.Err() != nil
		err := l.release(name, owner)
		switch {
		case err == nil, !doubtful && errors.Is(err, lock.ErrLost):
			return
		case errors.Is(err, lock.ErrLost):
			l.settle(name, nil) // it is not there; not yet, perhaps
		}
		if last || time.Now().After(end) {
			return
		}
		_ = sleep.For(l.ctx, sleep.Jittered(pause))
	}
}

// settle notes why a name is unsettled; nil when it is no longer.
func (l *Locker) settle(name string, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if why != nil {
		l.unsettled[name] = why
	} else {
		delete(l.unsettled, name)
	}
}

// release asks the server once.
func (l *Locker) release(name, owner string) error {
	return l.call(func(ctx context.Context) error { return l.cfg.Store.Release(ctx, name, owner) })
}

// call bounds a call of the Store.
func (l *Locker) call(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(l.work, l.callTimeout())
	defer cancel()
	return f(ctx)
}

// callTimeout is what one call of the Store may take.
func (l *Locker) callTimeout() time.Duration { return l.cfg.TTL / renewals }

// changed waits until it is worth asking again, or ctx ends.
func (l *Locker) changed(ctx context.Context, name string) error {
	if l.cfg.Changed == nil {
		// Spread, so that those who were refused together do not ask together.
		return sleep.For(ctx, l.cfg.Poll+rand.N(l.cfg.Poll))
	}
	answer := make(chan error, 1)
	l.wg.Go(func() { answer <- l.cfg.Changed(ctx, name) })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin counts a call that Close must wait for. It is refused once closed.
func (l *Locker) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Add(1)
	}
	return !l.closed
}

// Close gives every grant back, within ctx, and waits for all that the Locker has
// started. Of calls that are under way at ctx's end it waits for their time-outs.
// An error says what could not be given back: it stays held until its lease ends.
func (l *Locker) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closed = true
	all := l.held
	l.held = nil
	for h := range all {
		h.state = gone
	}
	l.mu.Unlock()
	defer close(l.done)
	defer context.AfterFunc(ctx, l.stop)()

	l.close()
	_ = l.gate.Close(ctx) // never fails
	failures := make(chan error, len(all))
	for h := range all {
		h.kept.Lose()
		l.wg.Go(func() {
			h.kept.Stop()
			err := l.release(h.name, h.owner)
			if err != nil && !errors.Is(err, lock.ErrLost) {
				failures <- fmt.Errorf("unlock %s: %w", h.name, err)
			}
		})
	}
	l.wg.Wait()
	l.stop()
	close(failures)
	var err error
	for failure := range failures {
		err = errors.Join(err, failure)
	}
	return err
}
