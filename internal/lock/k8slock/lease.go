package k8slock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

const (
	// nameAnnotation has the lock's own name.
	nameAnnotation = "flashsale.internal/lock"
	// kindLabel tells our Leases from those that others keep in the namespace.
	kindLabel, kindValue = "app.kubernetes.io/managed-by", "flashsale"
)

// leaseKind is what a leaseObject is of.
var leaseKind = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}

// leaseObject is the part of a Lease that a lock is made of. The times are for people.
type leaseObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		HolderIdentity       *string           `json:"holderIdentity,omitempty"`
		LeaseDurationSeconds *int32            `json:"leaseDurationSeconds,omitempty"`
		AcquireTime          *metav1.MicroTime `json:"acquireTime,omitempty"`
		RenewTime            *metav1.MicroTime `json:"renewTime,omitempty"`
		LeaseTransitions     *int32            `json:"leaseTransitions,omitempty"`
	} `json:"spec"`
}

// copied is a copy whose fields can be set. What they point to never changes.
func (l *leaseObject) copied() *leaseObject {
	next := *l
	return &next
}

// LeaseCapabilities are what a LeaseLocker promises. Whoever waits has no place
// on the server: it is told to ask again.
var LeaseCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, Token: true, LossNotice: true, Removal: true,
	Renewed: true, Restart: true,
	// The first Lock of a name in a process has to read it before.
	LockTrips: 1, UnlockTrips: 1,
}

// LeaseLocker is a lock.Locker whose locks are Leases of coordination.k8s.io/v1.
// See the package's comment for its protocol.
type LeaseLocker struct {
	*lease.Locker
	store *leases
}

// NewLease makes a Locker. It does not talk to the server yet.
func NewLease(cfg Config) (*LeaseLocker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	objects, err := newObjects(cfg, leaseKind)
	if err != nil {
		return nil, err
	}
	store := &leases{objects: objects, ttl: cfg.TTL, known: map[string]sighting{}}
	locker, err := lease.New(lease.Config{
		Store: store, TTL: cfg.TTL, Owner: cfg.Owner.String(), Changed: store.changed, Final: objects.isFinal,
	})
	if err != nil {
		return nil, err
	}
	return &LeaseLocker{Locker: locker, store: store}, nil
}

// Close gives every grant back, within ctx.
func (l *LeaseLocker) Close(ctx context.Context) error {
	defer l.store.objects.close()
	return l.Locker.Close(ctx)
}

// Source identifies what counts the tokens: the namespace, with which all its
// Leases would go.
func (l *LeaseLocker) Source(ctx context.Context) (string, error) { return l.store.objects.source(ctx) }

// Ask asks whether the server would make a Lease. It makes none.
func (l *LeaseLocker) Ask(ctx context.Context) error {
	object, err := l.store.object(neverMade, "")
	if err != nil {
		return err
	}
	return l.store.objects.ask(ctx, object)
}

// Inspect lists the locks that are held now, sorted by name.
func (l *LeaseLocker) Inspect(ctx context.Context) ([]lock.Info, error) {
	list, err := l.store.objects.list(ctx, kindLabel+"="+kindValue)
	if err != nil {
		return nil, fmt.Errorf("list the leases: %w", err)
	}
	var all []lock.Info
	for i := range list.Items {
		found, err := toLease(&list.Items[i])
		if err != nil {
			return nil, err
		}
		if holder := holderOf(found); holder != "" && !looksOver(found.Spec.RenewTime, l.store.leaseOf(found)) {
			info := lease.ParseOwner(holder)
			info.Name, info.Token = found.Annotations[nameAnnotation], tokenOf(found)
			all = append(all, info)
		}
	}
	return sorted(all), nil
}

