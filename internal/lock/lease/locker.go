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

// Store is a server that gives a name to one owner at a time, for the length of a
// lease. Each request of a grant has a new owner, so that a late request cannot be
// mistaken for another. A Store is safe for concurrent use. Each call must return by
// its context's deadline, but need not return as soon as the context is cancelled.
type Store interface {
	// Try takes name for owner if it is free or its lease has ended. If it is held, Try
	// returns lock.ErrHeld or a lock.HeldError. After another error, the name may or may
	// not have been taken.
	Try(ctx context.Context, name, owner string) (lock.Token, error)
	// Renew extends the lease. It returns lock.ErrLost if owner does not hold name.
	Renew(ctx context.Context, name, owner string) error
	// Release frees name if owner holds it. Otherwise it changes nothing and returns
	// lock.ErrLost.
	Release(ctx context.Context, name, owner string) error
}

// Config configures a Locker.
type Config struct {
	Store Store
	TTL   time.Duration
	// Owner begins the name of each owner, for people: replica@host:pid. ParseOwner
	// reads it.
	Owner string
	// AwaitChange is optional. It is called after a refusal and returns when name may have
	// become free, or soon after ctx ends. Without it, a waiter polls.
	AwaitChange func(ctx context.Context, name string) error
	// CloseStore is optional. Close calls it after the last call of the Store.
	CloseStore func() error
	// Final is optional. It reports whether an error of the Store is permanent, as
	// that of a wrong password. Lock then fails at once.
	Final func(error) bool
}

const (
	// poll is the shortest wait between two tries of a waiter. The longest is twice
	// that.
	poll = 50 * time.Millisecond
	// maxPause is the longest wait after an error. It is long enough that thousands of
	// waiters do not delay the restart of a server.
	maxPause = time.Second
)

// Locker is a lock.Locker on a Store. It is fair between the goroutines of a
// process, but not between processes: the first to try after a release succeeds.
type Locker struct {
	cfg  Config
	gate *processlock.Locker

	ctx context.Context // ends with Close
	end context.CancelFunc
	// work is for all calls of the Store except renewals. It ends when Close must not
	// wait any longer.
	work context.Context
	stop context.CancelFunc
	done chan struct{}  // closed when Close has finished
	wg   sync.WaitGroup // of all calls and goroutines; grows only while open

	mu     sync.Mutex
	closed bool
	held   map[*held]bool
	// unsettled has the names with a request whose outcome is unknown, and why.
	unsettled map[string]error
}

// New makes a Locker. It does not connect to the server yet.
func New(cfg Config) (*Locker, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("lease: Store is missing")
	case cfg.TTL < time.Second:
		return nil, fmt.Errorf("lease: TTL is %s; it must be at least 1s", cfg.TTL)
	}
	if cfg.Final == nil {
		cfg.Final = func(error) bool { return false }
	}
	l := &Locker{
		cfg: cfg, gate: processlock.New(), done: make(chan struct{}),
		held: map[*held]bool{}, unsettled: map[string]error{},
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.work, l.stop = context.WithCancel(context.Background())
	return l, nil
}

// Lock waits for its turn in the process, and then for the server's grant. It
// retries transient errors until ctx ends.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	return l.enter(ctx, name, l.gate.Lock, l.retry)
}

// TryLock asks the server once. Its lock.ErrHeld names the holder where the server
// knows it.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return l.enter(ctx, name, l.gate.TryLock, l.try)
}

// enter passes the gate and then acquires the grant.
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

