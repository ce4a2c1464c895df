package k8slock

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flashsale/internal/lock"
)

// stockLocks is the custom resource: see deploy/kubernetes/stocklock.yaml.
var stockLocks = schema.GroupVersionResource{Group: "flashsale.internal", Version: "v1", Resource: "stocklocks"}

// stockLock is the object. Its spec is written once; the lock is its status.
type stockLock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   spec   `json:"spec"`
	Status record `json:"status,omitempty"`
}

type spec struct {
	// Lock is the lock's name.
	Lock string `json:"lock"`
}

// record is who holds a lock, and who waits.
type record struct {
	// Holder is for people. ID is the grant's own, and empty where nobody holds.
	Holder string            `json:"holder,omitempty"`
	ID     string            `json:"id,omitempty"`
	Since  *metav1.MicroTime `json:"since,omitempty"`
	// Token is that of the last grant, and stays when it has ended.
	Token int64 `json:"token,omitempty"`
	// LeaseSeconds is how long the holder may be silent.
	LeaseSeconds int32 `json:"leaseSeconds,omitempty"`
	// Renewals rises with each sign of life. Renewed is for people.
	Renewals int64             `json:"renewals,omitempty"`
	Renewed  *metav1.MicroTime `json:"renewed,omitempty"`
	// Queue has those who wait, the next one first. Waiting is its length, which
	// kubectl cannot count.
	Queue   []waiter `json:"queue,omitempty"`
	Waiting int32    `json:"waiting,omitempty"`
}

// waiter is a place in the queue.
type waiter struct {
	Holder string            `json:"holder"`
	ID     string            `json:"id"`
	Since  *metav1.MicroTime `json:"since,omitempty"`
}

// placeID names a place: the Locker's session, and a number never used twice.
func placeID(session string, n uint64) string { return fmt.Sprintf("%s-%d", session, n) }

// sessionOf is the Locker's that a place belongs to.
func sessionOf(id string) string { return id[:max(0, strings.LastIndexByte(id, '-'))] }

// clone has nothing in common with r that is ever written.
func (r record) clone() record {
	r.Queue = slices.Clone(r.Queue)
	return r
}

func (r *record) has(id string) bool {
	return r.ID == id || slices.ContainsFunc(r.Queue, func(w waiter) bool { return w.ID == id })
}

// keep drops every place but those, the holder's included.
func (r *record) keep(stays func(id string) bool) {
	r.Queue = slices.DeleteFunc(r.Queue, func(w waiter) bool { return !stays(w.ID) })
	if r.ID != "" && !stays(r.ID) {
		r.free()
	}
}

// free ends the grant. The count of tokens stays, and of renewals.
func (r *record) free() {
	r.Holder, r.ID, r.Since, r.Renewed, r.LeaseSeconds = "", "", nil, nil, 0
}

// grant makes the first of the queue the holder.
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

// obstacle is what everybody waits for: the holder, with its last sign of life,
// or where nobody holds the first of the queue, whose turn it is.
func (r *record) obstacle() (id string, renewals int64) {
	switch {
	case r.ID != "":
		return r.ID, r.Renewals
	case len(r.Queue) > 0:
		return r.Queue[0].ID, 0
	}
	return "", 0
}

// heir is who comes next if that session is dead.
func (r *record) heir(dead string) string {
	for _, w := range r.Queue {
		if sessionOf(w.ID) != dead {
			return w.ID
		}
	}
	return ""
}

// same says whether nothing has to be written to make one of the other.
func (r *record) same(other *record) bool {
	return r.ID == other.ID && r.Token == other.Token && r.Renewals == other.Renewals &&
		slices.EqualFunc(r.Queue, other.Queue, func(a, b waiter) bool { return a.ID == b.ID })
}

// info is what Inspect tells.
func (l *stockLock) info() lock.Info {
	r := l.Status
	info := lock.Info{
		Name: l.Spec.Lock, Holder: r.Holder, Replica: replicaOf(r.Holder), Token: lock.Token(max(0, r.Token)),
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

// toStockLock reads an object. What the server keeps of who wrote which field is
// left out: it does not need that back.
func toStockLock(object *unstructured.Unstructured) (*stockLock, error) {
	found := new(stockLock)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, found); err != nil {
		return nil, fmt.Errorf("stocklock %s: %w", object.GetName(), err)
	}
	found.ManagedFields = nil
	return found, nil
}

func (l *stockLock) object() (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(l)
	if err != nil {
		return nil, fmt.Errorf("stocklock %s: %w", l.Name, err)
	}
	return &unstructured.Unstructured{Object: content}, nil
}
