package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3/concurrency"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/sleep"
)

// TextbookCapabilities are what a Textbook promises. It is not fair: a waiter in
// the process stands in no queue that others see.
var TextbookCapabilities = lock.Capabilities{
	Processes: true, LossNotice: true, Queue: true, Renewed: true, Restart: true, LockTrips: 1, UnlockTrips: 1,
}

// Textbook is a lock.Locker made of the client library's concurrency.Mutex, as
// its documentation shows it, for comparison with Locker. Its Lock outlives its
// context when etcd is dead; its Unlock deletes without comparing.
//
// The library's mutex lets its session in as often as it asks. So there is a
// gate before it, and in a process one goroutine at a time gets to the mutex.
type Textbook struct {
	cfg  Config
	gate *processlock.Locker
	// session is the current one, in a channel of one, so that waiting for it
	// can be given up. It is nil before the first, and after a loss.
	session chan *concurrency.Session
	closed  context.Context
	close   context.CancelFunc
}

// NewTextbook makes a Textbook. It does not talk to etcd yet.
func NewTextbook(cfg Config) (*Textbook, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	closed, cancel := context.WithCancel(context.Background())
	t := &Textbook{
		cfg: cfg, gate: processlock.New(),
		session: make(chan *concurrency.Session, 1), closed: closed, close: cancel,
	}
	t.session <- nil
	return t, nil
}

// Lock waits for its turn.
func (t *Textbook) Lock(ctx context.Context, name string) (lock.Held, error) {
	gate, err := t.gate.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.enter(ctx, name, gate, (*concurrency.Mutex).Lock)
}

// TryLock is Lock without the wait.
func (t *Textbook) TryLock(ctx context.Context, name string) (lock.Held, error) {
	gate, err := t.gate.TryLock(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.enter(ctx, name, gate, (*concurrency.Mutex).TryLock)
}

// enter gets from the gate to the mutex.
func (t *Textbook) enter(ctx context.Context, name string, gate lock.Held,
	acquire func(*concurrency.Mutex, context.Context) error) (lock.Held, error) {
	session, err := t.liveSession(ctx)
	if err == nil {
		mutex := concurrency.NewMutex(session, t.cfg.Prefix+name)
		until, cancel := context.WithCancel(ctx)
		unhook := context.AfterFunc(t.closed, cancel)
		err = acquire(mutex, until)
		unhook()
		cancel()
		if err == nil {
			return &textbookHeld{Held: gate, session: session, mutex: mutex}, nil
		}
		t.cleanUp(ctx, mutex.Key())
	}
	_ = gate.Unlock(ctx) // fails only when closed
	switch {
	case t.closed.Err() != nil:
		err = lock.ErrClosed
	case errors.Is(err, concurrency.ErrLocked):
		err = lock.ErrHeld
	case ctx.Err() != nil:
		// etcd has the same deadline, and may have said so first in its own words.
		err = fmt.Errorf("%w (%s)", ctx.Err(), err.Error())
	}
	return nil, fmt.Errorf("lock %s: %w", name, err)
}

// cleanUp deletes the key of a Lock that failed. The library's mutex leaves it
// where its context ended before etcd had answered; it would stand in the queue
// for as long as the session lives. Behind the gate, nobody else here uses it.
func (t *Textbook) cleanUp(ctx context.Context, key string) {
	if key == "" || key == "\x00" { // it was never asked for, or was given back
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	_, _ = t.cfg.Client.Delete(ctx, key) // else it ends with the session
}

// cleanUpTimeout bounds what a Lock that has failed still does.
const cleanUpTimeout = time.Second

// liveSession returns the session, or a new one after its end.
func (t *Textbook) liveSession(ctx context.Context) (*concurrency.Session, error) {
	var session *concurrency.Session
	select {
	case session = <-t.session:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { t.session <- session }()
	if t.closed.Err() != nil {
		return nil, lock.ErrClosed
	}
	if session != nil && !ended(session) {
		return session, nil
	}
	session = nil
	// NewSession would wait for a lease without regard to ctx: give it one.
	answer, err := t.cfg.Client.Grant(ctx, int64(t.cfg.TTL/time.Second))
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	session, err = concurrency.NewSession(t.cfg.Client, concurrency.WithLease(answer.ID))
	if err != nil {
		session = nil
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	return session, nil
}

// Close revokes the session's lease within ctx. It does not wait for a Lock that
// waits for a dead etcd.
func (t *Textbook) Close(ctx context.Context) error {
	t.close()
	if err := t.gate.Close(ctx); err != nil {
		return err
	}
	var session *concurrency.Session
	select {
	case session = <-t.session:
	case <-ctx.Done():
		return fmt.Errorf("close etcd session: %w", ctx.Err())
	}
	t.session <- nil
	if session == nil {
		return nil
	}
	session.Orphan()
	_, err := t.cfg.Client.Revoke(ctx, session.Lease())
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("close etcd session: %w", err)
	}
	return nil
}

func ended(session *concurrency.Session) bool {
	select {
	case <-session.Done():
		return true
	default:
		return false
	}
}

// textbookHeld is a grant of the mutex and of the gate before it.
type textbookHeld struct {
	lock.Held // the gate's
	session   *concurrency.Session
	mutex     *concurrency.Mutex
	over      atomic.Bool // Unlock was called
}

// Lost is closed when the session has noticed its end.
func (h *textbookHeld) Lost() <-chan struct{} { return h.session.Done() }

// Wanted is nil: the mutex does not tell.
func (h *textbookHeld) Wanted() <-chan struct{} { return nil }

// Unlock deletes the session's key, whoever made it, and then opens the gate. It
// asks again where the answer was lost, with a node, say: until ctx ends, the key
// would stand for as long as the session lives. If it does stand after all, the
// next Lock of this process takes it over, and so a second Unlock deletes nothing.
func (h *textbookHeld) Unlock(ctx context.Context) error {
	if h.over.Swap(true) {
		return lock.ErrLost
	}
	lost := ended(h.session)
	err := h.mutex.Unlock(ctx)
	for err != nil && !ended(h.session) && sleep.For(ctx, unlockRest) == nil {
		err = h.mutex.Unlock(ctx)
	}
	gate := h.Held.Unlock(ctx)
	switch {
	case lost || gate != nil || err != nil && ended(h.session):
		return lock.ErrLost
	case err != nil:
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// unlockRest is the time between two attempts of an Unlock.
const unlockRest = 50 * time.Millisecond
