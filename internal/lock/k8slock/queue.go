package k8slock

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
	"flashsale/internal/sleep"
)

// roomIdle is how long a room outlives its last place, so that the next Lock
// neither reads nor opens a watch. A sale has pauses.
const roomIdle = 30 * time.Second

// room is where this process's places of one name are. One goroutine has the
// watch and does all the writing: what came together is written together.
type room struct {
	locker       *StockLocker
	name, object string
	wake         chan struct{} // of size 1

	// These are guarded by the Locker.
	places  []*place // in order of arrival
	trouble error    // why the server could not be asked
	used    time.Time

	// These are the goroutine's own.
	current *stockLock // nil before the first answer, and after the object's end
	asked   time.Time  // current is no older than this
	events  watch.Interface
	looked  time.Time     // when it was opened
	pause   time.Duration // before the next attempt, after a failed one
	// obstacle is what stands in the way (see record), since we first saw it.
	obstacle obstacle
}

type obstacle struct {
	id       string
	renewals int64
	since    time.Time
}

func newRoom(l *StockLocker, name, object string) *room {
	return &room{locker: l, name: name, object: object, wake: make(chan struct{}, 1), pause: retryPause}
}

// join makes a place. The Locker's mutex is held here and in the methods below
// that say nothing else.
func (r *room) join(once bool) *place {
	p := &place{
		room: r, id: r.locker.newID(), since: time.Now(), once: once,
		settled: make(chan struct{}), gone: make(chan struct{}), wanted: make(chan struct{}),
	}
	r.places = append(r.places, p)
	r.used = time.Now()
	r.rouse()
	return p
}

// leave has the place erased. It may have been granted just now, or be lost.
func (r *room) leave(p *place) {
	p.leaving = true
	r.rouse()
}

func (r *room) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// settle lets a call return, once.
func (r *room) settle(p *place, refusal error) {
	select {
	case <-p.settled:
	default:
		p.refusal = refusal
		close(p.settled)
	}
}

// remove forgets a place that the server does not have.
func (r *room) remove(p *place, fate error) {
	r.places = slices.DeleteFunc(r.places, func(other *place) bool { return other == p })
	p.fate = fate
	close(p.gone)
}

func (r *room) place(id string) *place {
	for _, p := range r.places {
		if p.id == id {
			return p
		}
	}
	return nil
}

