package zklock

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/go-zookeeper/zk"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
	"flashsale/internal/sleep"
)

// anyVersion: a node's name is never used again, so that it cannot be another's.
const anyVersion = -1

// anyone may do anything with a node. Who may connect is for the network to say.
var anyone = zk.WorldACL(zk.PermAll)

// state of a place. See the package's comment.
type state int

const (
	waiting state = iota // it is asked for, or stands in the queue
	held                 // its node is the first
	gone                 // its node is being removed, or has ended with its session
)

// where in the queue a new place is good for its caller.
type where bool

const (
	anywhere  where = false
	onlyFirst where = true // else it is not taken at all: lock.ErrHeld
)

// errVanished: the node was removed; another place may be taken.
var errVanished = errors.New("the place in the queue was removed")

// errUnlocked ends a grant that its holder has given back.
var errUnlocked = errors.New("unlocked")

// place is one place in the queue of a name, and the grant that it becomes.
type place struct {
	locker  *Locker
	session *session
	name    string
	path    string // of the lock
	id      string // begins its node's name, and is never used again
	// ctx ends with the place, or with its session.
	ctx      context.Context
	cancel   context.CancelCauseFunc
	unfollow func() bool // does not follow the session's end any more

	turn   chan struct{} // closed when it is held, or gone without having been
	lost   chan struct{}
	wanted chan struct{}
	once   sync.Once     // leave
	gone   chan struct{} // closed when no node is left of it
	left   error         // why its node could not be removed; read after gone

	own *watch // on its node; run's alone

	// node and token are set by run, and may be read after turn.
	node  string
	token lock.Token

	mu    sync.Mutex
	state state
	err   error // why it is gone
}

