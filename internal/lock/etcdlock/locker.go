package etcdlock

import (
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

// Capabilities are what a Locker promises.
var Capabilities = lock.Capabilities{
	Processes: true, Fair: true, Deadline: true, Token: true, LossNotice: true, Wanted: true, Queue: true, Removal: true,
	Renewed: true, Restart: true, LockTrips: 1, UnlockTrips: 1,
}

const (
	// retryPause and retryPauseMax are the waits between attempts after etcd
	// could not be reached: short for an election, which takes a second or two,
	// and long enough that thousands of waiters do not delay it.
	retryPause    = 20 * time.Millisecond
	retryPauseMax = time.Second
	// watchIdle is how long a name's view, and with the last one the watch,
	// outlives its last place. A sale has pauses; opening a watch again costs a
	// round trip and a list.
	watchIdle = 30 * time.Second
)

// Config says where a Locker's keys stand, and what they say.
type Config struct {
	// Client should have the endpoints of all nodes, and a DialTimeout and a
	// DialKeepAliveTime and -Timeout of a second or two: it goes to another node
	// where one dies or hangs, and only to those that it was told of. Behind a
	// single endpoint a lock is as available as that node, and on the side of a
	// minority none is granted.
	Client *clientv3.Client
	// Prefix of all keys. Lockers with the same prefix exclude each other.
	Prefix string
	// TTL is how long a grant survives its process. It is rounded up to whole
	// seconds, and raised by etcd to what its election time-out allows.
	TTL time.Duration
	// Owner stands in each key, for people.
	Owner Owner
	// Logger gets what no caller is told: lost leases, broken watches. Nil: none.
	Logger *slog.Logger
}

// Owner tells who stands in a queue: people, and through Holder other replicas.
type Owner struct {
	Replica string `json:"replica"`
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	// Process and Addr are as in lock.Holder.
	Process string `json:"process,omitempty"`
	Addr    string `json:"addr,omitempty"`
	// Since is when the place was asked for, by its owner's clock.
	Since time.Time `json:"since"`
}

// Locker is a lock.Locker on etcd. See the package's comment for its protocol.
type Locker struct {
	cfg  Config
	idle time.Duration // watchIdle; shorter in tests
	// ctx ends with Close. Every background request runs on a part of it.
	ctx  context.Context
	stop context.CancelFunc
	done chan struct{}  // closed when Close has finished
	wg   sync.WaitGroup // of all goroutines; grows only under mu, while open

	mu       sync.Mutex // guards all below, and all that hangs on it
	closed   bool
	lease    *ownLease // nil before the first, and after a loss
	granting *granting
	trouble  error // why there is no lease; nil before the first was asked for
	queues   map[string]*queue
	unfollow context.CancelFunc // ends the watch; nil while there is none
	places   uint64             // number of places that were ever asked for
}

// New makes a Locker. It does not talk to etcd yet.
func New(cfg Config) (*Locker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Locker{
		cfg: cfg, idle: watchIdle, ctx: ctx, stop: stop,
		done: make(chan struct{}), queues: map[string]*queue{},
	}, nil
}

// check refuses what cannot work, and fills in what may be left out.
func (cfg *Config) check() error {
	switch {
	case cfg.Client == nil:
		return errors.New("etcd lock: no client")
	case cfg.Prefix == "":
		return errors.New("etcd lock: no prefix")
	case cfg.TTL <= 0:
		return fmt.Errorf("etcd lock: TTL %s is not positive", cfg.TTL)
	}
	if !strings.HasSuffix(cfg.Prefix, "/") {
		cfg.Prefix += "/"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.TTL = (cfg.TTL + time.Second - 1).Truncate(time.Second)
	return nil
}

// Lock waits for its turn, and through any trouble with etcd, until ctx ends. It
// fails earlier only when etcd refuses for good, as without permission. The end
// of ctx ends it at once; its place in the queue is then removed behind it.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	if err := lock.CheckName(name); err != nil {
		return nil, err
	}
	var trouble error
	for pause := retryPause; ; {
		p, err := l.queueUp(ctx, name, anywhere)
		if err == nil {
			err = p.wait(ctx)
		}
		switch {
		case err == nil:
			return p, nil
		case ctx.Err() != nil && trouble != nil:
			// As text only: an attempt's own time-out is not the caller's.
			return nil, fmt.Errorf("lock %s: %w (%s)", name, ctx.Err(), trouble.Error())
		case ctx.Err() != nil:
			return nil, fmt.Errorf("lock %s: %w", name, ctx.Err())
		case errors.Is(err, errVanished):
			pause = retryPause // etcd answers: stand in the queue again at once
			continue
		case !isTransient(err):
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		trouble = err
		_ = sleep.For(ctx, sleep.Jittered(pause))
		pause = min(2*pause, retryPauseMax)
	}
}

// TryLock asks etcd once. It writes nothing when another stands in the queue.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	if err := lock.CheckName(name); err != nil {
		return nil, err
	}
	for again := true; ; again = false {
		p, err := l.queueUp(ctx, name, onlyFirst)
		if err == nil {
			err = p.wait(ctx)
		}
		switch {
		case err == nil:
			return p, nil
		case errors.Is(err, errVanished) && again:
			// The lease had ended, and only etcd knew.
		default:
			return nil, fmt.Errorf("try to lock %s: %w", name, err)
		}
	}
}

// Healthy reports why no lock can be granted now; nil before the first was asked
// for. It costs nothing. After a loss it begins a new lease, so that a replica
// which gets no work while it is not healthy becomes healthy again.
func (l *Locker) Healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return lock.ErrClosed
	case l.trouble == nil || l.liveLease() != nil:
		return nil
	}
	l.beginLease()
	return fmt.Errorf("etcd lock: no lease: %w", l.trouble)
}

// Close ends every grant, revokes the lease within ctx, and waits for all that
// this Locker has started. An error says that the lease could not be revoked:
// what is held stays held until it has expired.
func (l *Locker) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closed = true
	for _, q := range l.queues {
		for _, p := range q.places {
			l.end(p, lock.ErrClosed)
		}
	}
	granting := l.granting
	l.mu.Unlock()

	if granting != nil { // the lease that comes late must be revoked as well
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
	late := l.lease // granted after Close had waited for it
	l.lease = nil
	l.mu.Unlock()
	for _, ls := range []*ownLease{ls, late} {
		if ls != nil {
			ls.kept.Lose()
			ls.kept.Stop()
		}
	}
	close(l.done)
	return err
}

// start runs f in a goroutine that Close waits for. After Close it runs nothing:
// the lease is revoked then, and whatever there was to do is done with it.
func (l *Locker) start(f func()) {
	if !l.closed {
		l.wg.Go(f)
	}
}