// Revoke ends the grant of name, whoever has it.
func (l *LeaseLocker) Revoke(ctx context.Context, name string) error {
	for {
		found, err := l.store.read(ctx, name)
		if isMissing(err) || err == nil && holderOf(found) == "" {
			return lock.ErrNotHeld
		}
		if err == nil {
			_, err = l.store.write(ctx, name, freed(found))
		}
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}

// errExhausted would take some two thousand million grants of one name.
var errExhausted = errors.New("leaseTransitions, its token, cannot rise any more")

// leases is the lease.Store. It remembers each Lease as it saw it last, to write
// without reading first, and since when it has stood like that.
type leases struct {
	objects *objects
	ttl     time.Duration

	mu sync.Mutex
	// known has as many entries as there are names that this Locker was asked
	// for, as the server has Leases.
	known map[string]sighting
}

// sighting is a Lease, and when that version was first seen, by our monotonic
// clock. The times inside are by the clocks of others: nothing is made of them.
type sighting struct {
	lease *leaseObject
	at    time.Time
}

// Try takes name for owner. Each conflict means that another has written.
func (s *leases) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	current, err := s.recall(ctx, name, "")
	for {
		var taken *leaseObject
		switch {
		case isMissing(err):
			taken, err = s.create(ctx, name, owner)
		case err == nil:
			taken, err = s.take(ctx, name, owner, current)
		}
		switch {
		case err == nil:
			return tokenOf(taken), nil
		case !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err):
			return 0, err
		}
		// What conflicts may be this very request, which the client library repeats
		// after some answers of trouble.
		if current, err = s.read(ctx, name); err == nil && holderOf(current) == owner {
			return tokenOf(current), nil
		}
	}
}

// take writes owner into a Lease that is free, or was seen unchanged for its own
// length: its holder has given it up by then, and no clock was compared.
func (s *leases) take(ctx context.Context, name, owner string, current *leaseObject) (*leaseObject, error) {
	holder := holderOf(current)
	if holder != "" && time.Now().Before(s.over(name, current)) {
		return nil, &lock.HeldError{Holder: lease.ParseOwner(holder).Holder}
	}
	if tokenOf(current) == math.MaxInt32 {
		return nil, fmt.Errorf("lease %s: %w", current.Name, errExhausted)
	}
	next := current.copied()
	s.grant(next, owner)
	return s.write(ctx, name, next)
}

// grant is also a transition when the same process takes the lock again: the
// count of them is the token.
func (s *leases) grant(l *leaseObject, owner string) {
	now := metav1.NowMicro()
	seconds, transitions := int32(s.ttl/time.Second), int32(tokenOf(l)+1)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.LeaseTransitions = &owner, &seconds, &transitions
	l.Spec.AcquireTime, l.Spec.RenewTime = &now, &now
}

func (s *leases) create(ctx context.Context, name, owner string) (*leaseObject, error) {
	object, err := s.object(name, owner)
	if err != nil {
		return nil, err
	}
	created, err := s.objects.create(ctx, object)
	if err != nil {
		return nil, fmt.Errorf("create lease %s: %w", object.GetName(), err)
	}
	return s.sight(name, created)
}

// object is a lease that is granted to owner.
func (s *leases) object(name, owner string) (*unstructured.Unstructured, error) {
	object, err := objectName(name)
	if err != nil {
		return nil, err
	}
	made := &leaseObject{
		TypeMeta:   metav1.TypeMeta{APIVersion: leaseKind.GroupVersion().String(), Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Name: object, Annotations: map[string]string{nameAnnotation: name}, Labels: map[string]string{kindLabel: kindValue}},
	}
	s.grant(made, owner)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(made)
	return &unstructured.Unstructured{Object: content}, err
}

// Renew writes a new time into the Lease, for people. That it was written at all
// is what others go by.
func (s *leases) Renew(ctx context.Context, name, owner string) error {
	return s.change(ctx, name, owner, func(current *leaseObject) *leaseObject {
		next := current.copied()
		now := metav1.NowMicro()
		next.Spec.RenewTime = &now
		return next
	})
}

