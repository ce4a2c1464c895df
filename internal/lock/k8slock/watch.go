package k8slock

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"

	"flashsale/internal/sleep"
)

// changed waits until a Lease that was just seen held is free or over. Whatever
// breaks on the way ends the wait as well: it is then read again.
func (s *leases) changed(ctx context.Context, name string) error {
	s.mu.Lock()
	last, ok := s.known[name]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if holderOf(last.lease) == "" {
		return nil
	}
	over := time.NewTimer(time.Until(s.over(name, last.lease)))
	defer over.Stop()
	events, err := s.objects.watch(ctx, last.lease.Name, last.lease.ResourceVersion)
	if err != nil {
		return s.again(ctx, name, err)
	}
	defer events.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over.C:
			return nil
		case event, open := <-events.ResultChan():
			switch {
			case !open:
				return s.again(ctx, name, errWatchEnded)
			case event.Type == watch.Error:
				return s.again(ctx, name, apierrors.FromObject(event.Object))
			case event.Type == watch.Deleted:
				s.forget(name)
				return nil
			}
			object, _ := event.Object.(*unstructured.Unstructured)
			current, err := s.sight(name, object)
			if err != nil {
				return err
			}
			if holderOf(current) == "" {
				return nil
			}
			over.Reset(time.Until(s.over(name, current)))
		}
	}
}

var errWatchEnded = errors.New("the watch has ended")

// again lets some time pass after a watch broke: it may break at once again.
func (s *leases) again(ctx context.Context, name string, err error) error {
	s.objects.log.Debug("a lock is read again", "lock", name, "err", err)
	return sleep.For(ctx, sleep.Jittered(watchPause))
}

// look opens the watch, from what we know on.
func (r *room) look(ctx context.Context) error {
	if time.Since(r.looked) < watchPause {
		if err := sleep.For(ctx, sleep.Jittered(watchPause)); err != nil {
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
