package k8slock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
	"flashsale/internal/sleep"
)

// StockCapabilities are what a StockLocker guarantees.
var StockCapabilities = lock.Capabilities{
	Processes: true, Fair: true, Deadline: true, Token: true, LossNotice: true, Contended: true, Queue: true, Removal: true,
	Renewed: true, Restart: true,
	// The first Lock of a name also has to read its object.
	LockTrips: 1, UnlockTrips: 1,
}

// StockLocker is a lock.Locker whose locks are StockLocks, a custom resource with a
// queue. The package's comment describes its protocol.
type StockLocker struct {
	*objects[stockLock]
	ttl      time.Duration
	owner    string
	session  string        // begins the id of each of its places
	idle     time.Duration // queueIdle; shorter in tests
	recorder *recorder

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	once sync.Once      // of Close
	wg   sync.WaitGroup // of the recorder and the queues; grows only under mu, while open

	mu     sync.Mutex // guards the fields below, and the places of every queue
	closed bool
	queues map[string]*queue
	count  uint64 // of places so far
}

// NewStock makes a Locker. It does not connect to the server yet. Grants, take-overs and
// losses become events on the StockLocks, soon after, as far as the account may write them.
func NewStock(cfg Config) (*StockLocker, error) {
	objects, err := newObjects[stockLock](&cfg, stockLocks)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &StockLocker{
		objects: objects, ttl: cfg.TTL, owner: cfg.Owner, session: uuid.NewString(), idle: queueIdle,
		recorder: newRecorder(objects, cfg.Owner), ctx: ctx, stop: stop, queues: map[string]*queue{},
	}
	l.wg.Go(func() { l.recorder.run(ctx) })
	return l, nil
}

// errLate is for a grant whose lease had ended when it arrived.
var errLate = errors.New("the grant came after the end of its lease")

// Lock waits for its turn until ctx ends, and retries while the server is unavailable.
// It fails earlier only on a permanent error. When ctx ends, it returns at once; its
// place in the queue is then removed in the background.
func (l *StockLocker) Lock(ctx context.Context, name string) (lock.Held, error) {
	for {
		h, err := l.enter(ctx, name, false)
		if errors.Is(err, errLate) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		return h, nil
	}
}

// TryLock asks the server once. It writes nothing when the lock is held or has waiters.
func (l *StockLocker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	h, err := l.enter(ctx, name, true)
	if err != nil {
		return nil, fmt.Errorf("try to lock %s: %w", name, err)
	}
	return h, nil
}

// enter takes a place in the queue of a name and waits for its grant.
func (l *StockLocker) enter(ctx context.Context, name string, try bool) (*place, error) {
	object, err := objectName(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, lock.ErrClosed
	}
	q := l.queues[name]
	if q == nil {
		q = newQueue(l, name, object)
		l.queues[name] = q
		l.wg.Go(q.run)
	}
	p := q.join(try)
	l.mu.Unlock()
	select {
	case <-p.settled:
		return p, p.refusal
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	q.leave(p)
	return nil, sleep.Cause(ctx, q.lastErr)
}

// newID returns the id of a new place. The caller must hold mu.
func (l *StockLocker) newID() string {
	l.count++
	return placeID(l.session, l.count)
}

// Close ends and unlocks every grant within ctx, and waits for all goroutines of the
// Locker. Its error lists the locks that were not unlocked; they are free when their
// leases end.
func (l *StockLocker) Close(ctx context.Context) (err error) {
	l.once.Do(func() { err = l.close(ctx) })
	return err
}

func (l *StockLocker) close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	var all []*place
	for _, q := range l.queues {
		for _, p := range q.places {
			all = append(all, p)
			if p.lease != nil {
				p.lease.Lose()
			}
			q.settle(p, lock.ErrClosed)
			q.leave(p)
		}
	}
	l.mu.Unlock()

	for _, p := range all {
		select {
		case <-p.gone:
		case <-ctx.Done():
		}
	}
	l.stop()
	l.wg.Wait()
	var left []string
	for _, p := range all {
		if p.lease != nil {
			p.lease.Stop()
		}
		select {
		case <-p.gone:
		default:
			left = append(left, p.queue.name)
		}
	}
	_ = l.objects.close() // never fails
	if len(left) > 0 {
		return fmt.Errorf("close the locks at kubernetes at %s: not unlocked: %s: %w", l.server, strings.Join(left, ", "), ctx.Err())
	}
	return nil
}

// Ask asks whether the server would create a StockLock. It creates none.
func (l *StockLocker) Ask(ctx context.Context) error {
	object, err := objectName(probeName)
	if err != nil {
		return err
	}
	return l.ask(ctx, newStockLock(object, probeName))
}

// Inspect lists the locks that are held now, and their waiters.
func (l *StockLocker) Inspect(ctx context.Context) ([]lock.Info, error) {
	list, err := l.list(ctx, "")
	if err != nil {
		return nil, err
	}
	var all []lock.Info
	for _, found := range list {
		if r := found.Status; r.ID != "" && !looksExpired(r.Renewed, time.Duration(r.LeaseSeconds)*time.Second) {
			all = append(all, found.info())
		}
	}
	lock.SortInfos(all)
	return all, nil
}

// Revoke ends the current grant of name. The next waiter then enters.
func (l *StockLocker) Revoke(ctx context.Context, name string) error {
	return l.revoke(ctx, name, func(s *stockLock) bool {
		held := s.Spec.Lock == name && s.Status.ID != ""
		s.Status.free()
		return held
	}, "status")
}

// place is one call of Lock or TryLock, and later a grant.
type place struct {
	queue *queue
	since time.Time
	try   bool // TryLock: it does not wait

	settled   chan struct{} // closed when it is granted or refused
	gone      chan struct{} // closed when it is not on the server any more
	contended chan struct{}

	// These are guarded by the Locker. refusal, token and lease may be read after
	// settled, and loss after gone.
	id              string
	refusal         error
	loss            error // lock.ErrLost if the grant ended without Unlock
	token           lock.Token
	lease           *lease.Lease // once it is granted
	queued          bool         // it was seen in the queue
	leaving         bool         // it must be removed from the server
	removalSent     bool         // a write of ours has removed it, or may have
	contendedClosed bool
	lossNoted       bool
	asked           time.Time  // before the write that granted it
	renewed         chan error // gets the result of a requested renewal; of size 1
}

func (p *place) Token() lock.Token          { return p.token }
func (p *place) Lost() <-chan struct{}      { return p.lease.Lost() }
func (p *place) Contended() <-chan struct{} { return p.contended }

// Unlock makes the queue remove the place. If ctx ends first, that continues in the
// background.
func (p *place) Unlock(ctx context.Context) error {
	l := p.queue.locker
	l.mu.Lock()
	again := p.leaving
	l.mu.Unlock()
	alive := p.lease.Stop()
	l.mu.Lock()
	p.queue.leave(p)
	if !alive && !again {
		p.queue.noteLoss(p)
	}
	l.mu.Unlock()
	p.lease.Lose() // whatever the result, the lock is not held any more
	if !alive || again {
		return lock.ErrLost
	}
	select {
	case <-p.gone:
		return p.loss
	case <-ctx.Done():
		return fmt.Errorf("unlock %s at kubernetes at %s: %w", p.queue.name, l.server, ctx.Err())
	}
}

// renew makes the queue write a renewal, and waits for the result.
func (p *place) renew(ctx context.Context) error {
	l := p.queue.locker
	result := make(chan error, 1)
	l.mu.Lock()
	p.renewed = result
	l.mu.Unlock()
	p.queue.notify()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		p.renewed = nil
		return ctx.Err()
	}
}
