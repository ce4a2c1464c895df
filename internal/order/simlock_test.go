package order

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
	"flashsale/internal/sleep"
)

// simEtcd keeps the queues of package etcdlock: the keys of a name by create revision, the
// first of which holds the lock, and which end with their lease.
type simEtcd struct {
	simServer

	// simServer.mu guards these.
	revision uint64
	queues   map[string][]simKey
	leases   map[int]*simLease
	lockers  []*simLocker
}

type simKey struct {
	revision uint64
	place    *simPlace // of the process that created it
	lease    int
}

type simLease struct {
	id      int
	expires time.Time
	timer   *time.Timer
}

const simTTL = 2 * time.Second

func newSimEtcd(s *sim) *simEtcd {
	return &simEtcd{simServer: simServer{s: s, name: "etcd"}, queues: map[string][]simKey{}, leases: map[int]*simLease{}}
}

// changed tells the watches. The caller holds mu.
func (e *simEtcd) changed() {
	e.revision++
	for _, l := range e.lockers {
		select {
		case l.dirty <- struct{}{}:
		default:
		}
	}
}

// remove removes the keys that f selects. The caller holds mu.
func (e *simEtcd) remove(why string, f func(name string, k simKey) bool) (removed int) {
	for _, name := range slices.Sorted(maps.Keys(e.queues)) {
		rest := slices.DeleteFunc(slices.Clone(e.queues[name]), func(k simKey) bool { return f(name, k) })
		if n := len(e.queues[name]) - len(rest); n > 0 {
			removed += n
			e.queues[name] = rest
			e.s.log("etcd: %d keys of %s removed: %s", n, name, why)
			e.changed()
		}
	}
	return removed
}

// end ends a lease. The caller holds mu.
func (e *simEtcd) end(id int, why string) {
	if l := e.leases[id]; l != nil {
		l.timer.Stop()
		delete(e.leases, id)
		e.remove(fmt.Sprint(why, id), func(_ string, k simKey) bool { return k.lease == id })
	}
}

// renew starts the TTL of a lease again. The caller holds mu.
func (e *simEtcd) renew(l *simLease) {
	ttl := simTTL + time.Duration(l.id) // leases end at different moments
	l.expires = time.Now().Add(ttl)
	if l.timer == nil {
		l.timer = time.AfterFunc(ttl, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if !e.down && !time.Now().Before(l.expires) {
				e.end(l.id, "expired lease ")
			}
		})
	}
	l.timer.Reset(ttl)
}

// restarted starts the TTLs again, as etcd does. The caller holds mu.
func (e *simEtcd) restarted() {
	for _, id := range slices.Sorted(maps.Keys(e.leases)) {
		e.renew(e.leases[id])
	}
}

// simLocker is the lock of one process, like etcdlock.Locker.
type simLocker struct {
	etcd    *simEtcd
	process *simProcess
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	dirty   chan struct{}

	mu       sync.Mutex
	closed   bool
	lease    *lease.Lease
	leaseID  int
	lost     bool // a lease was lost, and none was granted since
	granting chan struct{}
	views    map[string]*simView
}

type simView struct {
	revision uint64
	keys     []simKey
	gone     chan struct{} // closed when the first key changes
	places   []*simPlace
}

// simPlace is a place in a queue, and the grant that it becomes.
type simPlace struct {
	locker *simLocker
	name   string
	lease  *lease.Lease
	id     int // of the lease

	// The locker's mu guards these.
	revision                 uint64
	isHeld, isGone, timedOut bool
	isDeleting               bool
	err                      error
	turn, lost, contended    chan struct{}
}

var errSimRemoved = errors.New("the key was removed")

