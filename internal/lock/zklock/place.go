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

// anyVersion deletes a node of any version. This is safe, because the name of a node
// is never used twice.
const anyVersion = -1

// openACL gives everyone all permissions on a node. The network must restrict who can
// connect.
var openACL = zk.WorldACL(zk.PermAll)

// state of a place. The package's comment has the diagram.
type state int

const (
	waiting state = iota // for its node, or for the first place
	held                 // its node is the first
	gone                 // its node is being deleted, or has ended with its session
)

var (
	// errRemoved ends a place whose node was removed. Lock then queues again.
	errRemoved  = errors.New("the node in the queue was removed")
	errUnlocked = errors.New("unlocked")
)

// place is one place in the queue of a name, and the grant that it becomes.
type place struct {
	locker  *Locker
	session *session
	name    string
	path    string // of the lock
	id      string // unique; its node's name begins with it
	// ctx ends with the place, or with its session.
	ctx           context.Context
	cancel        context.CancelCauseFunc
	stopFollowing func() bool // stops following the session's end

	turn      chan struct{} // closed in state held, or gone without held
	lost      chan struct{}
	contended chan struct{}
	leaveOnce sync.Once
	gone      chan struct{} // closed when its node is deleted
	deleteErr error         // why its node could not be deleted; read after gone

	ownWatch *watch // on its node; used by run only

	// node and token are set by run. token may be read after turn.
	node  string
	token lock.Token

	mu    sync.Mutex
	state state
	err   error // why it is gone
}

