package zklock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
	"flashsale/internal/sleep"
)

// errSessionLost means that the session has ended, or may have.
var errSessionLost = errors.New("the session was lost")

// session is this process's session, with a client of its own (see the package's
// comment).
type session struct {
	locker *Locker
	conn   *zk.Conn
	events <-chan zk.Event // closed when conn has ended
	hosts  *hosts
	began  chan struct{} // closed when the session is granted and lease is set

	// ctx ends when the session must not be used any more. dialing ends when it must
	// not be connected any more, not even to close it.
	ctx     context.Context
	end     context.CancelCauseFunc
	dialing context.Context
	hangUp  context.CancelFunc

	lease    *lease.Lease   // may be read after began
	requests sync.WaitGroup // grows only under mu, until closed

	mu        sync.Mutex
	wire      *wire
	asked     time.Time     // when wire was connected
	connected bool          // the session has a connection
	changed   chan struct{} // closed and replaced when connected changes
	expired   bool          // according to the server
	closed    bool          // no more requests
	lastErr   error
	watches   map[watched][]*watch
}

// watched is what a watch is on: a node, or its children.
type watched struct {
	path     string
	children bool
}

// watch fires once. The cause may be any change.
type watch struct {
	fired chan struct{}
	set   bool // the server has it
	stat  zk.Stat
}

// newSession requests a session, in the background.
func (l *Locker) newSession() (*session, error) {
	s := &session{
		locker: l, began: make(chan struct{}), changed: make(chan struct{}), watches: map[watched][]*watch{},
	}
	s.hosts = &hosts{session: s, backoff: sleep.Backoff{Min: backoff.Min, Max: dialPauseMax}}
	s.ctx, s.end = context.WithCancelCause(l.ctx)
	s.dialing, s.hangUp = context.WithCancel(l.ctx)
	var err error
	s.conn, s.events, err = zk.Connect(l.cfg.Servers, l.cfg.TTL, zk.WithDialer(s.dial), zk.WithHostProvider(s.hosts),
		zk.WithEventCallback(s.handle), zk.WithLogger(libraryLog{l.cfg.Logger}), zk.WithLogInfo(false))
	if err != nil {
		s.end(err)
		s.hangUp()
		return nil, err
	}
	l.sessions[s] = true
	l.wg.Go(s.run)
	return s, nil
}

// run waits for the end of a session and closes it. A lost session may still exist on
// the server, so run first waits for a connection, or until the session has expired.
func (s *session) run() {
	select {
	case <-s.began:
		select {
		case <-s.lease.Lost():
			s.end(errSessionLost)
		case <-s.ctx.Done():
		}
	case <-s.ctx.Done():
	}
	s.locker.forgetSession(s)
	_ = s.awaitConnection(s.dialing)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	// The library must not be closed during a request. It may answer that three times,
	// into a channel of size two, and then hang.
	s.requests.Wait()
	s.close()
	s.hangUp()
	s.mu.Lock()
	lease := s.lease
	s.mu.Unlock()
	if lease != nil {
		lease.Lose()
	}
	s.locker.mu.Lock()
	defer s.locker.mu.Unlock()
	delete(s.locker.sessions, s)
}

// close makes the library close the session, and waits at most a TTL.
func (s *session) close() {
	l := s.locker
	// The library waits a second for an answer, even without a connection. No caller
	// has to wait for that.
	l.stragglers.Go(s.conn.Close)
	ended := make(chan struct{})
	l.stragglers.Go(func() {
		defer close(ended)
		for range s.events {
		}
	})
	select {
	case <-ended:
	case <-time.After(l.cfg.TTL):
		l.cfg.Logger.Warn("zookeeper lock: abandoning the client: Close timed out", "timeout", l.cfg.TTL)
	}
}

// send passes a request to the library. It returns when the server has answered or
// the connection has ended.
func (s *session) send(request func() error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errSessionLost
	}
	s.requests.Add(1)
	s.mu.Unlock()
	defer s.requests.Done()
	return request()
}

// breakConnection breaks the connection of a session that is being closed.
func (s *session) breakConnection() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wire != nil {
		s.wire.Close()
	}
}

// handle is called by the client library for every event.
func (s *session) handle(e zk.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Type != zk.EventSession {
		s.fire(e)
		return
	}
	switch e.State {
	case zk.StateConnected:
		s.asked = time.Now() // the library requests the session next
	case zk.StateHasSession:
		if !s.hasWatches() {
			s.setConnected(true) // otherwise by wire.Write
		}
		if s.lease == nil && s.ctx.Err() == nil {
			s.lease = lease.Keep(s.wire.timeout(), s.asked, s.renew)
			close(s.began)
		}
	case zk.StateDisconnected:
		s.setConnected(false)
	case zk.StateExpired:
		s.expired = true
		s.end(errSessionLost)
		// Otherwise the library would begin another session on the same client, and
		// send this session's requests in it.
		s.hangUp()
	}
}

func (s *session) hasWatches() bool {
	for _, watches := range s.watches {
		if slices.ContainsFunc(watches, func(w *watch) bool { return w.set }) {
			return true
		}
	}
	return false
}

