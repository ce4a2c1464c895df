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
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
	"flashsale/internal/sleep"
)

const (
	// nameAnnotation has the lock's own name.
	nameAnnotation = "flashsale.internal/lock"
	// kindLabel distinguishes our Leases from others in the namespace.
	kindLabel, kindValue = "app.kubernetes.io/managed-by", "flashsale"
)

var leaseKind = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}

// leaseObject has the fields of a Lease that a lock uses. The times are for people.
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

func (l *leaseObject) holder() string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

func (l *leaseObject) token() lock.Token {
	if l.Spec.LeaseTransitions == nil {
		return 0
	}
	return lock.Token(max(0, *l.Spec.LeaseTransitions))
}

// changed returns a copy that change was applied to. What its fields point to must not
// be changed.
func (l *leaseObject) changed(change func(next *leaseObject)) *leaseObject {
	next := *l
	change(&next)
	return &next
}

// free removes the holder. It keeps leaseTransitions, the counter of the tokens.
func (l *leaseObject) free() {
	l.Spec.HolderIdentity, l.Spec.AcquireTime, l.Spec.RenewTime = nil, nil, nil
}

// LeaseCapabilities are what a LeaseLocker guarantees. Waiters are not stored on the
// server: they are notified and try again.
var LeaseCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, Token: true, LossNotice: true, Removal: true,
	Renewed: true, Restart: true,
	// The first Lock of a name in a process also has to read its object.
	LockTrips: 1, UnlockTrips: 1,
}

// LeaseLocker is a lock.Locker whose locks are Leases of coordination.k8s.io/v1. The
// package's comment describes its protocol.
type LeaseLocker struct {
	*lease.Locker
	*objects[leaseObject]
	store *leases
}

// NewLease makes a Locker. It does not connect to the server yet.
func NewLease(cfg Config) (*LeaseLocker, error) {
	objects, err := newObjects[leaseObject](&cfg, leaseKind)
	if err != nil {
		return nil, err
	}
	store := &leases{objects: objects, ttl: cfg.TTL, latest: map[string]seenLease{}}
	locker, err := lease.New(lease.Config{
		Store: store, TTL: cfg.TTL, Owner: cfg.Owner, AwaitChange: store.awaitChange, CloseStore: objects.close, Final: objects.isFinal,
	})
	if err != nil {
		return nil, err
	}
	return &LeaseLocker{locker, objects, store}, nil
}

// Ask asks whether the server would create a Lease. It creates none.
func (l *LeaseLocker) Ask(ctx context.Context) error {
	made, err := l.store.newLease(probeName, "")
	if err != nil {
		return err
	}
	return l.ask(ctx, made)
}

// Inspect lists the locks that are held now, sorted by name.
func (l *LeaseLocker) Inspect(ctx context.Context) ([]lock.Info, error) {
	list, err := l.list(ctx, kindLabel+"="+kindValue)
	if err != nil {
		return nil, err
	}
	var all []lock.Info
	for _, found := range list {
		if found.holder() != "" && !looksExpired(found.Spec.RenewTime, l.store.ttlOf(found)) {
			info := lease.ParseOwner(found.holder())
			info.Name, info.Token = found.Annotations[nameAnnotation], found.token()
			all = append(all, info)
		}
	}
	lock.SortInfos(all)
	return all, nil
}

// Revoke ends the current grant of name.
func (l *LeaseLocker) Revoke(ctx context.Context, name string) error {
	return l.revoke(ctx, name, func(found *leaseObject) bool {
		held := found.Annotations[nameAnnotation] == name && found.holder() != ""
		found.free()
		return held
	})
}

// leases is the lease.Store. It remembers the latest version of each Lease, so that it
// can write without reading first, and when it first saw that version.
type leases struct {
	objects *objects[leaseObject]
	ttl     time.Duration

	mu     sync.Mutex
	latest map[string]seenLease // by lock name; like the server, it has one for each name used
}

// seenLease is a version of a Lease, and when this process first saw it, by its
// monotonic clock.
type seenLease struct {
	*leaseObject
	at time.Time
}

// Try takes name for owner. It tries again after a conflict: another process has
// written.
func (s *leases) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	current, err := s.recall(ctx, name, "")
	for {
		var taken seenLease
		switch {
		case isMissing(err):
			taken, err = s.create(ctx, name, owner)
		case err == nil:
			taken, err = s.take(ctx, name, owner, current)
		}
		switch {
		case err == nil:
			return taken.token(), nil
		case !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err):
			return 0, err
		}
		// The client library repeats some failed requests, so this may be a conflict
		// with our own write.
		if current, err = s.read(ctx, name); err == nil && current.holder() == owner {
			return current.token(), nil
		}
	}
}

// take writes owner into a Lease that is free, or was unchanged for its duration.
func (s *leases) take(ctx context.Context, name, owner string, current seenLease) (seenLease, error) {
	if holder := current.holder(); holder != "" && time.Now().Before(s.end(current)) {
		return seenLease{}, &lock.HeldError{Holder: lease.ParseOwner(holder).Holder}
	}
	if current.token() == math.MaxInt32 {
		return seenLease{}, fmt.Errorf("lease %s: %w", current.Name, errExhausted)
	}
	return s.write(ctx, name, current.changed(func(next *leaseObject) { s.grant(next, owner) }))
}

