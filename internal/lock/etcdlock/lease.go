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
	"flashsale/internal/sleep"
)

// ownLease is this process's claim to be alive. All its keys end with it.
type ownLease struct {
	id   clientv3.LeaseID
	ttl  time.Duration
	kept *lease.Lease
	// why it is lost, where etcd has said so.
	why error
	// strays are keys that are being deleted though nobody waits for that.
	strays map[string]bool
}

// attempt is what one request may take: as much as a renewal. It succeeds within
// this time, or the next one does on another node.
func (ls *ownLease) attempt() time.Duration { return ls.ttl / 3 }

func (ls *ownLease) alive() bool { return ls.kept.Alive() }

// granting is a request for a lease that all who need one share.
type granting struct {
	done  chan struct{}
	lease *ownLease
	err   error
}

// liveLease is the lease to use now, if there is one.
func (l *Locker) liveLease() *ownLease {
	if l.lease != nil && !l.lease.alive() {
		why := l.lease.why
		if why == nil {
			why = errSilent
		}
		l.loseLease(l.lease, why)
	}
	return l.lease
}

// leaseFor returns a lease, a new one if need be. It waits no longer than ctx.
func (l *Locker) leaseFor(ctx context.Context) (*ownLease, error) {
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

// beginLease asks for a lease, if nobody has yet.
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
		l.trouble = g.err
		return
	}
	ls := &ownLease{id: answer.ID, ttl: time.Duration(answer.TTL) * time.Second, strays: map[string]bool{}}
	ls.kept = lease.Keep(ls.ttl, asked, func(ctx context.Context) error { return l.renew(ctx, ls) })
	l.lease, g.lease, l.trouble = ls, ls, nil
	l.start(func() { l.awaitLoss(ls) })
	l.start(func() { l.compare(ls) })
}

// awaitLoss gives the lease up when it is lost, and waits for its renewal's end.
func (l *Locker) awaitLoss(ls *ownLease) {
	<-ls.kept.Lost()
	ls.kept.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lease == ls {
		l.liveLease()
	}
}

// loseLease gives up all places under a lease that still may stand in etcd, and
// revokes it, so that they do not keep others waiting for longer than they must.
// That is tried for as long as it takes: an etcd that was away counts the time of
// its leases from the beginning again.
func (l *Locker) loseLease(ls *ownLease, why error) {
	l.cfg.Logger.Warn("etcd lock lost its lease", "lease", fmt.Sprintf("%x", ls.id), "error", why)
	l.endLease(ls, why)
	l.start(func() {
		for pause := retryPause; ; pause = min(2*pause, retryPauseMax) {
			ctx, cancel := context.WithTimeout(l.ctx, ls.ttl)
			err := l.revoke(ctx, ls.id)
			cancel()
			if err == nil || l.ctx.Err() != nil {
				return
			}
			if !isTransient(err) {
				l.cfg.Logger.Warn("etcd lock leaves a lease to expire", "error", err)
				return
			}
			_ = sleep.For(l.ctx, sleep.Jittered(pause))
		}
	})
}

// endLease ends the use of a lease and every place under it.
func (l *Locker) endLease(ls *ownLease, why error) {
	ls.kept.Lose()
	l.lease, l.trouble = nil, why
	end := errVanished
	if errors.Is(why, errSilent) {
		end = errSilent
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

// renew asks etcd once.
func (l *Locker) renew(ctx context.Context, ls *ownLease) error {
	_, err := l.cfg.Client.KeepAliveOnce(ctx, ls.id)
	switch {
	case err == nil || errors.Is(ctx.Err(), context.Canceled): // it has ended meanwhile
		return err
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		l.mu.Lock()
		defer l.mu.Unlock()
		ls.why = err
		return lock.ErrLost
	}
	l.cfg.Logger.Warn("etcd lock could not renew its lease", "lease", fmt.Sprintf("%x", ls.id), "error", err)
	return err
}

// compare compares the lease's keys with the places, once a TTL.
func (l *Locker) compare(ls *ownLease) {
	ticker := time.NewTicker(ls.ttl)
	defer ticker.Stop()
	for {
		select {
		case <-ls.kept.Lost():
			return
		case <-ticker.C:
			l.reconcile(ls)
		}
	}
}

// reconcile deletes keys of the lease that no place stands for: they were made
// by requests that timed out and were applied later.
func (l *Locker) reconcile(ls *ownLease) {
	ctx, cancel := context.WithTimeout(l.ctx, ls.attempt())
	defer cancel()
	answer, err := l.cfg.Client.TimeToLive(ctx, ls.id, clientv3.WithAttachedKeys())
	if err != nil {
		return // the renewals complain about etcd, and the next comparison comes
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range answer.Keys {
		if !l.isPlace(string(key)) {
			l.discard(ls, string(key), 0)
		}
	}
}

// isTransient: the same request may succeed a moment later.
func isTransient(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true // an attempt's own time: what the caller has left is asked elsewhere
	}
	code := status.Code(err)
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		code = e.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	case codes.ResourceExhausted:
		return !errors.Is(err, rpctypes.ErrNoSpace)
	}
	return false
}