func (s *session) setConnected(connected bool) {
	if s.connected != connected {
		s.connected = connected
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// fire fires the watches on a node and on its children. A waiter whose watch fires
// without a change reads again.
func (s *session) fire(e zk.Event) {
	for _, key := range []watched{{e.Path, false}, {e.Path, true}} {
		if e.Type == zk.EventNodeChildrenChanged && !key.children {
			continue
		}
		for _, w := range s.watches[key] {
			close(w.fired)
		}
		delete(s.watches, key)
	}
}

// makePath creates the parent nodes of a lock, as container nodes.
func (s *session) makePath(path string) error {
	_, err := s.conn.CreateContainer(path, nil, zk.FlagContainer, openACL)
	if above := path[:strings.LastIndexByte(path, '/')]; errors.Is(err, zk.ErrNoNode) && above != "" {
		if err := s.makePath(above); err != nil {
			return err
		}
		return s.makePath(path)
	}
	if errors.Is(err, zk.ErrNodeExists) {
		return nil
	}
	return err
}

// renew sends a request. Its answer proves that the server received it after this call.
func (s *session) renew(ctx context.Context) error {
	s.mu.Lock()
	expired := s.expired
	s.mu.Unlock()
	if expired {
		return lock.ErrLost
	}
	// The library would keep the request until there is a connection, even after ctx has ended.
	if err := s.awaitConnection(ctx); err != nil {
		return fmt.Errorf("not connected: %w", err)
	}
	answer := make(chan error, 1)
	s.locker.begin(func() {
		answer <- s.send(func() error {
			_, _, err := s.conn.Exists("/")
			return err
		})
	})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) alive() bool { return s.ctx.Err() == nil && s.lease.Alive() }

// awaitConnection waits for a connection until ctx ends, whose cause it then returns.
func (s *session) awaitConnection(ctx context.Context) error {
	for {
		s.mu.Lock()
		connected, changed := s.connected, s.changed
		s.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if connected {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// call sends a request until it is answered. The request must be one that can be
// sent twice. It is not bound to ctx.
func (s *session) call(ctx context.Context, request func() error) error {
	return backoff.Retry(ctx, isTransient, func() error {
		if err := s.awaitConnection(ctx); err != nil {
			return err
		}
		err := s.send(request)
		if isTransient(err) {
			s.setError(err)
		}
		return err
	})
}

func (s *session) list(ctx context.Context, path string) (nodes []string, err error) {
	err = s.call(ctx, func() error {
		nodes, _, err = s.conn.Children(path)
		return err
	})
	return inOrder(nodes), err
}

// listFresh reads the queue after a sync with the leader.
func (s *session) listFresh(ctx context.Context, path string) ([]string, error) {
	err := s.call(ctx, func() error {
		_, err := s.conn.Sync(path)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.list(ctx, path)
}

// listWatched reads the queue and sets a watch on it. Only the holder may do this: if
// all waiters did, each change would wake all of them.
func (s *session) listWatched(ctx context.Context, path string) (nodes []string, w *watch, err error) {
	w, err = s.watch(ctx, watched{path, true}, func(*watch) error {
		nodes, _, _, err = s.conn.ChildrenW(path)
		return err
	})
	return inOrder(nodes), w, err
}

// watchNode returns a watch on a node. It reuses the session's watch if there is one:
// the library cannot remove watches, so a waiter that gives up leaves its watch. It
// returns zk.ErrNoNode if the node does not exist.
func (s *session) watchNode(ctx context.Context, path string) (*watch, error) {
	s.mu.Lock()
	for _, w := range s.watches[watched{path, false}] {
		if w.set {
			s.mu.Unlock()
			return w, nil
		}
	}
	s.mu.Unlock()
	return s.watch(ctx, watched{path, false}, func(w *watch) error {
		// Not ExistsW, which would leave a watch for a missing node.
		_, stat, _, err := s.conn.GetW(path)
		if err == nil {
			w.stat = *stat
		}
		return err
	})
}

// watch registers a watch before it requests it, because the event may come before
// the request returns.
func (s *session) watch(ctx context.Context, key watched, request func(*watch) error) (*watch, error) {
	w := &watch{fired: make(chan struct{})}
	s.mu.Lock()
	s.watches[key] = append(s.watches[key], w)
	s.mu.Unlock()
	err := s.call(ctx, func() error { return request(w) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		w.set = true
		return w, nil
	}
	s.watches[key] = slices.DeleteFunc(s.watches[key], func(other *watch) bool { return other == w })
	if len(s.watches[key]) == 0 {
		delete(s.watches, key)
	}
	return nil, err
}

func (s *session) setError(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
}

// connectionError returns why the session has no connection, or nil.
func (s *session) connectionError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	servers := strings.Join(s.locker.cfg.Servers, ",")
	switch {
	case s.connected:
		return nil
	case s.lastErr != nil:
		return fmt.Errorf("zookeeper at %s: %w", servers, s.lastErr)
	}
	return fmt.Errorf("zookeeper at %s: no session yet", servers)
}

// isTransient reports whether the same request may succeed later. Errors of the
// connection are transient; permanent errors of the server are not.
func isTransient(err error) bool {
	final := []error{
		nil, errSessionLost, zk.ErrNoNode, zk.ErrNodeExists, zk.ErrNotEmpty, zk.ErrNoAuth, zk.ErrAuthFailed, zk.ErrInvalidACL,
		zk.ErrInvalidPath, zk.ErrAPIError, zk.ErrBadVersion, zk.ErrNoChildrenForEphemerals,
	}
	return !slices.ContainsFunc(final, func(f error) bool { return errors.Is(err, f) })
}
