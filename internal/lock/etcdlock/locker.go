package etcdlock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
)

// Capabilities are what a Locker guarantees.
var Capabilities = lock.Capabilities{
	Processes: true, Fair: true, Deadline: true, Token: true, LossNotice: true, Contended: true, Queue: true, Removal: true,
	Renewed: true, Restart: true, LockTrips: 1, UnlockTrips: 1,
}

// backoff is the wait between attempts while etcd is unreachable. It is short
// compared with an election, which takes a second or two, and long enough that
// thousands of waiters do not delay one.
var backoff = sleep.Backoff{Min: 20 * time.Millisecond, Max: time.Second}

// watchIdle is how long a Locker keeps the view of an unused name. The watch ends with the
// last view. A sale has pauses, and a new watch costs a round trip and a list.
const watchIdle = 30 * time.Second

// Config configures the locks of this package.
type Config struct {
	// Client should know the endpoints of all nodes, and have a DialTimeout, a
	// DialKeepAliveTime and a DialKeepAliveTimeout of one or two seconds. It then
	// leaves a node that fails or hangs. With a single endpoint, the lock is only as
	// available as that node.
	Client *clientv3.Client
	// Prefix of all keys. Lockers with the same prefix exclude each other.
	Prefix string
	// TTL is how long a grant survives its process. It is rounded up to whole
	// seconds. etcd raises it if its election time-out requires more.
	TTL time.Duration
	// Owner is written into each key.
	Owner Owner
	// Logger is optional. It logs lost leases and broken watches.
	Logger *slog.Logger
}

// Owner identifies the owner of a key, for people and, by Holder, for other replicas.
type Owner struct {
	Replica string `json:"replica"`
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	// Process and Addr are as in lock.Holder.
	Process string `json:"process,omitempty"`
	Addr    string `json:"addr,omitempty"`
	// Since is when the key was requested, by the owner's clock.
	Since time.Time `json:"since"`
}

// Locker is a lock.Locker in etcd. The package's comment describes its protocol.
type Locker struct {
	inspector

	cfg  Config
	idle time.Duration // watchIdle; shorter in tests
	// ctx ends with Close. All background requests use it.
	ctx  context.Context
	stop context.CancelFunc
	once sync.Once      // of Close
	wg   sync.WaitGroup // of all goroutines; grows only under mu, while open

	mu        sync.Mutex // guards the fields below and what they point to
	closed    bool
	lease     *sharedLease // nil before the first, and after a loss
	leaseErr  error        // why lease is nil; nil before the first request
	granting  *granting
	queues    map[string]*queue
	stopWatch context.CancelFunc // ends the watch; nil when there is none
	places    uint64             // number of places so far
}

// New makes a Locker. It does not connect to etcd yet.
func New(cfg Config) (*Locker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Locker{
		inspector: inspector{cfg.Client, cfg.Prefix},
		cfg:       cfg, idle: watchIdle, ctx: ctx, stop: stop, queues: map[string]*queue{},
	}, nil
}

func (cfg *Config) check() error {
	switch {
	case cfg.Client == nil:
		return errors.New("etcd lock: Client is missing")
	case cfg.Prefix == "":
		return errors.New("etcd lock: Prefix is missing")
	case cfg.TTL <= 0:
		return fmt.Errorf("etcd lock: TTL is %s; it must be positive", cfg.TTL)
	}
	if !strings.HasSuffix(cfg.Prefix, "/") {
		cfg.Prefix += "/"
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.TTL = (cfg.TTL + time.Second - 1).Truncate(time.Second)
	return nil
}

// Lock waits for its turn until ctx ends, and retries while etcd is unavailable. It
// fails earlier only on a permanent error, for example a missing permission. When
// ctx ends, it returns at once; its key is then deleted in the background.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	var p *place
	retryable := func(err error) bool {
		return ctx.Err() != nil || errors.Is(err, errRemoved) || isTransient(err)
	}
	err := backoff.Retry(ctx, retryable, func() (err error) {
		p, err = l.enter(ctx, name, false)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return p, nil
}

// TryLock asks etcd once. It writes nothing when the queue has another key.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	p, err := l.enter(ctx, name, true)
	if errors.Is(err, errRemoved) { // the lease had ended in etcd; there is a new one now
		p, err = l.enter(ctx, name, true)
	}
	if err != nil {
		return nil, fmt.Errorf("try to lock %s: %w", name, err)
	}
	return p, nil
}

// Healthy returns why no lock can be granted now, or nil. It is nil before the first
// lock. It sends no request, except that after a loss it begins a new lease: a
// replica that gets no work while unhealthy becomes healthy again.
func (l *Locker) Healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return lock.ErrClosed
	case l.leaseErr == nil || l.liveLease() != nil:
		return nil
	}
	l.beginLease()
	return fmt.Errorf("etcd lock: no lease: %w", l.leaseErr)
}

// Close ends every grant, revokes the lease within ctx, and waits for all goroutines
// of the Locker. An error means that the lease was not revoked; the locks are then
// free when it expires.
func (l *Locker) Close(ctx context.Context) (err error) {
	l.once.Do(func() { err = l.close(ctx) })
	return err
}

func (l *Locker) close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	for _, q := range l.queues {
		for _, p := range q.places {
			l.end(p, lock.ErrClosed)
		}
	}
	granting := l.granting
	l.mu.Unlock()

	if granting != nil { // its lease must be revoked as well
		select {
		case <-granting.done:
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	ls := l.lease
	if ls != nil {
		l.endLease(ls, lock.ErrClosed)
	}
	l.mu.Unlock()

	var err error
	if ls != nil {
		if err = l.revoke(ctx, ls.id); err != nil {
			err = fmt.Errorf("close etcd lock: %w", err)
		}
	}
	l.stop()
	l.wg.Wait()
	l.mu.Lock()
	late := l.lease // granted after ctx had ended
	l.lease = nil
	l.mu.Unlock()
	for _, ls := range []*sharedLease{ls, late} {
		if ls != nil {
			ls.Lose()
			ls.Stop()
		}
	}
	return err
}

// start runs f in a goroutine that Close waits for. After Close it does nothing: the
// lease is revoked, and its keys end with it.
func (l *Locker) start(f func()) {
	if !l.closed {
		l.wg.Go(f)
	}
}