// run attends to the room until it is empty for a while, or the Locker closes.
func (r *room) run() {
	ctx := r.locker.ctx
	defer r.blind()
	for {
		due := r.attend(ctx)
		if due.IsZero() {
			return
		}
		timer := time.NewTimer(time.Until(due))
		roused := r.wake
		if r.pause > retryPause {
			roused = nil // in trouble: nobody is in such a hurry
		}
		var seen <-chan watch.Event
		if r.events != nil {
			seen = r.events.ResultChan()
		}
		select {
		case <-ctx.Done():
		case <-roused:
		case <-timer.C:
		case event, open := <-seen:
			r.observe(event, open)
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// attend does what there is to do, and says when to look again; never is zero.
func (r *room) attend(ctx context.Context) time.Time {
	err := r.work(ctx)
	if err == nil && r.events == nil {
		err = r.look(ctx) // after the work: nobody has to wait for this
	}
	l := r.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	r.trouble = err
	now := time.Now()
	if len(r.places) > 0 {
		r.used = now
	}
	if err != nil && l.objects.isFinal(err) {
		r.pause = retryPause // the next one is to be refused at once as well
		for _, p := range slices.Clone(r.places) {
			r.refuse(p, err)
		}
	}
	due := r.idleUntil()
	if len(r.places) == 0 && !now.Before(due) {
		delete(l.rooms, r.name)
		return time.Time{}
	}
	if over := r.over(); !over.IsZero() {
		due = earlier(due, over)
	}
	if err == nil {
		r.pause = retryPause
		return due // a place keeps the room, and its renewals rouse it
	}
	again := now.Add(sleep.Jittered(r.pause))
	r.pause = min(2*r.pause, retryPauseMax)
	if len(r.places) == 0 && again.Before(due) {
		r.pause = retryPause // nobody waits for it, and whoever comes may ask
		return due
	}
	for _, p := range r.places {
		if p.once && p.kept == nil && !p.leaving { // it was asked for once
			r.settle(p, err)
			r.leave(p)
		}
	}
	return again
}

// refuse ends a place that the server will not have. One that holds keeps what
// it has: its renewals fail, until it is lost.
func (r *room) refuse(p *place, err error) {
	r.settle(p, err)
	if p.kept == nil || p.leaving {
		r.remove(p, err)
	} else if p.renewed != nil {
		p.renewed <- err
		p.renewed = nil
	}
}

// idleUntil is when an empty room ends. It sees a dead holder's lease to its end,
// also where nobody waits for that: a TryLock that comes later finds it free.
func (r *room) idleUntil() time.Time {
	idle := r.locker.idle
	if r.current != nil {
		idle = max(idle, 2*time.Duration(r.current.Status.LeaseSeconds)*time.Second)
	}
	return r.used.Add(idle)
}

// work writes until what stands on the server is what this process wants.
func (r *room) work(ctx context.Context) error {
	for {
		if r.current == nil {
			if err := r.find(ctx); err != nil {
				return err
			}
		}
		todo := r.plan()
		if todo.done {
			return nil
		}
		if todo.next == nil {
			if err := r.find(ctx); err != nil {
				return err
			}
			continue
		}
		asked := time.Now()
		written, err := r.locker.write(ctx, todo.next)
		if apierrors.IsConflict(err) || isMissing(err) {
			// Another has written; what we know is old.
			if err := r.find(ctx); err != nil {
				return err
			}
			continue
		}
		r.sent(todo, err)
		if err != nil {
			return err
		}
		r.install(written, asked)
	}
}

// sent notes what came of a write that was not refused.
func (r *room) sent(todo plan, err error) {
	l := r.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range r.places {
		// Without an answer it may have been done.
		p.erased = p.erased || p.leaving && !todo.next.Status.has(p.id)
		// Only an answer to this very write is one to a renewal: an event may be
		// of an earlier one, and the lease counts from before it was sent.
		if err == nil && p.renewed != nil && p.renewed == todo.renewed {
			p.renewed <- nil
			p.renewed = nil
		}
	}
}

// find reads the object, and makes it if need be.
func (r *room) find(ctx context.Context) error {
	asked := time.Now()
	found, err := r.locker.read(ctx, r.object)
	if isMissing(err) {
		r.gone()
		found, err = r.create(ctx)
		if apierrors.IsAlreadyExists(err) {
			found, err = r.locker.read(ctx, r.object)
		}
	}
	if err != nil {
		return err
	}
	if found.Spec.Lock != r.name {
		return fmt.Errorf("stocklock %s says that it is %q and not %q: %w", r.object, found.Spec.Lock, r.name, errNotOurs)
	}
	r.install(found, asked)
	return nil
}

func (r *room) create(ctx context.Context) (*stockLock, error) {
	object, err := newObject(r.object, r.name)
	if err != nil {
		return nil, err
	}
	created, err := r.locker.objects.create(ctx, object)
	if err != nil {
		return nil, fmt.Errorf("create stocklock %s: %w", r.object, err)
	}
	return toStockLock(created)
}

func newObject(object, name string) (*unstructured.Unstructured, error) {
	made, err := newStockLock(object, name).object()
	if err == nil {
		delete(made.Object, "status") // it is written by itself
	}
	return made, err
}

// install notes what the server has shown, unless we know something newer.
func (r *room) install(found *stockLock, asked time.Time) {
	if r.current != nil && !notOlder(found.ResourceVersion, r.current.ResourceVersion) {
		return
	}
	r.current = found
	if asked.After(r.asked) {
		r.asked = asked
	}
	at := &found.Status
	if id, renewals := at.obstacle(); id != r.obstacle.id || renewals != r.obstacle.renewals {
		r.obstacle = obstacle{id: id, renewals: renewals, since: time.Now()}
	}
	l := r.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range slices.Clone(r.places) {
		switch {
		case p.kept != nil:
			r.check(p, at)
		case at.ID == p.id && !p.leaving:
			r.grant(p, at)
		case p.leaving && !at.has(p.id):
			r.remove(p, nil)
		case at.has(p.id):
			p.queued = true
		case p.queued: // it was dropped: it queues again, as another
			p.id, p.queued = l.newID(), false
		}
	}
}

// check compares a grant with what stands on the server.
func (r *room) check(p *place, at *record) {
	if at.ID != p.id {
		p.kept.Lose()
		if p.renewed != nil {
			p.renewed <- lock.ErrLost
			p.renewed = nil
		}
		fate := lock.ErrLost
		if p.erased {
			fate = nil
		}
		r.remove(p, fate)
		return
	}
	if len(at.Queue) > 0 && !p.told {
		p.told = true
		close(p.wanted)
	}
}

// grant makes a place the holder. Its lease counts from before the write that
// made it so. An earlier one than the last, which came late, is no grant: when it
// was sent is not known any more.
func (r *room) grant(p *place, at *record) {
	p.token = lock.Token(max(0, at.Token))
	asked := p.asked
	if at.Since == nil || !at.Since.Time.Equal(asked.Truncate(time.Microsecond)) {
		asked = time.Time{}
	}
	p.kept = lease.Keep(r.locker.ttl, asked, p.renew)
	if !p.kept.Alive() {
		r.settle(p, errLate)
		r.leave(p)
		return
	}
	r.settle(p, nil)
	r.check(p, at)
}

// gone notes that there is no object: nobody holds, and nobody waits.
func (r *room) gone() {
	r.current = nil
	r.obstacle = obstacle{}
	l := r.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range slices.Clone(r.places) {
		if p.kept != nil {
			r.check(p, new(record))
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