// Release empties the Lease, and keeps it: it has the count that tokens are from.
func (s *leases) Release(ctx context.Context, name, owner string) error {
	return s.change(ctx, name, owner, freed)
}

func freed(current *leaseObject) *leaseObject {
	next := current.copied()
	next.Spec.HolderIdentity, next.Spec.AcquireTime, next.Spec.RenewTime = nil, nil, nil
	return next
}

// change writes what owner's Lease becomes. lock.ErrLost: it is not owner's.
func (s *leases) change(ctx context.Context, name, owner string, to func(*leaseObject) *leaseObject) error {
	current, err := s.recall(ctx, name, owner)
	for {
		switch {
		case isMissing(err):
			return lock.ErrLost
		case err != nil:
			return err
		case holderOf(current) != owner:
			return lock.ErrLost
		}
		if _, err = s.write(ctx, name, to(current)); err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) && !isMissing(err) {
			return err
		}
		current, err = s.read(ctx, name)
	}
}

// recall is what we know of a Lease, if by that holder has it, and else what
// stands on the server. What is written then tells whether we knew rightly.
func (s *leases) recall(ctx context.Context, name, holder string) (*leaseObject, error) {
	s.mu.Lock()
	last, ok := s.known[name]
	s.mu.Unlock()
	if ok && holderOf(last.lease) == holder {
		return last.lease, nil
	}
	return s.read(ctx, name)
}

func (s *leases) read(ctx context.Context, name string) (*leaseObject, error) {
	object, err := objectName(name)
	if err != nil {
		return nil, err
	}
	found, err := s.objects.get(ctx, object)
	if isMissing(err) {
		s.forget(name)
	}
	if err != nil {
		return nil, fmt.Errorf("read lease %s: %w", object, err)
	}
	return s.sight(name, found)
}

func (s *leases) write(ctx context.Context, name string, next *leaseObject) (*leaseObject, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(next)
	if err != nil {
		return nil, err
	}
	written, err := s.objects.update(ctx, &unstructured.Unstructured{Object: content})
	if err != nil {
		return nil, fmt.Errorf("update lease %s: %w", next.Name, err)
	}
	return s.sight(name, written)
}

// sight notes a Lease as the server has just shown it.
func (s *leases) sight(name string, object *unstructured.Unstructured) (*leaseObject, error) {
	found, err := toLease(object)
	if err != nil {
		return nil, err
	}
	if found.Annotations[nameAnnotation] != name {
		return nil, fmt.Errorf("lease %s says that it is %q and not %q: %w", found.Name, found.Annotations[nameAnnotation], name, errNotOurs)
	}
	found.ManagedFields = nil // the server's own account, which it does not need back
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.known[name]; !ok || last.lease.ResourceVersion != found.ResourceVersion {
		s.known[name] = sighting{lease: found, at: time.Now()}
	}
	return found, nil
}

func (s *leases) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, name)
}

// over is when a Lease that goes on standing as it does may be taken.
func (s *leases) over(name string, current *leaseObject) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.known[name]
	if !ok || last.lease.ResourceVersion != current.ResourceVersion {
		return time.Now().Add(s.leaseOf(current)) // seen just now
	}
	return last.at.Add(s.leaseOf(current))
}

func (s *leases) leaseOf(l *leaseObject) time.Duration {
	if l.Spec.LeaseDurationSeconds == nil {
		return s.ttl
	}
	return time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
}

func toLease(object *unstructured.Unstructured) (*leaseObject, error) {
	found := new(leaseObject)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, found); err != nil {
		return nil, fmt.Errorf("lease %s: %w", object.GetName(), err)
	}
	return found, nil
}

func holderOf(l *leaseObject) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

func tokenOf(l *leaseObject) lock.Token {
	if l.Spec.LeaseTransitions == nil {
		return 0
	}
	return lock.Token(max(0, *l.Spec.LeaseTransitions))
}