// queueUp asks for a place. The requests are not bound to ctx: one that is cut
// off may still be applied.
func (l *Locker) queueUp(ctx context.Context, name string, w where) (*place, error) {
	s, err := l.sessionFor(ctx)
	if err != nil {
		return nil, err
	}
	p := &place{
		locker: l, session: s, name: name, path: l.pathOf(name), id: uuid.Must(uuid.NewV7()).String(),
		turn: make(chan struct{}), lost: make(chan struct{}), wanted: make(chan struct{}), gone: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancelCause(s.ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		p.cancel(lock.ErrClosed)
		return nil, lock.ErrClosed
	}
	l.places[p] = true
	// Not left to run, which may stand in a request to a server that is silent.
	p.unfollow = context.AfterFunc(s.ctx, func() { p.end(context.Cause(s.ctx)) })
	l.wg.Go(func() { p.run(w) })
	return p, nil
}

// run sees a place from its creation to its end.
func (p *place) run(w where) {
	defer p.leave()
	queue, err := p.enter(w)
	if err == nil {
		queue, err = p.advance(w, queue)
	}
	if err == nil {
		err = p.grant()
	}
	if err == nil {
		err = p.keep(len(queue) > 1)
	}
	p.end(err)
}

// enter takes a place, and sees who else has one.
func (p *place) enter(w where) (queue []string, err error) {
	if w == onlyFirst {
		if err := p.refuse(); err != nil {
			return nil, err
		}
	}
	if err := p.create(); err != nil {
		return nil, err
	}
	var both errgroup.Group // sent together: one round trip
	both.Go(func() (err error) {
		p.own, err = p.session.watchNode(p.ctx, p.node)
		return vanished(err)
	})
	both.Go(func() (err error) {
		queue, err = p.session.list(p.ctx, p.path)
		return vanished(err)
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	p.token = lock.Token(p.own.stat.Czxid)
	return queue, nil
}

// refuse returns lock.ErrHeld when somebody is in the queue.
func (p *place) refuse() error {
	queue, err := p.session.list(p.ctx, p.path)
	if err == nil && len(queue) > 0 {
		queue, err = p.session.listFresh(p.ctx, p.path)
	}
	switch {
	case errors.Is(err, zk.ErrNoNode), err == nil && len(queue) == 0:
		return nil
	case err != nil:
		return err
	}
	return p.heldBy(queue[0])
}

// heldBy is lock.ErrHeld, with the holder's name if it can be had.
func (p *place) heldBy(first string) error {
	var owner []byte
	err := p.session.call(p.ctx, func() (err error) {
		owner, _, err = p.session.conn.Get(p.path + "/" + first)
		return err
	})
	if err != nil {
		return lock.ErrHeld
	}
	return &lock.HeldError{Holder: lease.ParseOwner(string(owner)).Holder}
}

// create makes the node. A request without an answer may have made it, or be
// about to: then it is looked for by its id, also when its caller has gone, and
// until the session's end.
func (p *place) create() error {
	s := p.session
	owner := []byte(p.locker.cfg.Owner + "/" + p.id)
	for pause := retryPause; ; pause = min(2*pause, retryPauseMax) {
		if err := s.connected(p.ctx); err != nil {
			return err
		}
		err := s.send(func() (err error) {
			p.node, err = s.conn.Create(p.path+"/"+p.id+"-", owner, zk.FlagEphemeralSequential, anyone)
			return err
		})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, zk.ErrNoNode):
			err := s.call(p.ctx, func() error { return s.makePath(p.path) })
			if err != nil {
				return err
			}
			continue
		case !isTransient(err):
			return err
		}
		s.note(err)
		_ = sleep.For(s.ctx, sleep.Jittered(pause))
		if err := p.find(); err != nil || p.node != "" {
			return err
		}
	}
}

// find looks for the node after a request without an answer. That was sent on a
// connection of this session which is no more. The servers have either put it
// before what is sent on the next one, and a fresh list shows it; or they refuse
// it, since the session has moved on.
func (p *place) find() error {
	queue, err := p.session.listFresh(p.session.ctx, p.path)
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	for _, node := range queue {
		if strings.HasPrefix(node, p.id) {
			p.node = p.path + "/" + node
		}
	}
	return err
}

// advance waits until the place is the first: for the one before it alone, so
// that each release wakes one. When that has gone it need not have held: it may
// have given up.
func (p *place) advance(w where, queue []string) ([]string, error) {
	s := p.session
	for {
		i := slices.Index(queue, p.node[len(p.path)+1:])
		switch {
		case i < 0:
			return nil, errVanished
		case i == 0:
			return queue, nil
		case w == onlyFirst:
			return nil, p.heldBy(queue[0])
		}
		before, err := s.watchNode(p.ctx, p.path+"/"+queue[i-1])
		if err == nil {
			err = p.await(before)
		}
		if err != nil && !errors.Is(err, zk.ErrNoNode) {
			return nil, err
		}
		if queue, err = s.list(p.ctx, p.path); err != nil {
			return nil, vanished(err)
		}
	}
}

// await waits for a watch, or the end of the place.
func (p *place) await(w *watch) error {
	for {
		select {
		case <-w.fired:
			return nil
		case <-p.own.fired:
			if err := p.lookAgain(); err != nil {
				return err
			}
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
}

// lookAgain sees whether the node still stands: something has happened to it.
func (p *place) lookAgain() (err error) {
	p.own, err = p.session.watchNode(p.ctx, p.node)
	return vanished(err)
}

// grant makes a grant of a place that is the first. Whoever stood before it has
// gone for good, since a later node has a larger number; so it does not matter
// how old the list was that has shown it.
func (p *place) grant() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != waiting {
		return p.err
	}
	if !p.session.alive() {
		return errSessionLost
	}
	p.state = held
	close(p.turn)
	return nil
}

// keep sees a grant to its end, and tells the holder once that others wait.
func (p *place) keep(others bool) error {
	never := &watch{}
	for told, behind := false, (*watch)(nil); ; {
		if others && !told {
			told, behind = true, never
			close(p.wanted)
		}
		if behind == nil {
			queue, w, err := p.session.listWatched(p.ctx, p.path)
			if err != nil {
				return vanished(err)
			}
			others, behind = len(queue) > 1, w
			continue
		}
		if err := p.await(behind); err != nil {
			return err
		}
		// Without a watch: nobody needs one where others are found.
		queue, err := p.session.list(p.ctx, p.path)
		if err != nil {
			return vanished(err)
		}
		others, behind = len(queue) > 1, nil
	}
}

// wait waits for the grant. Whoever gives up leaves the queue.
func (p *place) wait(ctx context.Context) error {
	select {
	case <-p.turn:
	case <-ctx.Done():
		p.end(ctx.Err())
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != held { // perhaps no longer: then nothing was done under it
		return p.err
	}
	return nil
}

// end takes a place out of use. Its run removes the node.
func (p *place) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(err)
}

func (p *place) endLocked(err error) {
	switch p.state {
	case gone:
		return
	case waiting:
		close(p.turn)
	case held:
		close(p.lost)
	}
	p.state, p.err = gone, err
	p.cancel(err)
}

// leave removes the node in the background, once.
func (p *place) leave() {
	p.once.Do(func() {
		l := p.locker
		l.wg.Go(func() { // run has not ended yet, or is what calls this
			p.left = p.remove()
			p.unfollow()
			l.mu.Lock()
			delete(l.places, p)
			l.mu.Unlock()
			close(p.gone)
		})
	})
}

// remove deletes the node, however long that takes, unless the session ends
// before. lock.ErrLost: it was not there.
func (p *place) remove() error {
	if p.node == "" {
		return nil
	}
	s, doubt := p.session, false
	err := s.call(s.ctx, func() error {
		err := s.conn.Delete(p.node, anyVersion)
		if doubt && errors.Is(err, zk.ErrNoNode) {
			return nil // by an earlier request without an answer
		}
		doubt = doubt || isTransient(err)
		return err
	})
	if errors.Is(err, zk.ErrNoNode) || errors.Is(err, errSessionLost) {
		return lock.ErrLost
	}
	return err
}

// vanished: without a node there is no place.
func vanished(err error) error {
	if errors.Is(err, zk.ErrNoNode) {
		return errVanished
	}
	return err
}

// Token is the transaction that has made the node: later grants have larger ones.
func (p *place) Token() lock.Token { return p.token }

// Lost is closed at the session's end, which this process's clock tells in time,
// or when the node is seen to be gone.
func (p *place) Lost() <-chan struct{} { return p.lost }

// Wanted is closed when another node stands behind this one.
func (p *place) Wanted() <-chan struct{} { return p.wanted }

// Unlock removes the node, through any trouble with the connection. When ctx ends
// before there is an answer, that goes on behind it.
func (p *place) Unlock(ctx context.Context) error {
	p.mu.Lock()
	if p.state != held || !p.session.alive() {
		p.mu.Unlock()
		return lock.ErrLost
	}
	p.endLocked(errUnlocked)
	p.leave()
	p.mu.Unlock()
	select {
	case <-p.gone:
		if p.left != nil && !errors.Is(p.left, lock.ErrLost) {
			return p.locker.failed("unlock", p.name, p.left)
		}
		return p.left
	case <-ctx.Done():
		return p.locker.failed("unlock", p.name, ctx.Err())
	}
}