// enter takes a place in the queue and waits for its grant. With onlyFirst, it
// returns lock.ErrHeld instead of waiting behind another node. The requests are not
// bound to ctx, because one that is cut off could still be applied.
func (l *Locker) enter(ctx context.Context, name string, onlyFirst bool) (*place, error) {
	if err := lock.CheckName(name); err != nil {
		return nil, err
	}
	s, err := l.sessionFor(ctx)
	if err != nil {
		return nil, err
	}
	p := &place{
		locker: l, session: s, name: name, path: l.pathOf(name), id: uuid.Must(uuid.NewV7()).String(),
		turn: make(chan struct{}), lost: make(chan struct{}), contended: make(chan struct{}), gone: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancelCause(s.ctx)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		p.cancel(lock.ErrClosed)
		return nil, lock.ErrClosed
	}
	l.places[p] = true
	// Not done by run, which may be blocked in a request to a silent server.
	p.stopFollowing = context.AfterFunc(s.ctx, func() { p.end(context.Cause(s.ctx)) })
	l.wg.Go(func() { p.run(onlyFirst) })
	l.mu.Unlock()
	select {
	case <-p.turn:
	case <-ctx.Done():
		p.end(ctx.Err())
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != held { // refused, or lost since turn was closed
		return nil, p.err
	}
	return p, nil
}

// run attends to a place from the creation of its node until its end.
func (p *place) run(onlyFirst bool) {
	defer p.leave()
	queue, err := p.queueUp(onlyFirst)
	if err == nil {
		queue, err = p.advance(onlyFirst, queue)
	}
	if err == nil {
		err = p.grant()
	}
	if err == nil {
		err = p.watchQueue(len(queue) > 1)
	}
	p.end(err)
}

func (p *place) queueUp(onlyFirst bool) (queue []string, err error) {
	if onlyFirst {
		if err := p.refuseIfHeld(); err != nil {
			return nil, err
		}
	}
	if err := p.create(); err != nil {
		return nil, err
	}
	var both errgroup.Group // one round trip for both requests
	both.Go(func() (err error) {
		p.ownWatch, err = p.session.watchNode(p.ctx, p.node)
		return asRemoved(err)
	})
	both.Go(func() (err error) {
		queue, err = p.session.list(p.ctx, p.path)
		return asRemoved(err)
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	p.token = lock.Token(p.ownWatch.stat.Czxid)
	return queue, nil
}

func (p *place) refuseIfHeld() error {
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

// heldBy returns lock.ErrHeld, with the holder's name if its node can be read.
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

// create creates the node. After a request without an answer it looks for the node by
// its id, until the session ends, even if the caller has gone.
func (p *place) create() error {
	s := p.session
	owner := []byte(p.locker.cfg.Owner + "/" + p.id)
	for pause := backoff; ; {
		if err := s.awaitConnection(p.ctx); err != nil {
			return err
		}
		err := s.send(func() (err error) {
			p.node, err = s.conn.Create(p.path+"/"+p.id+"-", owner, zk.FlagEphemeralSequential, openACL)
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
		s.setError(err)
		_ = sleep.For(s.ctx, pause.Next())
		if err := p.find(); err != nil || p.node != "" {
			return err
		}
	}
}

// find looks for the node after a create without an answer. The result is definite:
// see the package's comment.
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

// advance waits until the node is the first. It watches the node before its own,
// which may leave without having held.
func (p *place) advance(onlyFirst bool, queue []string) ([]string, error) {
	s := p.session
	for {
		i := slices.Index(queue, p.node[len(p.path)+1:])
		switch {
		case i < 0:
			return nil, errRemoved
		case i == 0:
			return queue, nil
		case onlyFirst:
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
			return nil, asRemoved(err)
		}
	}
}

// await waits for a watch to fire, or for the end of the place.
func (p *place) await(w *watch) (err error) {
	for {
		select {
		case <-w.fired:
			return nil
		case <-p.ownWatch.fired: // the node may be gone
			if p.ownWatch, err = p.session.watchNode(p.ctx, p.node); err != nil {
				return asRemoved(err)
			}
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
}

// grant turns a place whose node is the first into a grant. A stale list is enough:
// see the package's comment.
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

// watchQueue waits for the end of a grant. Meanwhile it closes contended, once, when the
// queue has another node.
func (p *place) watchQueue(others bool) error {
	for !others {
		queue, changed, err := p.session.listWatched(p.ctx, p.path)
		if err == nil && len(queue) <= 1 {
			if err := p.await(changed); err != nil {
				return err
			}
			// Without a watch, which is not needed if there are others now.
			queue, err = p.session.list(p.ctx, p.path)
		}
		if err != nil {
			return asRemoved(err)
		}
		others = len(queue) > 1
	}
	close(p.contended)
	return p.await(&watch{}) // which never fires
}

// end takes a place out of use. Its run deletes the node.
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

// leave deletes the node in the background, once.
func (p *place) leave() {
	p.leaveOnce.Do(func() {
		l := p.locker
		l.wg.Go(func() { // safe: run, which wg counts, has not ended
			p.deleteErr = p.remove()
			p.stopFollowing()
			l.mu.Lock()
			delete(l.places, p)
			l.mu.Unlock()
			close(p.gone)
		})
	})
}

// remove deletes the node. It retries until the session ends. It returns lock.ErrLost
// if the node was gone.
func (p *place) remove() error {
	if p.node == "" {
		return nil
	}
	s, retried := p.session, false
	err := s.call(s.ctx, func() error {
		err := s.conn.Delete(p.node, anyVersion)
		if retried && errors.Is(err, zk.ErrNoNode) {
			return nil // an earlier attempt may have deleted it
		}
		retried = retried || isTransient(err)
		return err
	})
	if errors.Is(err, zk.ErrNoNode) || errors.Is(err, errSessionLost) {
		return lock.ErrLost
	}
	return err
}

func asRemoved(err error) error {
	if errors.Is(err, zk.ErrNoNode) {
		return errRemoved
	}
	return err
}

func (p *place) Token() lock.Token          { return p.token }
func (p *place) Lost() <-chan struct{}      { return p.lost }
func (p *place) Contended() <-chan struct{} { return p.contended }

// Unlock deletes the node, and retries while ZooKeeper is unreachable. If ctx ends
// first, that continues in the background.
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
		if p.deleteErr != nil && !errors.Is(p.deleteErr, lock.ErrLost) {
			return p.locker.failed("unlock", p.name, p.deleteErr)
		}
		return p.deleteErr
	case <-ctx.Done():
		return p.locker.failed("unlock", p.name, ctx.Err())
	}
}