func newSimLocker(p *simProcess) *simLocker {
	l := &simLocker{etcd: p.node.s.etcd, process: p, dirty: make(chan struct{}, 1), views: map[string]*simView{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.etcd.set(func() { l.etcd.lockers = append(l.etcd.lockers, l) })
	l.wg.Go(l.watch)
	return l
}

// watch follows the queues. An event reaches it only while etcd can be reached.
func (l *simLocker) watch() {
	for l.ctx.Err() == nil {
		select {
		case <-l.dirty:
		case <-l.ctx.Done():
			return
		}
		c := l.etcd.s.chance(l.process.name + "watch")
		c.sleep(simTrip)
		if !c.pass(l.ctx.Done(), l.process.node.running, l.process.node.ways["etcd"]) {
			return
		}
		for l.etcd.isDown() {
			if sleep.For(l.ctx, c.delay(20*time.Millisecond)) != nil {
				return
			}
		}
		revision, queues := l.etcd.list()
		l.mu.Lock()
		for name := range l.views {
			l.replace(name, revision, queues[name])
		}
		l.mu.Unlock()
	}
}

func (e *simEtcd) list() (uint64, map[string][]simKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.revision, maps.Clone(e.queues)
}

// replace replaces an older view, and updates the places. The caller holds mu.
func (l *simLocker) replace(name string, revision uint64, keys []simKey) {
	v := l.views[name]
	if revision > v.revision {
		if len(v.keys) > 0 && (len(keys) == 0 || keys[0].revision != v.keys[0].revision) {
			close(v.gone)
		}
		if len(keys) > 0 && (len(v.keys) == 0 || keys[0].revision != v.keys[0].revision) {
			v.gone = make(chan struct{})
		}
		v.revision, v.keys = revision, keys
	}
	for _, p := range slices.Clone(v.places) {
		if p.revision > 0 && p.revision <= v.revision && !slices.ContainsFunc(v.keys, func(k simKey) bool { return k.place == p }) {
			l.end(p, errSimRemoved, false)
		}
	}
	if len(v.keys) == 0 {
		return
	}
	for _, k := range v.keys { // a request that timed out may have been applied later
		if k.place.locker == l && k.place.isGone {
			l.deleteLater(k.place)
		}
	}
	p := v.keys[0].place
	if p.locker != l || p.isGone {
		return
	}
	if !p.isHeld && p.lease.Alive() {
		p.revision, p.isHeld = v.keys[0].revision, true
		close(p.turn)
	}
	if p.isHeld && len(v.keys) > 1 && !isClosed(p.contended) {
		close(p.contended)
	}
}

// end takes a place out of use. The caller holds mu.
func (l *simLocker) end(p *simPlace, err error, timedOut bool) {
	if p.isGone {
		return
	}
	p.isGone, p.err, p.timedOut = true, err, timedOut
	if p.isHeld {
		close(p.lost)
	} else {
		close(p.turn)
	}
	v := l.views[p.name]
	v.places = slices.DeleteFunc(v.places, func(o *simPlace) bool { return o == p })
}

// start runs f until close. The caller holds mu.
func (l *simLocker) start(f func()) {
	if !l.closed {
		l.wg.Go(f)
	}
}

// deleteLater deletes a place's key in the background. The caller holds mu.
func (l *simLocker) deleteLater(p *simPlace) {
	if p.isDeleting {
		return
	}
	p.isDeleting = true
	c := l.etcd.s.chance(fmt.Sprint(l.process.name, "later", p.revision))
	l.start(func() {
		for p.lease.Alive() {
			err := l.delete(l.ctx, p)
			if err == nil || errors.Is(err, lock.ErrLost) || sleep.For(l.ctx, c.delay(50*time.Millisecond)) != nil {
				break
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		p.isDeleting = false
	})
}

func (l *simLocker) request(ctx context.Context, what string, exec func(c *chance) error) error {
	ctx, cancel := context.WithTimeout(ctx, simTTL/3)
	defer cancel()
	return l.etcd.call(ctx, l.process, what, exec)
}

// delete deletes a place's key. It returns lock.ErrLost if there is none.
func (l *simLocker) delete(ctx context.Context, p *simPlace) error {
	return l.evict(ctx, p.name, func(k simKey) bool { return k.place == p })
}

func (l *simLocker) evict(ctx context.Context, name string, f func(k simKey) bool) error {
	type answer struct {
		revision uint64
		keys     []simKey
		removed  int
	}
	result := make(chan answer, 1)
	err := l.request(ctx, "delete from "+name, func(*chance) error {
		l.etcd.mu.Lock()
		defer l.etcd.mu.Unlock()
		n := l.etcd.remove("by "+l.process.name, func(of string, k simKey) bool { return of == name && f(k) })
		result <- answer{l.etcd.revision, l.etcd.queues[name], n}
		return nil
	})
	if err != nil {
		return err
	}
	a := <-result
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replace(name, a.revision, a.keys)
	if a.removed == 0 {
		return lock.ErrLost
	}
	return nil
}

// grant makes sure that the process has a lease.
func (l *simLocker) grant(ctx context.Context) error {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return lock.ErrClosed
		}
		if l.lease != nil && l.lease.Alive() {
			l.mu.Unlock()
			return nil
		}
		done := l.beginGrant()
		l.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		l.mu.Lock()
		failed := l.lease == nil
		l.mu.Unlock()
		if failed {
			return errSimRefused
		}
	}
}

// beginGrant asks for a lease, once at a time. The caller holds mu.
func (l *simLocker) beginGrant() chan struct{} {
	if l.granting != nil {
		return l.granting
	}
	done := make(chan struct{})
	l.granting = done
	l.start(func() {
		asked, ids := time.Now(), make(chan int, 1)
		err := l.request(l.ctx, "grant", func(*chance) error {
			l.etcd.mu.Lock()
			defer l.etcd.mu.Unlock()
			l.etcd.revision++
			granted := &simLease{id: int(l.etcd.revision)}
			l.etcd.leases[granted.id] = granted
			l.etcd.renew(granted)
			ids <- granted.id
			return nil
		})
		l.mu.Lock()
		defer l.mu.Unlock()
		defer close(done)
		l.granting = nil
		if err != nil || l.closed {
			return
		}
		id := <-ids
		l.leaseID, l.lost = id, false
		keptAlive := true // until etcd says that the lease is gone
		l.lease = lease.Keep(simTTL, asked, func(ctx context.Context) error {
			err := l.etcd.call(ctx, l.process, "renew", func(*chance) error {
				l.etcd.mu.Lock()
				defer l.etcd.mu.Unlock()
				if l.etcd.leases[id] == nil {
					return lock.ErrLost
				}
				l.etcd.renew(l.etcd.leases[id])
				return nil
			})
			if errors.Is(err, lock.ErrLost) {
				l.mu.Lock()
				keptAlive = false
				l.mu.Unlock()
			}
			return err
		})
		kept := l.lease
		l.start(func() {
			select {
			case <-kept.Lost():
			case <-l.ctx.Done():
			}
			kept.Stop()
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.lease == kept {
				l.lease, l.lost = nil, true
			}
			for _, name := range slices.Sorted(maps.Keys(l.views)) {
				for _, p := range slices.Clone(l.views[name].places) {
					if p.lease == kept {
						l.end(p, errSimRemoved, keptAlive && !l.closed)
					}
				}
			}
			l.start(func() { l.revoke(l.ctx, id) })
		})
	})
	return done
}

// revoke ends a lease at the server, for as long as it takes.
func (l *simLocker) revoke(ctx context.Context, id int) {
	c := l.etcd.s.chance(fmt.Sprint(l.process.name, "revoke", id))
	for {
		err := l.request(ctx, "revoke", func(*chance) error {
			l.etcd.set(func() { l.etcd.end(id, "revoked lease ") })
			return nil
		})
		if err == nil || sleep.For(ctx, c.delay(100*time.Millisecond)) != nil {
			return
		}
	}
}

func (l *simLocker) enter(ctx context.Context, name string, onlyFirst bool) (lock.Held, error) {
	if err := l.grant(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.closed || l.lease == nil {
		l.mu.Unlock()
		return nil, errSimRemoved
	}
	p := &simPlace{locker: l, name: name, lease: l.lease, id: l.leaseID,
		turn: make(chan struct{}), lost: make(chan struct{}), contended: make(chan struct{})}
	v := l.views[name]
	if v == nil {
		v = &simView{}
		l.views[name] = v
	}
	v.places = append(v.places, p)
	l.start(func() { l.create(p, onlyFirst) })
	l.mu.Unlock()
	select {
	case <-p.turn:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		l.end(p, err, false)
		l.deleteLater(p)
		return nil, err
	}
	if !p.isHeld || p.isGone {
		return nil, p.err
	}
	return p, nil
}

// create creates the key of a place.
func (l *simLocker) create(p *simPlace, onlyFirst bool) {
	type answer struct {
		revision, created uint64
		keys              []simKey
	}
	result := make(chan answer, 1)
	err := l.request(l.ctx, "create in "+p.name, func(*chance) error {
		e := l.etcd
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.leases[p.id] == nil {
			return errSimRemoved
		}
		var a answer
		if !onlyFirst || len(e.queues[p.name]) == 0 {
			e.changed()
			a.created = e.revision
			e.queues[p.name] = append(slices.Clone(e.queues[p.name]), simKey{e.revision, p, p.id})
			e.s.log("etcd: %s queues for %s with token %d", l.process.name, p.name, e.revision)
		}
		a.revision, a.keys = e.revision, e.queues[p.name]
		result <- a
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, errSimRemoved) {
		l.end(p, err, false)
		p.lease.Lose()
		return
	}
	if err != nil { // the key may exist, or may be created later
		l.end(p, err, false)
		l.deleteLater(p)
		return
	}
	a := <-result
	switch {
	case a.created > 0 && !p.isGone:
		if p.revision == 0 { // the watch may have been faster
			p.revision = a.created
		}
	case a.created > 0:
		l.deleteLater(p)
	default:
		l.end(p, lock.ErrHeld, false)
	}
	l.replace(p.name, a.revision, a.keys)
}

// Lock implements lock.Locker.
func (l *simLocker) Lock(ctx context.Context, name string) (lock.Held, error) {
	c := l.etcd.s.chance(l.process.name + "lock" + name)
	for {
		held, err := l.enter(ctx, name, false)
		if err == nil || ctx.Err() != nil || errors.Is(err, lock.ErrClosed) {
			return held, err
		}
		if sleep.For(ctx, c.delay(20*time.Millisecond)) != nil {
			return nil, err
		}
	}
}

// TryLock implements lock.Locker.
func (l *simLocker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return l.enter(ctx, name, true)
}

// Healthy is like etcdlock's: after a loss it begins a new lease.
func (l *simLocker) Healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return lock.ErrClosed
	case !l.lost || l.lease != nil && l.lease.Alive():
		return nil
	}
	l.beginGrant()
	return errors.New("no lease")
}

// Close implements lock.Locker.
func (l *simLocker) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	for _, name := range slices.Sorted(maps.Keys(l.views)) {
		for _, p := range slices.Clone(l.views[name].places) {
			l.end(p, lock.ErrClosed, false)
		}
	}
	kept, id := l.lease, l.leaseID
	l.mu.Unlock()
	if kept != nil && ctx.Err() == nil {
		l.revoke(ctx, id)
	}
	l.stop()
	l.wg.Wait()
	l.etcd.set(func() { l.etcd.lockers = slices.DeleteFunc(l.etcd.lockers, func(o *simLocker) bool { return o == l }) })
	return nil
}

// Holder implements lock.Viewer.
func (l *simLocker) Holder(name string) (lock.Holder, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.views[name]
	if v == nil || len(v.keys) == 0 {
		return lock.Holder{}, false
	}
	first := v.keys[0]
	of := first.place.locker.process
	mine := first.place.locker == l && !first.place.isGone
	return lock.Holder{Token: lock.Token(first.revision), Mine: mine, Process: of.name, Addr: of.node.name, Gone: v.gone}, true
}

// Evict implements lock.Viewer.
func (l *simLocker) Evict(ctx context.Context, name string, token lock.Token) error {
	if h, found := l.Holder(name); !found || h.Token != token {
		return lock.ErrNotHeld
	}
	err := l.evict(ctx, name, func(k simKey) bool { return lock.Token(k.revision) == token })
	if errors.Is(err, lock.ErrLost) {
		return lock.ErrNotHeld
	}
	return err
}

func (p *simPlace) Token() lock.Token          { return lock.Token(p.revision) }
func (p *simPlace) Lost() <-chan struct{}      { return p.lost }
func (p *simPlace) Contended() <-chan struct{} { return p.contended }

func (p *simPlace) TimedOut() bool {
	p.locker.mu.Lock()
	defer p.locker.mu.Unlock()
	return p.timedOut
}

func (p *simPlace) Unlock(ctx context.Context) error {
	l := p.locker
	l.mu.Lock()
	if p.isGone || !p.lease.Alive() {
		l.mu.Unlock()
		return lock.ErrLost
	}
	l.mu.Unlock()
	err := l.delete(ctx, p)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(p, lock.ErrLost, false)
	if err != nil && !errors.Is(err, lock.ErrLost) {
		l.deleteLater(p)
	}
	return err
}
