package k8slock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// StockCapabilities are what a StockLocker promises.
var StockCapabilities = lock.Capabilities{
	Processes: true, Fair: true, Deadline: true, Token: true, LossNotice: true, Wanted: true, Queue: true, Removal: true,
	Renewed: true, Restart: true,
	// The first Lock of a name in a while has to read it before.
	LockTrips: 1, UnlockTrips: 1,
}

// StockLocker is a lock.Locker whose locks are StockLocks, a custom resource with
// a queue. See the package's comment for its protocol.
type StockLocker struct {
	objects *objects
	ttl     time.Duration
	owner   string
	session string        // begins the id of each of its places
	idle    time.Duration // roomIdle; shorter in tests

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	done chan struct{}  // closed when Close has finished
	wg   sync.WaitGroup // of the rooms; grows only under mu, while open

	mu     sync.Mutex // guards all below, and the places of every room
	closed bool
	rooms  map[string]*room
	count  uint64 // of places that were ever asked for
}

// NewStock makes a Locker. It does not talk to the server yet.
func NewStock(cfg Config) (*StockLocker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	objects, err := newObjects(cfg, stockLocks)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	return &StockLocker{
		objects: objects, ttl: cfg.TTL, owner: cfg.Owner.String(), session: uuid.NewString(), idle: roomIdle,
		ctx: ctx, stop: stop, done: make(chan struct{}), rooms: map[string]*room{},
	}, nil
}

// errLate says that a grant came so late that its lease was over.
var errLate = errors.New("the grant came after the lease's own time")

// Lock waits for its turn, and through any trouble with the server, until ctx
// ends. It fails earlier only where the server refuses for good. The end of ctx
// ends it at once; its place in the queue is then removed behind it.
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

// TryLock asks the server once. It writes nothing when another holds or waits.
func (l *StockLocker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	h, err := l.enter(ctx, name, true)
	if err != nil {
		return nil, fmt.Errorf("try to lock %s: %w", name, err)
	}
	return h, nil
}

// enter takes a place in a name's room, and waits there for its grant.
func (l *StockLocker) enter(ctx context.Context, name string, once bool) (*place, error) {
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
	r := l.rooms[name]
	if r == nil {
		r = newRoom(l, name, object)
		l.rooms[name] = r
		l.wg.Go(r.run)
	}
	p := r.join(once)
	l.mu.Unlock()
	select {
	case <-p.settled:
		return p, p.refusal
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.leave(p)
	if r.trouble != nil {
		// As text only: an attempt's own time-out is not the caller's.
		return nil, fmt.Errorf("%w (%s)", ctx.Err(), r.trouble.Error())
	}
	return nil, ctx.Err()
}

// newID names a place. The Locker's mutex is held.
func (l *StockLocker) newID() string {
	l.count++
	return placeID(l.session, l.count)
}

// Close ends every grant and gives it back, within ctx, and waits for all that
// this Locker has started. An error says what could not be given back: it stays
// held until its lease has ended.
func (l *StockLocker) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closed = true
	var all []*place
	for _, r := range l.rooms {
		for _, p := range r.places {
			all = append(all, p)
			if p.kept != nil {
				p.kept.Lose()
			}
			r.settle(p, lock.ErrClosed)
			r.leave(p)
		}
	}
	l.mu.Unlock()

	var left []string
	for _, p := range all {
		select {
		case <-p.gone:
			continue
		case <-ctx.Done():
		}
		select {
		case <-p.gone: // both may be true
		default:
			left = append(left, p.room.name)
		}
	}
	l.stop()
	l.wg.Wait()
	for _, p := range all {
		if p.kept != nil {
			p.kept.Stop()
		}
	}
	l.objects.close()
	close(l.done)
	if len(left) > 0 {
		return fmt.Errorf("close the locks at kubernetes at %s: not given back: %s: %w", l.objects.server, strings.Join(left, ", "), ctx.Err())
	}
	return nil
}

// Source identifies what counts the tokens: the namespace, with which all its
// StockLocks would go.
func (l *StockLocker) Source(ctx context.Context) (string, error) { return l.objects.source(ctx) }