// grant increments leaseTransitions even if the holder's process stays the same,
// because it is the token.
func (s *leases) grant(l *leaseObject, owner string) {
	now := metav1.NowMicro()
	seconds, transitions := int32(s.ttl/time.Second), int32(l.token()+1)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.LeaseTransitions = &owner, &seconds, &transitions
	l.Spec.AcquireTime, l.Spec.RenewTime = &now, &now
}

func (s *leases) create(ctx context.Context, name, owner string) (seenLease, error) {
	made, err := s.newLease(name, owner)
	if err != nil {
		return seenLease{}, err
	}
	created, err := s.objects.create(ctx, made)
	return s.remember(name, created, err)
}

// newLease returns a Lease that is granted to owner.
func (s *leases) newLease(name, owner string) (*leaseObject, error) {
	object, err := objectName(name)
	if err != nil {
		return nil, err
	}
	made := &leaseObject{
		TypeMeta:   metav1.TypeMeta{APIVersion: leaseKind.GroupVersion().String(), Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Name: object, Annotations: map[string]string{nameAnnotation: name}, Labels: map[string]string{kindLabel: kindValue}},
	}
	s.grant(made, owner)
	return made, nil
}

// Renew writes a new time into the Lease. The time is for people; waiters notice that
// the Lease has a new version.
func (s *leases) Renew(ctx context.Context, name, owner string) error {
	return s.change(ctx, name, owner, func(next *leaseObject) {
		now := metav1.NowMicro()
		next.Spec.RenewTime = &now
	})
}

func (s *leases) Release(ctx context.Context, name, owner string) error {
	return s.change(ctx, name, owner, (*leaseObject).free)
}

// change changes a Lease. It returns lock.ErrLost if owner does not hold it.
func (s *leases) change(ctx context.Context, name, owner string, change func(*leaseObject)) error {
	current, err := s.recall(ctx, name, owner)
	for {
		switch {
		case isMissing(err):
			return lock.ErrLost
		case err != nil:
			return err
		case current.holder() != owner:
			return lock.ErrLost
		}
		if _, err = s.write(ctx, name, current.changed(change)); err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) && !isMissing(err) {
			return err
		}
		current, err = s.read(ctx, name)
	}
}

// recall returns the remembered version of a Lease if it has that holder, which may be
// stale. Otherwise it reads the Lease.
func (s *leases) recall(ctx context.Context, name, holder string) (seenLease, error) {
	s.mu.Lock()
	last, ok := s.latest[name]
	s.mu.Unlock()
	if ok && last.holder() == holder {
		return last, nil
	}
	return s.read(ctx, name)
}

func (s *leases) read(ctx context.Context, name string) (seenLease, error) {
	object, err := objectName(name)
	if err != nil {
		return seenLease{}, err
	}
	found, err := s.objects.get(ctx, object)
	if isMissing(err) {
		s.forget(name)
	}
	return s.remember(name, found, err)
}

func (s *leases) write(ctx context.Context, name string, next *leaseObject) (seenLease, error) {
	written, err := s.objects.update(ctx, next)
	return s.remember(name, written, err)
}

func (s *leases) remember(name string, found *leaseObject, err error) (seenLease, error) {
	if err != nil {
		return seenLease{}, err
	}
	if other := found.Annotations[nameAnnotation]; other != name {
		return seenLease{}, fmt.Errorf("lease %s is for lock %q, want %q: %w", found.Name, other, name, errNotOurs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.latest[name]; !ok || last.ResourceVersion != found.ResourceVersion {
		s.latest[name] = seenLease{found, time.Now()}
	}
	return s.latest[name], nil
}

func (s *leases) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.latest, name)
}

// end is when a Lease may be taken, if it is not changed until then.
func (s *leases) end(current seenLease) time.Time {
	return current.at.Add(s.ttlOf(current.leaseObject))
}

func (s *leases) ttlOf(l *leaseObject) time.Duration {
	if l.Spec.LeaseDurationSeconds == nil {
		return s.ttl
	}
	return time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
}

// awaitChange waits until a Lease that was just seen held is free or has ended. It also
// returns when its watch breaks; the Lease is then read again.
func (s *leases) awaitChange(ctx context.Context, name string) error {
	s.mu.Lock()
	last, ok := s.latest[name]
	s.mu.Unlock()
	if !ok || last.holder() == "" {
		return nil
	}
	end := time.NewTimer(time.Until(s.end(last)))
	defer end.Stop()
	events, err := s.objects.watch(ctx, last.Name, last.ResourceVersion)
	if err != nil {
		return s.pause(ctx, name, err)
	}
	defer events.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return nil
		case event, open := <-events.ResultChan():
			found, err := decodeEvent[leaseObject](event, open)
			switch {
			case errors.Is(err, errDeleted):
				s.forget(name)
				return nil
			case err != nil:
				return s.pause(ctx, name, err)
			}
			current, err := s.remember(name, found, nil)
			if err != nil {
				return err
			}
			if current.holder() == "" {
				return nil
			}
			end.Reset(time.Until(s.end(current)))
		}
	}
}

// pause waits after a watch broke, because the next one may break at once as well.
func (s *leases) pause(ctx context.Context, name string, err error) error {
	s.objects.log.Debug("kubernetes lock: reading the object again", "lock", name, "error", err)
	return sleep.For(ctx, sleep.Jittered(watchPause))
}
