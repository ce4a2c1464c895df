package k8slock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
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
		var seen <-chan watch.Event
		if r.events != nil {
			seen = r.events.ResultChan()
		}
		select {
		case <-ctx.Done():
		case <-r.wake:
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
	switch {
	case err != nil && r.locker.objects.isFinal(err):
		for _, p := range slices.Clone(r.places) {
			r.refuse(p, err)
		}
	case err != nil && len(r.places) > 0:
		for _, p := range r.places {
			if p.once && p.kept == nil { // it was asked for once
				r.settle(p, err)
				r.leave(p)
			}
		}
		due := now.Add(jittered(r.pause))
		r.pause = min(2*r.pause, retryPauseMax)
		return due
	}
	r.pause = retryPause
	due := r.idleUntil()
	if len(r.places) == 0 && !now.Before(due) {
		delete(l.rooms, r.name)
		return time.Time{}
	}
	if over := r.over(); !over.IsZero() {
		due = earlier(due, over)
	}
	// A place keeps the room, and its renewals rouse it.
	return due
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
	object, err := newStockLock(r.object, r.name).object()
	if err != nil {
		return nil, err
	}
	delete(object.Object, "status") // it is written by itself
	created, err := r.locker.objects.create(ctx, object)
	if err != nil {
		return nil, fmt.Errorf("create stocklock %s: %w", r.object, err)
	}
	return toStockLock(created)
}

// plan is what a room does next.
type plan struct {
	// next is what the object is to become. With nil it must be read first: a
	// TryLock has come after what we know.
	next    *stockLock
	renewed chan error // of the renewal that is in it
	done    bool       // there is nothing to do
}

func (r *room) plan() (todo plan) {
	l := r.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	to := r.current.Status.clone()
	r.bury(&to, now)
	// What is ours, and has nobody here: given up, or written after its time.
	to.keep(func(id string) bool {
		if sessionOf(id) != l.session {
			return true
		}
		p := r.place(id)
		return p != nil && !p.leaving
	})
	stale := false
	for _, p := range r.places {
		switch {
		case p.leaving:
		case p.kept != nil:
			if p.renewed != nil && to.ID == p.id {
				to.renew(now)
				todo.renewed = p.renewed
			}
		case to.has(p.id):
		case p.once && (to.ID != "" || len(to.Queue) > 0):
			stale = stale || r.asked.Before(p.since)
		default:
			since := metav1.NewMicroTime(p.since)
			to.Queue = append(to.Queue, waiter{Holder: l.owner, ID: p.id, Since: &since})
		}
	}
	if to.ID == "" && len(to.Queue) > 0 {
		if first := r.place(to.Queue[0].ID); first != nil {
			first.asked = now
			to.grant(l.ttl, now)
		}
	}
	to.Waiting = int32(min(len(to.Queue), queueLimit))
	if to.same(&r.current.Status) {
		if !stale {
			r.conclude()
			todo.done = true
		}
		return todo
	}
	object := *r.current
	object.Status = to
	todo.next = &object
	return todo
}

// queueLimit is the schema's: a queue is read by everybody in it, at each change.
const queueLimit = 1000

// conclude ends the calls for which nothing is left to do.
func (r *room) conclude() {
	at := &r.current.Status
	for _, p := range slices.Clone(r.places) {
		switch {
		case p.leaving && !at.has(p.id):
			r.remove(p, nil)
		case p.once && !at.has(p.id):
			holder := at.Holder
			if at.ID == "" && len(at.Queue) > 0 {
				holder = at.Queue[0].Holder
			}
			r.settle(p, &lock.HeldError{Holder: holder})
			r.remove(p, nil)
		}
	}
}

// bury drops a session that has been silent for too long: its grant, and all its
// places. Who lives after all stands in the queue again, at its end.
func (r *room) bury(to *record, now time.Time) {
	if over := r.over(); over.IsZero() || now.Before(over) {
		return
	}
	dead := sessionOf(r.obstacle.id)
	to.keep(func(id string) bool { return sessionOf(id) != dead })
}

// over is when the obstacle may be buried; zero if there is none, or it is ours.
// What counts is how long we have seen it unchanged, by our monotonic clock.
//
// Whoever is next does it. The others do so only if that one is dead as well.
func (r *room) over() time.Time {
	l := r.locker
	dead := sessionOf(r.obstacle.id)
	if r.current == nil || r.obstacle.id == "" || dead == l.session {
		return time.Time{}
	}
	patience := l.ttl // of a queue that waits for its first to come in
	if r.current.Status.ID != "" {
		patience = time.Duration(r.current.Status.LeaseSeconds) * time.Second
	}
	if heir := r.current.Status.heir(dead); heir != "" && sessionOf(heir) != l.session {
		patience += l.ttl / heirShare
	}
	return r.obstacle.since.Add(patience)
}

// heirShare of a TTL is what the others leave to who is next.
const heirShare = 4

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

// look opens the watch, from what we know on.
func (r *room) look(ctx context.Context) error {
	if time.Since(r.looked) < watchPause {
		if err := sleep(ctx, watchPause); err != nil {
			return err
		}
	}
	r.looked = time.Now()
	events, err := r.locker.objects.watch(ctx, r.object, r.current.ResourceVersion)
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			r.current = nil
		}
		return err
	}
	r.events = events
	return nil
}

// blind ends the watch. What has changed since is then read.
func (r *room) blind() {
	if r.events != nil {
		r.events.Stop()
		r.events = nil
	}
}

// observe takes what the watch has shown.
func (r *room) observe(event watch.Event, open bool) {
	object, isObject := event.Object.(*unstructured.Unstructured)
	var err error
	switch {
	case !open:
		err = errWatchEnded
	case event.Type == watch.Error:
		err = apierrors.FromObject(event.Object)
	case event.Type == watch.Deleted:
		err = errors.New("the object was deleted")
		r.gone()
	case event.Type == watch.Bookmark || !isObject:
		return
	default:
		var found *stockLock
		if found, err = toStockLock(object); err == nil {
			r.install(found, time.Time{})
			return
		}
	}
	r.locker.objects.log.Debug("a lock is read again", "lock", r.name, "err", err)
	r.blind()
	r.current = nil
}

// notOlder compares versions of one object, which Kubernetes defines since 1.35:
// an event may come after the answer to a later write. Where they cannot be
// compared, what is read last counts.
func notOlder(found, known string) bool {
	order, err := resourceversion.CompareResourceVersion(found, known)
	return err != nil || order >= 0
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
