package zklock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
)

// Capabilities are what a Locker guarantees.
var Capabilities = lock.Capabilities{
	Processes: true, Fair: true, Deadline: true, Token: true, LossNotice: true, Contended: true, Queue: true, Removal: true,
	Renewed: true, Restart: true,
	LockTrips: 2, UnlockTrips: 1, // create; read; delete
}

// backoff is the wait between attempts after a failed request. It starts short,
// because the connection may just have moved to another server.
var backoff = sleep.Backoff{Min: 20 * time.Millisecond, Max: time.Second}

const (
	// dialPauseMax is the longest wait before another server is tried. A process has
	// only one connection, and a session of two seconds must find a server that is
	// back.
	dialPauseMax = 250 * time.Millisecond
	// dialShare of the TTL is the time-out of connecting to a server.
	dialShare = 4
	// silenceShare of the TTL is how long a server may be silent before the client
	// leaves it. A working server answers three times a TTL.
	silenceShare = 2
)

// Config configures a Locker.
type Config struct {
	// Servers are the ensemble's, each as host:port.
	Servers []string
	// Prefix is the path of a Locker's nodes, for example "/flashsale/locks".
	// Lockers with the same prefix exclude each other.
	Prefix string
	// TTL is how long a grant survives its process. The servers may raise or lower
	// it, by default to between 2 and 20 of their ticks. The Locker then uses theirs.
	TTL time.Duration
	// Owner is written into each node, for people: replica@host:pid.
	Owner string
	// Logger is optional. It logs lost sessions and, at the debug level, the
	// client library's log.
	Logger *slog.Logger
}

// Locker is a lock.Locker in ZooKeeper. The package's comment describes its protocol.
type Locker struct {
	cfg Config
	// ctx ends when Close has deleted the nodes. No request outlives it.
	ctx     context.Context
	stop    context.CancelFunc
	closing chan struct{}  // closed when Close begins
	once    sync.Once      // of Close
	wg      sync.WaitGroup // of all goroutines; grows only while open, or from one of them
	// stragglers counts the library calls that close connections. Without an answer,
	// they return up to three seconds late.
	stragglers sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	closed   bool
	session  *session // the current one; nil before the first, and after a loss
	used     bool     // a session has been requested
	sessions map[*session]bool
	places   map[*place]bool
}

// New makes a Locker. It does not connect to ZooKeeper yet.
func New(cfg Config) (*Locker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := &Locker{
		cfg: cfg, closing: make(chan struct{}),
		sessions: map[*session]bool{}, places: map[*place]bool{},
	}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l, nil
}

func (cfg *Config) check() error {
	switch {
	case len(cfg.Servers) == 0:
		return errors.New("zookeeper lock: Servers is empty")
	case strings.Trim(cfg.Prefix, "/") == "":
		return errors.New("zookeeper lock: Prefix is missing")
	case cfg.TTL < time.Second:
		return fmt.Errorf("zookeeper lock: TTL is %s; it must be at least 1s", cfg.TTL)
	}
	for _, server := range cfg.Servers {
		if _, _, err := net.SplitHostPort(server); err != nil {
			return fmt.Errorf("zookeeper lock: server %q: %w", server, err)
		}
	}
	cfg.Prefix = "/" + strings.Trim(cfg.Prefix, "/")
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	return nil
}

// Lock waits for its turn until ctx ends, and retries while ZooKeeper is unreachable.
// It fails earlier only on a permanent error, for example a missing permission. When
// ctx ends, it returns at once; its node is then deleted in the background.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	var p *place
	err := backoff.Retry(ctx, isLoss, func() (err error) {
		p, err = l.enter(ctx, name, false)
		return err
	})
	if err != nil {
		return nil, l.failed("lock", name, err)
	}
	return p, nil
}

// TryLock writes nothing if the queue is not empty. It then names the holder. It
// waits for a connection if there is none.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	p, err := l.enter(ctx, name, true)
	if isLoss(err) { // the session had ended on the server; there is a new one now
		p, err = l.enter(ctx, name, true)
	}
	if err != nil {
		return nil, l.failed("try to lock", name, err)
	}
	return p, nil
}

// isLoss reports whether a place has ended with its node or its session.
func isLoss(err error) bool { return errors.Is(err, errRemoved) || errors.Is(err, errSessionLost) }

// failed adds the action to err and, if err is a time-out or cancellation, why the
// session has no connection.
func (l *Locker) failed(action, name string, err error) error {
	err = fmt.Errorf("%s %s: %w", action, name, err)
	l.mu.Lock()
	s := l.session
	l.mu.Unlock()
	if s != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		if why := s.connectionError(); why != nil {
			// Not wrapped: the caller must not mistake that time-out for its own.
			return fmt.Errorf("%w (%s)", err, why.Error())
		}
	}
	return err
}

// Healthy returns why no lock can be granted now, or nil. It is nil before the first
// lock. It sends no request, except that after a loss it begins a new session: a
// replica that gets no work while unhealthy becomes healthy again.
func (l *Locker) Healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return lock.ErrClosed
	case !l.used:
		return nil
	}
	s, err := l.anySession()
	if err != nil {
		return err
	}
	return s.connectionError()
}

// sessionFor returns the current session, or waits for a new one until ctx ends.
func (l *Locker) sessionFor(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	s, err := l.anySession()
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case <-s.began:
		if !s.alive() { // its expiry timer may be late
			s.end(errSessionLost)
			l.forgetSession(s)
			return nil, errSessionLost
		}
		return s, nil
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	case <-l.closing:
		return nil, lock.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// anySession returns the current session, which may not be granted yet, or begins one.
func (l *Locker) anySession() (*session, error) {
	if l.closed {
		return nil, lock.ErrClosed
	}
	l.used = true
	if l.session == nil {
		s, err := l.newSession()
		if err != nil {
			return nil, err
		}
		l.session = s
	}
	return l.session, nil
}

// forgetSession makes the next call of anySession begin another session.
func (l *Locker) forgetSession(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != s {
		return
	}
	l.session = nil
	if !l.closed {
		l.cfg.Logger.Warn("zookeeper lock: session lost", "session", fmt.Sprintf("%x", s.conn.SessionID()), "error", s.connectionError())
	}
}

// Close ends every grant, deletes all nodes within ctx, ends the session, and waits
// for all goroutines of the Locker. Its error lists the nodes that were not deleted;
// they end when the session expires.
func (l *Locker) Close(ctx context.Context) (err error) {
	l.once.Do(func() { err = l.close(ctx) })
	return err
}

func (l *Locker) close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	close(l.closing)
	places := slices.Collect(maps.Keys(l.places))
	l.mu.Unlock()
	for _, p := range places {
		p.end(lock.ErrClosed)
	}
	var err error
	for _, p := range places {
		select {
		case <-p.gone:
			if !errors.Is(p.deleteErr, lock.ErrLost) {
				err = errors.Join(err, p.deleteErr)
			}
		case <-ctx.Done():
			err = errors.Join(err, fmt.Errorf("unlock %s: %w", p.name, ctx.Err()))
		}
	}
	l.stop()
	defer context.AfterFunc(ctx, l.cutSessions)()
	l.wg.Wait()
	return err
}

func (l *Locker) cutSessions() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.sessions {
		s.breakConnection()
	}
}

// begin runs f in a goroutine that Close waits for. After Close it does nothing.
func (l *Locker) begin(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Go(f)
	}
}