// retry tries until the name is granted or ctx ends.
func (l *Locker) retry(ctx context.Context, name string, gate lock.Held) (*held, error) {
	var last error
	for pause := newBackoff(); ; {
		h, err := l.try(ctx, name, gate)
		if err == nil {
			return h, nil
		}
		if errors.Is(err, lock.ErrHeld) { // the server works
			last = nil
			pause.Reset()
			if err = l.changed(ctx, name); err == nil {
				continue
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil, sleep.Cause(ctx, last)
		case l.cfg.Final(err):
			return nil, err
		}
		last = err
		_ = sleep.For(ctx, pause.Next())
	}
}

func newBackoff() sleep.Backoff { return sleep.Backoff{Min: poll, Max: maxPause} }

// try asks the server once, for a new owner. It returns when ctx ends; a grant
// that comes later is released in the background.
func (l *Locker) try(ctx context.Context, name string, gate lock.Held) (*held, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	err := l.unsettled[name]
	l.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("the outcome of an earlier request is unknown: %w", err)
	}
	h := &held{locker: l, gate: gate, name: name, owner: newOwner(l.cfg.Owner)}
	asked := time.Now()
	answer := make(chan error) // unbuffered: a send succeeds only if it is received
	l.wg.Go(func() {
		err := l.call(func(ctx context.Context) (err error) {
			h.token, err = l.cfg.Store.Try(ctx, name, h.owner)
			return err
		})
		unknown := err != nil && !errors.Is(err, lock.ErrHeld) && !l.cfg.Final(err)
		if unknown {
			l.setUnsettled(name, err)
		}
		granted := err == nil
		select {
		case answer <- err:
			granted = false // the caller has it
		case <-ctx.Done():
		}
		if unknown || granted {
			l.takeBack(name, h.owner, asked, unknown)
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

// grant registers a grant of the server, if it came in time.
func (l *Locker) grant(h *held, asked time.Time) error {
	l.mu.Lock()
	h.lease = keep(l.cfg.TTL, asked, func(ctx context.Context) error {
		return l.cfg.Store.Renew(ctx, h.name, h.owner)
	}, func() { h.lose() })
	var err error
	switch {
	case l.closed:
		err = lock.ErrClosed
	case !h.lease.Alive():
		err = fmt.Errorf("the server's answer took longer than the TTL of %s: %w", l.cfg.TTL, lock.ErrLost)
	default:
		l.held[h] = true
	}
	if err != nil {
		h.state = gone
	}
	l.mu.Unlock()
	if err != nil {
		l.wg.Go(func() {
			h.lease.Stop()
			l.takeBack(h.name, h.owner, asked, false)
		})
	}
	return err
}

// takeBack releases a grant that no caller has. If the outcome of its request is
// unknown, the server may apply it later, so takeBack repeats the release until the
// lease must have ended. Until the server answers once, try sends nothing for that
// name, so that requests do not pile up at a dead server.
func (l *Locker) takeBack(name, owner string, asked time.Time, unknown bool) {
	if unknown {
		defer l.setUnsettled(name, nil)
	}
	end := asked.Add(l.cfg.TTL + l.callTimeout())
	for pause := newBackoff(); ; {
		last := l.ctx.Err() != nil
		err := l.release(name, owner)
		switch {
		case err == nil, !unknown && errors.Is(err, lock.ErrLost):
			return
		case errors.Is(err, lock.ErrLost):
			l.setUnsettled(name, nil) // the server works, but may still apply the request
		}
		if last || time.Now().After(end) {
			return
		}
		_ = sleep.For(l.ctx, pause.Next())
	}
}

// setUnsettled records why the outcome of a request for name is unknown. A nil error
// removes the record.
func (l *Locker) setUnsettled(name string, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if why != nil {
		l.unsettled[name] = why
	} else {
		delete(l.unsettled, name)
	}
}

func (l *Locker) release(name, owner string) error {
	return l.call(func(ctx context.Context) error { return l.cfg.Store.Release(ctx, name, owner) })
}

// call bounds a call of the Store.
func (l *Locker) call(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(l.work, l.callTimeout())
	defer cancel()
	return f(ctx)
}

func (l *Locker) callTimeout() time.Duration { return l.cfg.TTL / renewals }

// changed waits until name may be free, or ctx ends.
func (l *Locker) changed(ctx context.Context, name string) error {
	if l.cfg.AwaitChange == nil {
		// Random, so that waiters refused together do not ask together.
		return sleep.For(ctx, poll+rand.N(poll))
	}
	answer := make(chan error, 1)
	l.wg.Go(func() { answer <- l.cfg.AwaitChange(ctx, name) })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin registers a call that Close waits for. It reports false after Close.
func (l *Locker) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Add(1)
	}
	return !l.closed
}

// Close releases every grant within ctx and waits for all goroutines of the Locker. Its
// error lists the grants that could not be released; they end with their leases.
func (l *Locker) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done // not a sync.Once: tests with synctest need a channel
		return nil
	}
	defer close(l.done)
	l.closed = true
	all := l.held
	l.held = nil
	for h := range all {
		h.state = gone
	}
	l.mu.Unlock()
	defer context.AfterFunc(ctx, l.stop)()

	l.end()
	_ = l.gate.Close(ctx) // never fails
	failures := make(chan error, len(all))
	for h := range all {
		h.lease.Lose()
		l.wg.Go(func() {
			h.lease.Stop()
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
	if l.cfg.CloseStore != nil {
		err = l.cfg.CloseStore()
	}
	for failure := range failures {
		err = errors.Join(err, failure)
	}
	return err
}
