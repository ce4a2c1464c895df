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

// errSessionLost: the session has ended, or must be taken to have.
var errSessionLost = errors.New("the session was lost")

// session is this process's claim to be alive. All its nodes end with it. It has
// a client of its own, which is never used for another: a request that was made
// in one session must not be sent in the next.
type session struct {
	locker *Locker
	conn   *zk.Conn
	events <-chan zk.Event // closed when conn has ended
	hosts  *hosts
	began  chan struct{} // closed when it has been granted, and kept is there

	// ctx ends with the session, as far as it is used. dialing ends when it must
	// not be connected to any more, not even to close it.
	ctx     context.Context
	end     context.CancelCauseFunc
	dialing context.Context
	hangUp  context.CancelFunc

	kept     *lease.Lease    // read after began
	requests sync.WaitGroup // grows only under mu, until closed

	mu      sync.Mutex
	wire    *wire
	asked   time.Time     // when the connection was made that wire is
	up      bool          // it is connected
	changed chan struct{} // closed, and replaced, when up changes
	expired bool          // says the server
	closed  bool          // no more requests
	trouble error         // the last
	watches map[watched][]*watch
}

// watched is what a watch is on.
type watched struct {
	path     string
	children bool
}

// watch fires once. It says no more than to look again.
type watch struct {
	fired chan struct{}
	set   bool // the server has it
	stat  zk.Stat
}

// newSession begins to ask for a session.
func (l *Locker) newSession() (*session, error) {
	s := &session{
		locker: l, began: make(chan struct{}), changed: make(chan struct{}), watches: map[watched][]*watch{},
	}
	s.hosts = &hosts{session: s}
	s.ctx, s.end = context.WithCancelCause(l.ctx)
	s.dialing, s.hangUp = context.WithCancel(l.ctx)
	var err error
	s.conn, s.events, err = zk.Connect(l.cfg.Servers, l.cfg.TTL, zk.WithDialer(s.dial), zk.WithHostProvider(s.hosts),
		zk.WithEventCallback(s.take), zk.WithLogger(libraryLog{l.cfg.Logger}), zk.WithLogInfo(false))
	if err != nil {
		s.end(err)
		s.hangUp()
		return nil, err
	}
	l.sessions[s] = true
	l.wg.Go(s.run)
	return s, nil
}

// run sees a session to its end. One that is lost may still stand on the server,
// and keep others waiting: it is closed there when that can be reached, or is
// found to have expired.
func (s *session) run() {
	select {
	case <-s.began:
		select {
		case <-s.kept.Lost():
			s.end(errSessionLost)
		case <-s.ctx.Done():
		}
	case <-s.ctx.Done():
	}
	s.locker.forgetSession(s)
	_ = s.connected(s.dialing) // or it cannot be any more
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	// The library must not be closed under a request: it may answer that three
	// times, and hangs where it has room for two.
	s.requests.Wait()
	s.close()
	s.hangUp()
	s.mu.Lock()
	kept := s.kept
	s.mu.Unlock()
	if kept != nil {
		kept.Lose()
	}
	s.locker.dropSession(s)
}

// close has the library close the session, and waits until it has ended.
func (s *session) close() {
	l := s.locker
	// It waits for an answer for a second, also where it is not connected. Nobody
	// else has to.
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
		l.cfg.Logger.Warn("zookeeper lock leaves a client that does not close")
	}
}

// send makes a request of the library, which returns when the server has answered
// or the connection has ended.
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

// lose gives the session up.
func (s *session) lose() {
	s.end(errSessionLost)
	s.locker.forgetSession(s)
}

// cut breaks the connection of a session that is being closed.
func (s *session) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wire != nil {
		s.wire.Close()
	}
}

// take is told by the client library of everything that happens.
func (s *session) take(e zk.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Type != zk.EventSession {
		s.fire(e)
		return
	}
	switch e.State {
	case zk.StateConnected:
		s.asked = time.Now() // the session is asked for next
	case zk.StateHasSession:
		if !s.watching() {
			s.setUp(true) // else once the library has asked for its watches again
		}
		if s.kept == nil && s.ctx.Err() == nil {
			s.kept = lease.Keep(s.wire.timeout(), s.asked, s.renew)
			close(s.began)
		}
	case zk.StateDisconnected:
		s.setUp(false)
	case zk.StateExpired:
		s.expired = true
		s.end(errSessionLost)
		// The library would begin another session on the same client, and send
		// there what was meant for this one.
		s.hangUp()
	}
}

