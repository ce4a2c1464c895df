package zklock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
)

// Capabilities are what a Locker promises.
var Capabilities = lock.Capabilities{
	Processes: true, Fair: true, Deadline: true, Token: true, LossNotice: true, Wanted: true, Queue: true, Removal: true,
	Renewed: true, Restart: true,
	LockTrips: 2, UnlockTrips: 1, // create; look; delete
}

const (
	// retryPause and retryPauseMax are the waits between attempts after a request
	// has failed: short for a connection that has just moved to another server.
	retryPause    = 20 * time.Millisecond
	retryPauseMax = time.Second
	// dialPauseMax is the longest wait between two rounds of all servers. A process
	// has one connection, and a session of two seconds must not miss a server
	// that is back.
	dialPauseMax = 250 * time.Millisecond
	// dialShare of the TTL is what a connection may take to be made.
	dialShare = 4
	// silenceShare of the TTL is what a server may be silent for before another is
	// tried. It hears from us, and answers, three times a TTL.
	silenceShare = 2
)

// Config says where a Locker's nodes stand, and what they say.
type Config struct {
	// Servers are the ensemble's, each as host:port.
	Servers []string
	// Prefix is the path under which a Locker's nodes stand, as "/flashsale/locks".
	// Lockers with the same prefix exclude each other.
	Prefix string
	// TTL is how long a grant survives its process. The servers may raise or lower
	// it, to between 2 and 20 of their ticks mostly: theirs is what counts.
	TTL time.Duration
	// Owner stands in each node, for people: replica@host:pid.
	Owner string
	// Logger gets what no caller is told: lost sessions, and at the debug level
	// the client library's own lines. Nil: none.
	Logger *slog.Logger
}

// Locker is a lock.Locker on ZooKeeper. See the package's comment for its protocol.
type Locker struct {
	cfg Config
	// ctx ends when Close has freed what it could. Nothing outlives it.
	ctx     context.Context
	stop    context.CancelFunc
	closing chan struct{}  // closed when Close begins
	done    chan struct{}  // closed when it has finished
	wg      sync.WaitGroup // of all goroutines; grows only while open, or from one of them
	// stragglers are calls by which the client library closes its connections. One
	// that has no answer returns up to three seconds later, with nothing to do.
	stragglers sync.WaitGroup

	mu       sync.Mutex // guards what is below
	closed   bool
	session  *session // in use; nil before the first, and after a loss
	used     bool     // a session has been asked for
	sessions map[*session]bool
	places   map[*place]bool
}

// New makes a Locker. It does not talk to ZooKeeper yet.
func New(cfg Config) (*Locker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := &Locker{
		cfg: cfg, closing: make(chan struct{}), done: make(chan struct{}),
		sessions: map[*session]bool{}, places: map[*place]bool{},
	}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l, nil
}

// check refuses what cannot work, and fills in what may be left out.
func (cfg *Config) check() error {
	switch {
	case len(cfg.Servers) == 0:
		return errors.New("zookeeper lock: no servers")
	case strings.Trim(cfg.Prefix, "/") == "":
		return errors.New("zookeeper lock: no prefix")
	case cfg.TTL < time.Second:
		return fmt.Errorf("zookeeper lock: TTL is %s, must be at least 1s", cfg.TTL)
	}
	for _, server := range cfg.Servers {
		if _, _, err := net.SplitHostPort(server); err != nil {
			return fmt.Errorf("zookeeper lock: server: %w", err)
		}
	}
	cfg.Prefix = "/" + strings.Trim(cfg.Prefix, "/")
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Lock waits for its turn, and through any trouble with ZooKeeper, until ctx ends.
// It fails earlier only when it is refused for good, as without permission. The
// end of ctx ends it at once; its place in the queue is then removed behind it.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	if err := lock.CheckName(name); err != nil {
		return nil, err
	}
	for {
		p, err := l.queueUp(ctx, name, anywhere)
		if err == nil {
			err = p.wait(ctx)
		}
		switch {
		case err == nil:
			return p, nil
		case ctx.Err() == nil && (errors.Is(err, errVanished) || errors.Is(err, errSessionLost)):
			_ = sleep.For(ctx, sleep.Jittered(retryPause)) // and stand in the queue again
		default:
			return nil, l.failed("lock", name, err)
		}
	}
}

// TryLock writes nothing where another stands in the queue, and names the holder
// then. It waits for a connection only.
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
		case again && ctx.Err() == nil && (errors.Is(err, errVanished) || errors.Is(err, errSessionLost)):
			// The session had ended, and only the server knew.
		default:
			return nil, l.failed("try to lock", name, err)
		}
	}
}

// failed says what failed, and where the server is the reason, which.
func (l *Locker) failed(action, name string, err error) error {
	err = fmt.Errorf("%s %s: %w", action, name, err)
	l.mu.Lock()
	s := l.session
	l.mu.Unlock()
	if s != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		if why := s.why(); why != nil {
			// As text only: an attempt's own time-out is not the caller's.
			return fmt.Errorf("%w (%s)", err, why.Error())
		}
	}
	return err
}

// Healthy reports why no lock can be granted now; nil before the first was asked
// for. It costs nothing. After a loss it begins a new session, so that a replica
// which gets no work while it is not healthy becomes healthy again.
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
	return s.why()
}

// sessionFor returns a session, a new one if need be. It waits no longer than ctx.
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
		if !s.alive() { // a deadline may have passed unnoticed
			s.lose()
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

// anySession is the session in use, or one that is asked for.
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

// forgetSession makes the next one who needs a session begin another.
func (l *Locker) forgetSession(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != s {
		return
	}
	l.session = nil
	if !l.closed {
		l.cfg.Logger.Warn("zookeeper lock lost its session", "session", fmt.Sprintf("%x", s.conn.SessionID()), "error", s.lastTrouble())
	}
}

// dropSession: nothing is left of it.
func (l *Locker) dropSession(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, s)
}

// Close ends every grant, removes all nodes within ctx, ends the session, and
// waits for all that this Locker has started. An error says what could not be
// removed: it stays until the session has expired.
func (l *Locker) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closed = true
	close(l.closing)
	var places []*place
	for p := range l.places {
		places = append(places, p)
	}
	l.mu.Unlock()
	defer close(l.done)

	for _, p := range places {
		p.end(lock.ErrClosed)
	}
	var err error
	for _, p := range places {
		select {
		case <-p.gone:
			if !errors.Is(p.left, lock.ErrLost) {
				err = errors.Join(err, p.left)
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

// cutSessions breaks the connections of sessions that take too long to close.
func (l *Locker) cutSessions() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.sessions {
		s.cut()
	}
}

// begin runs f in a goroutine that Close waits for. After Close it runs nothing.
func (l *Locker) begin(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Go(f)
	}
}