// Ask asks whether the server would make a StockLock. It makes none.
func (l *StockLocker) Ask(ctx context.Context) error {
	object, err := objectName(neverMade)
	if err != nil {
		return err
	}
	made, err := newObject(object, neverMade)
	if err != nil {
		return err
	}
	return l.objects.ask(ctx, made)
}

// Inspect lists the locks that are held now, with who waits for them.
func (l *StockLocker) Inspect(ctx context.Context) ([]lock.Info, error) {
	list, err := l.objects.list(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list the stocklocks: %w", err)
	}
	var all []lock.Info
	for i := range list.Items {
		found, err := toStockLock(&list.Items[i])
		if err != nil {
			return nil, err
		}
		if r := found.Status; r.ID != "" && !looksOver(r.Renewed, time.Duration(r.LeaseSeconds)*time.Second) {
			all = append(all, found.info())
		}
	}
	return sorted(all), nil
}

// Revoke ends the grant of name, whoever has it. Whoever waits enters.
func (l *StockLocker) Revoke(ctx context.Context, name string) error {
	object, err := objectName(name)
	if err != nil {
		return err
	}
	for {
		current, err := l.read(ctx, object)
		if isMissing(err) || err == nil && current.Status.ID == "" {
			return fmt.Errorf("revoke %s: %w", name, lock.ErrNotHeld)
		}
		if err == nil {
			current.Status.free()
			_, err = l.write(ctx, current)
		}
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("revoke %s: %w", name, err)
		}
	}
}

func (l *StockLocker) read(ctx context.Context, object string) (*stockLock, error) {
	found, err := l.objects.get(ctx, object)
	if err != nil {
		return nil, fmt.Errorf("read stocklock %s: %w", object, err)
	}
	return toStockLock(found)
}

// write writes the status, if the object is still of the version that it was.
func (l *StockLocker) write(ctx context.Context, next *stockLock) (*stockLock, error) {
	object, err := next.object()
	if err != nil {
		return nil, err
	}
	written, err := l.objects.update(ctx, object, "status")
	if err != nil {
		return nil, fmt.Errorf("update stocklock %s: %w", next.Name, err)
	}
	return toStockLock(written)
}

// place is one call's: a waiter, and later a grant.
type place struct {
	room  *room
	since time.Time
	once  bool // it does not wait: TryLock

	settled chan struct{} // closed when it holds, or is refused
	gone    chan struct{} // closed when the server has it no more
	wanted  chan struct{}

	// These are guarded by the Locker; what Lock returns by may be read after
	// settled, and fate after gone.
	id      string
	refusal error
	fate    error // lock.ErrLost when the grant had ended by itself
	token   lock.Token
	kept    *lease.Lease // once it holds
	queued  bool         // it was seen in the queue
	leaving bool         // it is to be gone from the server
	erased  bool         // a write of ours has erased it, or may have
	told    bool         // wanted is closed
	asked   time.Time    // before the write that granted it
	renewed chan error   // gets the outcome of a renewal that is wanted; of size 1
}

func (p *place) Token() lock.Token       { return p.token }
func (p *place) Lost() <-chan struct{}   { return p.kept.Lost() }
func (p *place) Wanted() <-chan struct{} { return p.wanted }

// Unlock has the room erase the place. What ctx cuts short is done behind it.
func (p *place) Unlock(ctx context.Context) error {
	l := p.room.locker
	l.mu.Lock()
	again := p.leaving
	l.mu.Unlock()
	alive := p.kept.Stop()
	l.mu.Lock()
	p.room.leave(p)
	l.mu.Unlock()
	p.kept.Lose() // whatever becomes of it: it is not held any more
	if !alive || again {
		return lock.ErrLost
	}
	select {
	case <-p.gone:
		return p.fate
	case <-ctx.Done():
		return fmt.Errorf("unlock %s at kubernetes at %s: %w", p.room.name, l.objects.server, ctx.Err())
	}
}

// renew has the room write a sign of life.
func (p *place) renew(ctx context.Context) error {
	l := p.room.locker
	outcome := make(chan error, 1)
	l.mu.Lock()
	p.renewed = outcome
	l.mu.Unlock()
	p.room.rouse()
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		p.renewed = nil
		return ctx.Err()
	}
}