// watching: the server had watches of ours.
func (s *session) watching() bool {
	for _, watches := range s.watches {
		if slices.ContainsFunc(watches, func(w *watch) bool { return w.set }) {
			return true
		}
	}
	return false
}

func (s *session) setUp(up bool) {
	if s.up != up {
		s.up = up
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// fire fires the watches on a node. Those on its children fire with it: it is
// rare, and costs a look.
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

// makePath makes the folder of a lock. The servers remove it, and those above it,
// some time after its last node has gone (ContainerManager).
func (s *session) makePath(path string) error {
	_, err := s.conn.CreateContainer(path, nil, zk.FlagContainer, anyone)
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

// renew shows that the server has heard of this session after it was called.
func (s *session) renew(ctx context.Context) error {
	s.mu.Lock()
	up, expired := s.up, s.expired
	s.mu.Unlock()
	switch {
	case expired:
		return lock.ErrLost
	case !up: // the request would be kept until there is a connection
		return errors.New("not connected")
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

// alive says whether the session can be relied on at this moment.
func (s *session) alive() bool { return s.ctx.Err() == nil && s.kept.Alive() }

// connected waits until there is a connection, or ctx ends.
func (s *session) connected(ctx context.Context) error {
	for {
		s.mu.Lock()
		up, changed := s.up, s.changed
		s.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if up {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// call sends a request until it is answered, through any trouble with the
// connection: it must be one that can be sent twice. Request is not bound to ctx.
func (s *session) call(ctx context.Context, request func() error) error {
	for pause := retryPause; ; pause = min(2*pause, retryPauseMax) {
		if err := s.connected(ctx); err != nil {
			return err
		}
		err := s.send(request)
		if !isTransient(err) {
			return err
		}
		s.note(err)
		_ = sleep.For(ctx, sleep.Jittered(pause))
	}
}

// list reads the queue of the lock at path, in order.
func (s *session) list(ctx context.Context, path string) (nodes []string, err error) {
	err = s.call(ctx, func() error {
		nodes, _, err = s.conn.Children(path)
		return err
	})
	return inOrder(nodes), err
}

// listFresh is list after all that others have done until now. A server may lag
// behind the one that leads.
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

// listWatched is list, with a watch on the queue. It is for one who holds, who is
// one at a time: if those who wait did this, all would wake with each change.
func (s *session) listWatched(ctx context.Context, path string) (nodes []string, w *watch, err error) {
	w, err = s.watch(ctx, watched{path, true}, func(w *watch) error {
		nodes, _, _, err = s.conn.ChildrenW(path)
		return err
	})
	return inOrder(nodes), w, err
}

// watchNode sets a watch on a node, unless the session has one: those who gave up
// waiting leave theirs behind until the node goes, since the library cannot take
// a watch back. zk.ErrNoNode: there is nothing to watch, and no watch.
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
		// Not ExistsW, which leaves a watch for a node that will never be.
		_, stat, _, err := s.conn.GetW(path)
		if err == nil {
			w.stat = *stat
		}
		return err
	})
}

// watch registers a watch before it is asked for: its event may be here before
// the one who asks has gone on.
func (s *session) watch(ctx context.Context, key watched, ask func(*watch) error) (*watch, error) {
	w := &watch{fired: make(chan struct{})}
	s.mu.Lock()
	s.watches[key] = append(s.watches[key], w)
	s.mu.Unlock()
	err := s.call(ctx, func() error { return ask(w) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		w.set = true
		return w, nil
	}
	var others []*watch
	for _, other := range s.watches[key] {
		if other != w {
			others = append(others, other)
		}
	}
	if s.watches[key] = others; others == nil {
		delete(s.watches, key)
	}
	return nil, err
}

// note keeps why the server cannot be used.
func (s *session) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = err
}

func (s *session) lastTrouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// why says why nothing goes on; nil when it should.
func (s *session) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	servers := strings.Join(s.locker.cfg.Servers, ",")
	switch {
	case s.up:
		return nil
	case s.trouble != nil:
		return fmt.Errorf("zookeeper at %s: %w", servers, s.trouble)
	}
	return fmt.Errorf("zookeeper at %s: no session yet", servers)
}

// isTransient: the same request may succeed a moment later. What a server
// refuses for good is named; all else has to do with the connection.
func isTransient(err error) bool {
	for _, final := range []error{
		nil, errSessionLost, zk.ErrNoNode, zk.ErrNodeExists, zk.ErrNotEmpty, zk.ErrNoAuth, zk.ErrAuthFailed, zk.ErrInvalidACL,
		zk.ErrInvalidPath, zk.ErrAPIError, zk.ErrBadVersion, zk.ErrNoChildrenForEphemerals,
	} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}
