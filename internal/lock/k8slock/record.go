package k8slock

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// stockLocks is the custom resource of deploy/kubernetes/locks/stocklock.yaml.
var stockLocks = schema.GroupVersionResource{Group: "flashsale.internal", Version: "v1", Resource: "stocklocks"}

// stockLock is the object of a lock. Its spec never changes; its status is the lock.
type stockLock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   spec   `json:"spec"`
	Status record `json:"status,omitempty"`
}

type spec struct {
	Lock string `json:"lock"`
}

// record is the holder and the queue of a lock.
type record struct {
	// Holder is for people. ID is unique to the grant, and empty if there is none.
	Holder string            `json:"holder,omitempty"`
	ID     string            `json:"id,omitempty"`
	Since  *metav1.MicroTime `json:"since,omitempty"`
	// Token is that of the last grant, also after its end.
	Token        int64 `json:"token,omitempty"`
	LeaseSeconds int32 `json:"leaseSeconds,omitempty"`
	// Renewals rises with each renewal. Renewed is for people.
	Renewals int64             `json:"renewals,omitempty"`
	Renewed  *metav1.MicroTime `json:"renewed,omitempty"`
	// Queue has the waiters, the next one first. Waiting is its length, for kubectl.
	Queue   []waiter `json:"queue,omitempty"`
	Waiting int32    `json:"waiting,omitempty"`
}

type waiter struct {
	Holder string            `json:"holder"`
	ID     string            `json:"id"`
	Since  *metav1.MicroTime `json:"since,omitempty"`
}

// placeID returns the id of a place: its Locker's session, and a unique number.
func placeID(session string, n uint64) string { return fmt.Sprintf("%s-%d", session, n) }

func sessionOf(id string) string { return id[:max(0, strings.LastIndexByte(id, '-'))] }

func (r *record) has(id string) bool {
	return r.ID == id || slices.ContainsFunc(r.Queue, func(w waiter) bool { return w.ID == id })
}

// keep drops all places for which stays is false, including the holder's.
func (r *record) keep(stays func(id string) bool) {
	r.Queue = slices.DeleteFunc(r.Queue, func(w waiter) bool { return !stays(w.ID) })
	if r.ID != "" && !stays(r.ID) {
		r.free()
	}
}

// free ends the grant. It keeps the counters of tokens and renewals.
func (r *record) free() {
	r.Holder, r.ID, r.Since, r.Renewed, r.LeaseSeconds = "", "", nil, nil, 0
}

func (r *record) grant(lease time.Duration, now time.Time) {
	first := r.Queue[0]
	r.Queue = r.Queue[1:]
	at := metav1.NewMicroTime(now)
	r.Holder, r.ID, r.Since, r.LeaseSeconds = first.Holder, first.ID, &at, int32(lease/time.Second)
	r.Token++
	r.renew(now)
}

func (r *record) renew(now time.Time) {
	at := metav1.NewMicroTime(now)
	r.Renewed = &at
	r.Renewals++
}

// blocker returns the place that all others wait for, and its last renewal: the holder
// or, if there is none, the first waiter, which must enter.
func (r *record) blocker() (id string, renewals int64) {
	switch {
	case r.ID != "":
		return r.ID, r.Renewals
	case len(r.Queue) > 0:
		return r.Queue[0].ID, 0
	}
	return "", 0
}

// next returns the first waiter that does not belong to the session, or "".
func (r *record) next(except string) string {
	for _, w := range r.Queue {
		if sessionOf(w.ID) != except {
			return w.ID
		}
	}
	return ""
}

// same reports whether the record needs no write to become other.
func (r *record) same(other *record) bool {
	return r.ID == other.ID && r.Token == other.Token && r.Renewals == other.Renewals &&
		slices.EqualFunc(r.Queue, other.Queue, func(a, b waiter) bool { return a.ID == b.ID })
}

func (l *stockLock) info() lock.Info {
	r := l.Status
	info := lock.Info{
		Name: l.Spec.Lock, Holder: r.Holder, Replica: lease.ReplicaOf(r.Holder), Token: lock.Token(max(0, r.Token)),
	}
	if r.Since != nil {
		info.Since = r.Since.Time
	}
	for _, w := range r.Queue {
		info.Queue = append(info.Queue, w.Holder)
	}
	return info
}

func newStockLock(object, name string) *stockLock {
	return &stockLock{
		TypeMeta:   metav1.TypeMeta{APIVersion: stockLocks.GroupVersion().String(), Kind: "StockLock"},
		ObjectMeta: metav1.ObjectMeta{Name: object},
		Spec:       spec{Lock: name},
	}
}

// looksExpired reports whether a holder has not renewed for two TTLs, by its clock and
// ours. Inspect then does not list it. The lock itself never compares clocks.
func looksExpired(renewed *metav1.MicroTime, ttl time.Duration) bool {
	return renewed != nil && time.Since(renewed.Time) > 2*ttl
}
