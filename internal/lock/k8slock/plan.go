package k8slock

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flashsale/internal/lock"
)

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
	for _, p := range slices.Clone(r.places) {
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
		case len(to.Queue) == queueLimit:
			r.refuse(p, errFull)
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
	to.Waiting = int32(len(to.Queue))
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

var errFull = fmt.Errorf("%d wait for the lock already", queueLimit)

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
	if at := r.current.Status; at.ID != "" && at.LeaseSeconds > 0 {
		patience = time.Duration(at.LeaseSeconds) * time.Second
	}
	if heir := r.current.Status.heir(dead); heir != "" && sessionOf(heir) != l.session {
		patience += l.ttl / heirShare
	}
	return r.obstacle.since.Add(patience)
}

// heirShare of a TTL is what the others leave to who is next.
const heirShare = 4
