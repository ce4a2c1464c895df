package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// sharedLease is this process's lease. All its keys end with it.
type sharedLease struct {
	*lease.Lease
	id  clientv3.LeaseID
	ttl time.Duration
	// ctx ends when the lease is no longer used.
	ctx      context.Context
	end      context.CancelFunc
	notFound error           // etcd's answer that the lease has ended
	strays   map[string]bool // keys that are being deleted in the background
}

// requestTimeout bounds one request. A dying leader does not answer, so the request
// must soon be sent again. An etcd that needs longer could not renew the lease either.
func (ls *sharedLease) requestTimeout() time.Duration { return ls.ttl / 3 }

// granting is a request for a lease. All callers that need one share it.
type granting struct {
	done  chan struct{}
	lease *sharedLease
	err   error
}

func (l *Locker) liveLease() *sharedLease {
	if ls := l.lease; ls != nil && !ls.Alive() {
		why := ls.notFound
		if why == nil {
			why = errTimedOut
		}
		l.loseLease(ls, why)
	}
	return l.lease
}

// leaseFor returns the current lease, or waits for a new one until ctx ends.
func (l *Locker) leaseFor(ctx context.Context) (*sharedLease, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, lock.ErrClosed
	}
	if ls := l.liveLease(); ls != nil {
		l.mu.Unlock()
		return ls, nil
	}
	g := l.beginLease()
	l.mu.Unlock()
	select {
	case <-g.done:
		return g.lease, g.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *Locker) beginLease() *granting {
	if l.granting == nil {
		g := &granting{done: make(chan struct{})}
		l.granting = g
		l.start(func() { l.grant(g) })
	}
	return l.granting
}

func (l *Locker) grant(g *granting) {
	ctx, cancel := context.WithTimeout(l.ctx, l.cfg.TTL)
	defer cancel()
	asked := time.Now()
	answer, err := l.cfg.Client.Grant(ctx, int64(l.cfg.TTL/time.Second))
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(g.done)
	l.granting = nil
	if err != nil {
		if l.closed {
			err = lock.ErrClosed
		}
		g.err = fmt.Errorf("begin a lease: %w", err)
		l.leaseErr = g.err
		return
	}
	ls := &sharedLease{id: answer.ID, ttl: time.Duration(answer.TTL) * time.Second, strays: map[string]bool{}}
	ls.ctx, ls.end = context.WithCancel(l.ctx)
	ls.Lease = lease.Keep(ls.ttl, asked, func(ctx context.Context) error { return l.renew(ctx, ls) })
	l.lease, g.lease, l.leaseErr = ls, ls, nil
	l.start(func() { l.awaitLoss(ls) })
	l.start(func() { l.deleteStrays(ls) })
}

// awaitLoss handles the loss of a lease, and waits for its renewals to end.
func (l *Locker) awaitLoss(ls *sharedLease) {
	<-ls.Lost()
	ls.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lease == ls {
		l.liveLease()
	}
}

// loseLease ends the use of a lease and revokes it, so that its keys do not make
// others wait. It retries for as long as necessary, because an etcd that was down
// starts the TTLs of its leases again.
func (l *Locker) loseLease(ls *sharedLease, why error) {
	l.cfg.Logger.Warn("etcd lock: lease lost", "lease", fmt.Sprintf("%x", ls.id), "error", why)
	l.endLease(ls, why)
	l.start(func() {
		err := backoff.Retry(l.ctx, isTransient, func() error {
			ctx, cancel := context.WithTimeout(l.ctx, ls.ttl)
			defer cancel()
			return l.revoke(ctx, ls.id)
		})
		if err != nil && l.ctx.Err() == nil {
			l.cfg.Logger.Warn("etcd lock: could not revoke the lost lease; it will expire", "error", err)
		}
	})
}

func (l *Locker) endLease(ls *sharedLease, why error) {
	ls.Lose()
	ls.end()
	l.lease, l.leaseErr = nil, why
	end := errRemoved
	if errors.Is(why, errTimedOut) {
		end = errTimedOut
	}
	for _, q := range l.queues {
		for _, p := range q.places {
			if p.lease == ls {
				l.end(p, end)
			}
		}
	}
}

func (l *Locker) revoke(ctx context.Context, id clientv3.LeaseID) error {
	_, err := l.cfg.Client.Revoke(ctx, id)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke lease %x: %w", id, err)
	}
	return nil
}

func (l *Locker) renew(ctx context.Context, ls *sharedLease) error {
	err := keepAlive(ctx, l.cfg.Client, ls.id)
	switch {
	case err == nil || errors.Is(ctx.Err(), context.Canceled): // stopped meanwhile
		return err
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		l.mu.Lock()
		defer l.mu.Unlock()
		ls.notFound = err
		return lock.ErrLost
	}
	l.cfg.Logger.Warn("etcd lock: lease renewal failed", "lease", fmt.Sprintf("%x", ls.id), "error", err)
	return err
}

// keepAlive renews a lease once. If etcd requires passwords, the client gets a new token for
// each renewal. A member that has not applied the token yet refuses it, and the client
// tries again by itself only in calls that are not streams.
func keepAlive(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID) error {
	refused := func(err error) bool { return errors.Is(err, rpctypes.ErrInvalidAuthToken) }
	return backoff.Retry(ctx, refused, func() error {
		_, err := client.KeepAliveOnce(ctx, id)
		return err
	})
}

// deleteStrays deletes the lease's keys that have no place, once a TTL. They come
// from requests that timed out and were applied later.
func (l *Locker) deleteStrays(ls *sharedLease) {
	ticker := time.NewTicker(ls.ttl)
	defer ticker.Stop()
	for {
		select {
		case <-ls.ctx.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(ls.ctx, ls.requestTimeout())
		answer, err := l.cfg.Client.TimeToLive(ctx, ls.id, clientv3.WithAttachedKeys())
		cancel()
		if err != nil {
			continue // the renewals log the state of etcd
		}
		l.mu.Lock()
		for _, key := range answer.Keys {
			if q := l.queueOf(string(key)); q == nil || q.places[string(key)] == nil {
				l.deleteLater(ls, string(key), 0)
			}
		}
		l.mu.Unlock()
	}
}

func errorCode(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	return status.Code(err)
}

// isTransient reports whether the same request may succeed later.
func isTransient(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true // of one request, not of the caller
	}
	switch errorCode(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	case codes.ResourceExhausted:
		return !errors.Is(err, rpctypes.ErrNoSpace)
	}
	return false
}

// isFinal reports whether etcd would refuse the same request again.
func isFinal(err error) bool {
	switch errorCode(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return true
	}
	return errors.Is(err, rpctypes.ErrNoSpace)
}
