package k8slock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
	"flashsale/internal/sleep"
)

// queueIdle is how long an unused queue stays, so that the next Lock need not read
// the object or open a watch. A sale has pauses.
const queueIdle = 30 * time.Second

// queue has this process's places of one name. One goroutine watches the object and
// does all the writing: places that arrive together are written together.
type queue struct {
	locker       *StockLocker
	name, object string
	wake         chan struct{} // of size 1

	// These are guarded by the Locker.
	places  []*place // in order of arrival
	lastErr error    // why the last request failed; nil after a success
	used    time.Time
	uid     types.UID // of the object

	// These are used by the goroutine only.
	current *stockLock // nil before the first answer, and when the object is gone
	asked   time.Time  // current is no older than this
	events  watch.Interface
	opened  time.Time     // when events was opened
	pause   sleep.Backoff // before the next attempt after a failure
	failing bool          // the last attempt failed
	blocker blocker
}

// blocker is the place that all others wait for (see record.blocker), and when this
// process first saw its last renewal.
type blocker struct {
	id       string
	renewals int64
	since    time.Time
}

func newQueue(l *StockLocker, name, object string) *queue {
	return &queue{locker: l, name: name, object: object, wake: make(chan struct{}, 1), pause: backoff}
}

// join adds a place. The caller must hold the Locker's mutex, here and in the methods
// down to place.
func (q *queue) join(try bool) *place {
	p := &place{
		queue: q, id: q.locker.newID(), since: time.Now(), try: try,
		settled: make(chan struct{}), gone: make(chan struct{}), contended: make(chan struct{}),
	}
	q.places = append(q.places, p)
	q.used = time.Now()
	q.notify()
	return p
}

// leave requests the removal of a place from the server. The place may have just been
// granted, or lost.
func (q *queue) leave(p *place) {
	p.leaving = true
	q.notify()
}

func (q *queue) settle(p *place, refusal error) {
	select {
	case <-p.settled:
	default:
		p.refusal = refusal
		close(p.settled)
	}
}

func (q *queue) remove(p *place, loss error) {
	q.places = slices.DeleteFunc(q.places, func(other *place) bool { return other == p })
	p.loss = loss
	close(p.gone)
}

func (p *place) answer(err error) {
	if p.renewed != nil {
		p.renewed <- err
		p.renewed = nil
	}
}

// refuse ends a place that the server does not accept. A holder keeps its grant: its
// renewals fail until it is lost.
func (q *queue) refuse(p *place, err error) {
	q.settle(p, err)
	if p.lease == nil || p.leaving {
		q.remove(p, err)
	} else {
		p.answer(err)
	}
}

func (q *queue) place(id string) *place {
	for _, p := range q.places {
		if p.id == id {
			return p
		}
	}
	return nil
}

