package k8slock

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flashsale/internal/lock"
)

type plan struct {
	// next is what the object must become. If it is nil, the object must be read first:
	// a TryLock began after the last read.
	next    *stockLock
	renewed chan error // of the renewal in next
	done    bool       // there is nothing to do
	// takeOver tells that next ends the grant of a dead holder.
	takeOver string
}

// plan returns what must be written so that the object has what this process requires.
func (q *queue) plan() (todo plan) {
	l := q.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	to := q.current.Status
	to.Queue = slices.Clone(to.Queue)
	todo.takeOver = q.dropDead(&to, now)
	// Drop our places that no call waits for: abandoned ones, and those of late writes.
	to.keep(func(id string) bool {
		if sessionOf(id) != l.session {
			return true
		}
		p := q.place(id)
		return p != nil && !p.leaving
	})
	stale := false
	for _, p := range slices.Clone(q.places) {
		switch {
		case p.leaving:
		case p.lease != nil:
			if p.renewed != nil && to.ID == p.id {
				to.renew(now)
				todo.renewed = p.renewed
			}
		case to.has(p.id):
		case p.try && (to.ID != "" || len(to.Queue) > 0):
			stale = stale || q.asked.Before(p.since)
		case len(to.Queue) == queueLimit:
			q.refuse(p, errFull)
		default:
			since := metav1.NewMicroTime(p.since)
			to.Queue = append(to.Queue, waiter{Holder: l.owner, ID: p.id, Since: &since})
		}
	}
	if to.ID == "" && len(to.Queue) > 0 {
		if first := q.place(to.Queue[0].ID); first != nil {
			first.asked = now
			to.grant(l.ttl, now)
		}
	}
	to.Waiting = int32(len(to.Queue))
	if to.same(&q.current.Status) {
		if !stale {
			q.conclude()
			todo.done = true
		}
		return todo
	}
	object := *q.current
	object.Status = to
	todo.next = &object
	return todo
}

// queueLimit is the limit of the schema. Every waiter reads the whole queue at every
// change.
const queueLimit = 1000

var errFull = fmt.Errorf("the lock's queue is full: it has %d places", queueLimit)

// conclude ends the places that are done, once the object needs no write.
func (q *queue) conclude() {
	at := &q.current.Status
	for _, p := range slices.Clone(q.places) {
		switch {
		case p.leaving && !at.has(p.id):
			q.remove(p, nil)
		case p.try && !at.has(p.id):
			holder := at.Holder
			if at.ID == "" && len(at.Queue) > 0 {
				holder = at.Queue[0].Holder
			}
			q.settle(p, &lock.HeldError{Holder: holder})
			q.remove(p, nil)
		}
	}
}

// dropDead drops the grant and all places of a session that was silent for too long. It
// returns the message of the event if that was the holder's.
func (q *queue) dropDead(to *record, now time.Time) (takeOver string) {
	if at := q.dropAt(); at.IsZero() || now.Before(at) {
		return ""
	}
	if to.ID != "" {
		takeOver = fmt.Sprintf("%s ended the grant of %s with token %d, which was not renewed for %s",
			q.locker.owner, to.Holder, to.Token, now.Sub(q.blocker.since).Round(time.Millisecond))
	}
	dead := sessionOf(q.blocker.id)
	to.keep(func(id string) bool { return sessionOf(id) != dead })
	return takeOver
}

// dropAt is when the blocker's session counts as dead, or zero if there is none or it
// is ours. It depends on how long the blocker was unchanged by our monotonic clock.
//
// The next waiter drops it. The other processes do so only if that one is dead too.
func (q *queue) dropAt() time.Time {
	l := q.locker
	suspect := sessionOf(q.blocker.id)
	if q.current == nil || q.blocker.id == "" || suspect == l.session {
		return time.Time{}
	}
	patience := l.ttl // for a first waiter that must enter
	if at := q.current.Status; at.ID != "" && at.LeaseSeconds > 0 {
		patience = time.Duration(at.LeaseSeconds) * time.Second
	}
	if next := q.current.Status.next(suspect); next != "" && sessionOf(next) != l.session {
		patience += l.ttl / nextShare
	}
	return q.blocker.since.Add(patience)
}

// nextShare of a TTL is how much longer than the next waiter the other processes wait.
const nextShare = 4
