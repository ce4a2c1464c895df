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
)

// TextbookCapabilities are what a Textbook guarantees. It is not fair: a waiter behind
// another one of its process has no key in the queue.
var TextbookCapabilities = lock.Capabilities{
	Processes: true, LossNotice: true, Queue: true, Renewed: true, Restart: true, LockTrips: 1, UnlockTrips: 1,
}

// Textbook is a lock.Locker made of the client library's concurrency.Mutex, as its
// documentation shows it, for comparison with Locker. When etcd is down, a Lock
// that waits in the queue does not return at the end of its context. Unlock deletes
// without comparing.
//
// The library's mutex is re-entrant for its session. A gate therefore lets one
// goroutine of the process at a time to the mutex.
type Textbook struct {
	inspector

	cfg  Config
	gate *processlock.Locker
	// session holds the current session, or nil before the first and after a loss.
	// It is a channel of size 1 so that a caller can stop waiting for it.
	session chan *concurrency.Session
	closed  context.Context
	close   context.CancelFunc
}

// NewTextbook makes a Textbook. It does not connect to etcd yet.
func NewTextbook(cfg Config) (*Textbook, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	closed, cancel := context.WithCancel(context.Background())
	t := &Textbook{
		inspector: inspector{cfg.Client, cfg.Prefix}, cfg: cfg, gate: processlock.New(),
		session: make(chan *concurrency.Session, 1), closed: closed, close: cancel,
	}
	t.session <- nil
	return t, nil
}

// Lock waits for its turn.
func (t *Textbook) Lock(ctx context.Context, name string) (lock.Held, error) {
	return t.enter(ctx, name, t.gate.Lock, (*concurrency.Mutex).Lock)
}

// TryLock is Lock without the wait.
func (t *Textbook) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return t.enter(ctx, name, t.gate.TryLock, (*concurrency.Mutex).TryLock)
}

func (t *Textbook) enter(ctx context.Context, name string, pass func(context.Context, string) (lock.Held, error),
	acquire func(*concurrency.Mutex, context.Context) error) (lock.Held, error) {
	gate, err := pass(ctx, name)
	if err != nil {
		return nil, err
	}
	session, mutex, err := t.acquire(ctx, name, acquire)
	switch {
	case err == nil:
		return &textbookHeld{Held: gate, locker: t, session: session, mutex: mutex}, nil
	case mutex != nil && mutex.Key() != "\x00": // the library has not deleted it
		go t.cleanUp(gate, session, mutex.Key())
	default:
		_ = gate.Unlock(ctx) // fails only when closed
	}
	switch {
	case t.closed.Err() != nil:
		err = lock.ErrClosed
	case errors.Is(err, concurrency.ErrLocked):
		err = lock.ErrHeld
	case ctx.Err() != nil:
		// etcd has the same deadline and may have answered first, with its own error.
		err = fmt.Errorf("%w (%s)", ctx.Err(), err.Error())
	}
	return nil, fmt.Errorf("lock %s: %w", name, err)
}

// acquire also returns the mutex and its session if the mutex could not be locked.
func (t *Textbook) acquire(ctx context.Context, name string, acquire func(*concurrency.Mutex, context.Context) error) (*concurrency.Session, *concurrency.Mutex, error) {
	until, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.closed, cancel)()
	for {
		session, err := t.liveSession(ctx)
		if err != nil {
			return nil, nil, err
		}
		mutex := concurrency.NewMutex(session, t.cfg.Prefix+name)
		if err := acquire(mutex, until); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return session, mutex, err
		}
		session.Orphan() // etcd has ended its lease, which the library has not noticed yet
	}
}

// cleanUp deletes the key of a failed Lock or Unlock, and then opens the gate. The
// library's mutex leaves its key when a context ends before etcd has answered, and all
// others would wait for the key as long as the session lives. The failed call does not
// wait for this. The next Lock of this process does, as it would use the same key; a TryLock
// meanwhile returns ErrHeld.
//
// etcd may still apply the request of a failed Lock later. Others then wait until this
// process locks the name again, which uses that key. (Locker finds and deletes such keys.)
func (t *Textbook) cleanUp(gate lock.Held, session *concurrency.Session, key string) {
	ctx, cancel := context.WithCancel(session.Ctx()) // the key ends with the session
	defer cancel()
	defer context.AfterFunc(t.closed, cancel)()
	_ = backoff.Retry(ctx, func(err error) bool { return !isFinal(err) }, func() error {
		ctx, cancel := context.WithTimeout(ctx, t.cfg.TTL/3)
		defer cancel()
		now, err := t.cfg.Client.Get(ctx, key)
		if err != nil || len(now.Kvs) == 0 {
			return err
		}
		// By its revision: etcd may apply a deletion without an answer after the next Lock.
		_, err = deleteKey(ctx, t.cfg.Client, key, now.Kvs[0].CreateRevision)
		return err
	})
	_ = gate.Unlock(ctx) // fails only when closed
}

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
	// NewSession would request a lease without ctx.
	answer, err := t.cfg.Client.Grant(ctx, int64(t.cfg.TTL/time.Second))
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	began, err := concurrency.NewSession(t.cfg.Client, concurrency.WithLease(answer.ID))
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	session = began
	return session, nil
}

// Inspect lists the locks that are held. A key of the library's mutex does not name
// its owner: Holder is the id of the lease.
func (t *Textbook) Inspect(ctx context.Context) ([]lock.Info, error) {
	list, err := t.inspector.Inspect(ctx)
	for i := range list {
		list[i].Token = 0 // its grants have none
	}
	return list, err
}

// Close revokes the session's lease within ctx. It does not wait for a Lock that hangs
// because etcd is down.
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

type textbookHeld struct {
	lock.Held // the gate's
	locker    *Textbook
	session   *concurrency.Session
	mutex     *concurrency.Mutex
	unlocked  atomic.Bool // Unlock was called
}

func (h *textbookHeld) Lost() <-chan struct{}      { return h.session.Done() }
func (h *textbookHeld) Contended() <-chan struct{} { return nil } // the mutex does not tell

// Unlock deletes the session's key and then opens the gate. It retries until ctx ends;
// cleanUp then goes on. The next Lock of this process has the same key, so a second
// Unlock must delete nothing.
func (h *textbookHeld) Unlock(ctx context.Context) error {
	if h.unlocked.Swap(true) {
		return lock.ErrLost
	}
	lost := ended(h.session)
	err := backoff.Retry(ctx, func(error) bool { return !ended(h.session) }, func() error { return h.mutex.Unlock(ctx) })
	if err != nil && !ended(h.session) {
		go h.locker.cleanUp(h.Held, h.session, h.mutex.Key())
		return fmt.Errorf("unlock: %w", err)
	}
	if gate := h.Held.Unlock(ctx); lost || gate != nil || err != nil {
		return lock.ErrLost
	}
	return nil
}