func (q *queue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run serves the queue until it has been empty for a while, or the Locker closes.
func (q *queue) run() {
	ctx := q.locker.ctx
	defer q.closeWatch()
	for {
		due := q.step(ctx)
		if due.IsZero() {
			return
		}
		timer := time.NewTimer(time.Until(due))
		wake := q.wake
		if q.failing {
			wake = nil // the next attempt waits for its time
		}
		var events <-chan watch.Event
		if q.events != nil {
			events = q.events.ResultChan()
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		case event, open := <-events:
			q.handle(event, open)
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// step does what is due, and returns the time of the next step, or zero at the end of
// the queue.
func (q *queue) step(ctx context.Context) time.Time {
	err := q.sync(ctx)
	if err == nil && q.events == nil {
		err = q.openWatch(ctx) // after sync, so that no caller waits for it
	}
	l := q.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	q.lastErr = err
	now := time.Now()
	if len(q.places) > 0 {
		q.used = now
	}
	final := err != nil && l.isFinal(err)
	if final {
		for _, p := range slices.Clone(q.places) {
			q.refuse(p, err)
		}
	}
	due := q.idleUntil()
	if len(q.places) == 0 && !now.Before(due) {
		delete(l.queues, q.name)
		return time.Time{}
	}
	if at := q.dropAt(); !at.IsZero() && at.Before(due) {
		due = at
	}
	if err == nil || final { // a new place must be refused at once, too
		q.pause.Reset()
	}
	q.failing = false
	if err == nil {
		return due // places keep the queue, and renewals wake it
	}
	again := now.Add(q.pause.Next())
	if len(q.places) == 0 && again.Before(due) {
		q.pause.Reset() // no caller waits, and the next one may try at once
		return due
	}
	q.failing = !final
	for _, p := range q.places {
		if p.try && p.lease == nil && !p.leaving { // TryLock has had its one attempt
			q.settle(p, err)
			q.leave(p)
		}
	}
	return again
}

// idleUntil is when an empty queue ends. That is not before a dead holder's lease has
// ended, so that a later TryLock finds the lock free.
func (q *queue) idleUntil() time.Time {
	idle := q.locker.idle
	if q.current != nil {
		idle = max(idle, 2*time.Duration(q.current.Status.LeaseSeconds)*time.Second)
	}
	return q.used.Add(idle)
}

// sync writes until the object has what this process's places require.
func (q *queue) sync(ctx context.Context) error {
	read := q.current == nil
	for {
		if read {
			if err := q.read(ctx); err != nil {
				return err
			}
		}
		todo := q.plan()
		if todo.done {
			return nil
		}
		if read = todo.next == nil; read {
			continue
		}
		asked := time.Now()
		written, err := q.locker.update(ctx, todo.next, "status")
		if read = apierrors.IsConflict(err) || isMissing(err); read {
			continue // another process has written
		}
		q.recordWrite(todo, err)
		if err != nil {
			return err
		}
		q.install(written, asked)
	}
}

func (q *queue) recordWrite(todo plan, err error) {
	l := q.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && todo.takeOver != "" {
		q.note(reasonTakenOver, "%s", todo.takeOver)
	}
	for _, p := range q.places {
		// Without an answer, the write may have been applied.
		p.removalSent = p.removalSent || p.leaving && !todo.next.Status.has(p.id)
		// Only the answer of this write confirms the renewal. An event may be from an
		// earlier write, and the lease counts from before the request.
		if err == nil && p.renewed == todo.renewed {
			p.answer(nil)
		}
	}
}

// read reads the object, and creates it if necessary.
func (q *queue) read(ctx context.Context) error {
	objects := q.locker.objects
	asked := time.Now()
	found, err := objects.get(ctx, q.object)
	if isMissing(err) {
		q.gone()
		found, err = objects.create(ctx, newStockLock(q.object, q.name))
		if apierrors.IsAlreadyExists(err) {
			found, err = objects.get(ctx, q.object)
		}
	}
	if err != nil {
		return err
	}
	if found.Spec.Lock != q.name {
		return fmt.Errorf("stocklock %s is for lock %q, want %q: %w", q.object, found.Spec.Lock, q.name, errNotOurs)
	}
	q.install(found, asked)
	return nil
}

// install records a version of the object, unless a newer one is already recorded.
func (q *queue) install(found *stockLock, asked time.Time) {
	if q.current != nil && !notOlder(found.ResourceVersion, q.current.ResourceVersion) {
		return
	}
	q.current = found
	if asked.After(q.asked) {
		q.asked = asked
	}
	at := &found.Status
	if id, renewals := at.blocker(); id != q.blocker.id || renewals != q.blocker.renewals {
		q.blocker = blocker{id: id, renewals: renewals, since: time.Now()}
	}
	l := q.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	q.uid = found.UID
	for _, p := range slices.Clone(q.places) {
		switch {
		case p.lease != nil:
			q.check(p, at)
		case at.ID == p.id && !p.leaving:
			q.grant(p, at)
		case p.leaving && !at.has(p.id):
			q.remove(p, nil)
		case at.has(p.id):
			p.queued = true
		case p.queued: // another process dropped it: append it again, with a new id
			p.id, p.queued = l.newID(), false
		}
	}
}

func (q *queue) check(p *place, at *record) {
	if at.ID != p.id {
		p.lease.Lose()
		p.answer(lock.ErrLost)
		loss := lock.ErrLost
		if p.removalSent {
			loss = nil
		} else {
			q.noteLoss(p)
		}
		q.remove(p, loss)
		return
	}
	if len(at.Queue) > 0 && !p.contendedClosed {
		p.contendedClosed = true
		close(p.contended)
	}
}

// grant makes a place the holder. Its lease counts from before the write that granted
// it. If that is not the last write, its time is unknown, and the place is refused.
func (q *queue) grant(p *place, at *record) {
	p.token = lock.Token(max(0, at.Token))
	asked := p.asked
	if at.Since == nil || !at.Since.Time.Equal(asked.Truncate(time.Microsecond)) {
		asked = time.Time{}
	}
	p.lease = lease.Keep(q.locker.ttl, asked, p.renew)
	if !p.lease.Alive() {
		q.settle(p, errLate)
		q.leave(p)
		return
	}
	q.settle(p, nil)
	q.note(reasonGranted, "%s holds the lock with token %d", at.Holder, p.token)
	q.check(p, at)
}

// note records an event on the object. The caller must hold the Locker's mutex.
func (q *queue) note(reason, format string, args ...any) {
	q.locker.recorder.note(cause{q.object, q.uid, reason}, format, args...)
}

// noteLoss records the loss of a grant, once.
func (q *queue) noteLoss(p *place) {
	if !p.lossNoted {
		p.lossNoted = true
		q.note(reasonLost, "%s lost the lock, which it held with token %d", q.locker.owner, p.token)
	}
}

// gone records that the object does not exist: there is no holder and no waiter.
func (q *queue) gone() {
	q.current = nil
	q.blocker = blocker{}
	l := q.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range slices.Clone(q.places) {
		if p.lease != nil {
			q.check(p, new(record))
		}
	}
}

func (q *queue) openWatch(ctx context.Context) error {
	if time.Since(q.opened) < watchPause {
		if err := sleep.For(ctx, sleep.Jittered(watchPause)); err != nil {
			return err
		}
	}
	q.opened = time.Now()
	events, err := q.locker.watch(ctx, q.object, q.current.ResourceVersion)
	if err != nil {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			q.current = nil
		}
		return err
	}
	q.events = events
	return nil
}

// closeWatch closes the watch. The next step reads the object.
func (q *queue) closeWatch() {
	if q.events != nil {
		q.events.Stop()
		q.events = nil
	}
}

func (q *queue) handle(event watch.Event, open bool) {
	found, err := decodeEvent[stockLock](event, open)
	if err == nil {
		q.install(found, time.Time{})
		return
	}
	if errors.Is(err, errDeleted) {
		q.gone()
	}
	q.locker.log.Debug("kubernetes lock: reading the object again", "lock", q.name, "error", err)
	q.closeWatch()
	q.current = nil
}

// notOlder compares two versions of one object, because an event may come after the
// answer to a later write. Before Kubernetes 1.35 versions cannot be compared; the last
// one received then counts.
func notOlder(found, current string) bool {
	order, err := resourceversion.CompareResourceVersion(found, current)
	return err != nil || order >= 0
}
