package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/backend"
	"flashsale/internal/httpapi"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

const (
	// checkEvery bounds how soon a replica notices that it may no longer write.
	// Until then MySQL's fence refuses its writes.
	checkEvery = time.Second
	// checkTimeout bounds each query to MySQL and to the lock server.
	checkTimeout = 2 * time.Second
	// replicaLockPool is the one connection that holds the replica lock.
	replicaLockPool = 1
)

// replicaLock holds this replica's stock.ReplicaLock and checks while the replica runs
// what was checked at its start: that the lock server's tokens have not fallen behind
// the admitted ones, and that the database has the same binding. Otherwise it halts
// the replica's writes for good.
type replicaLock struct {
	db      *stock.DB
	backend *backend.Backend
	binding stock.Binding
	newest  uint64 // the largest token that the lock server has reached
	held    *stock.ReplicaLock
	logger  *slog.Logger

	reason atomic.Pointer[error] // why the replica is halted
}

// binding is how this replica binds the database.
func (r *replica) binding() stock.Binding {
	return stock.Binding{Strategy: r.strategy.Name, Fence: r.fence, TokenSource: r.backend.Source}
}

// startReplicaLock acquires the replica lock, holds it until the replica closes, and
// starts the checks.
func (r *replica) startReplicaLock(ctx context.Context, highest uint64) error {
	db, err := stock.Open(r.cmd.DSN, replicaLockPool)
	if err != nil {
		return err
	}
	l := &replicaLock{db: db, backend: r.backend, binding: r.binding(), newest: max(highest, r.backend.Newest), logger: r.logger}
	if l.held, err = db.LockReplica(ctx, l.binding); err != nil {
		return errors.Join(err, db.Close())
	}
	r.replicaLock = l
	stop := background(ctx, func(ctx context.Context) error {
		var checks errgroup.Group
		checks.Go(func() error { return everySecond(ctx, l.hold) })
		if r.strategy.Token {
			checks.Go(func() error { return everySecond(ctx, l.checkTokens) })
		}
		return checks.Wait()
	})
	r.atClose(locksRound, "replica lock", func(ctx context.Context) error {
		if err := stop(ctx); err != nil {
			return err
		}
		if l.held != nil {
			l.held.Release()
		}
		return db.Close()
	})
	return nil
}

// everySecond calls check until ctx ends, and returns nil.
func everySecond(ctx context.Context, check func(context.Context)) error {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		attempt, cancel := context.WithTimeout(ctx, checkTimeout)
		check(attempt)
		cancel()
	}
}

// halted returns why the replica must not write, or nil.
func (l *replicaLock) halted() error {
	if reason := l.reason.Load(); reason != nil {
		return *reason
	}
	return nil
}

// halt refuses orders, cancellations and SKU changes until the replica is restarted:
// its state belongs to the lock server's former data.
func (l *replicaLock) halt(reason error) {
	if l.reason.CompareAndSwap(nil, &reason) {
		l.logger.Error("this replica now refuses orders, cancellations and SKU changes; restart it", "error", reason)
	}
}

// hold checks the replica lock. A lost one, for example after a restart of MySQL, is
// acquired again unless the database has another binding. This query also notices for
// all pools of this process that the server no longer accepts writes.
func (l *replicaLock) hold(ctx context.Context) {
	if l.held != nil {
		// Leave time to connect to another server.
		checking, cancel := context.WithTimeout(ctx, checkTimeout/2)
		err := l.held.Check(checking)
		cancel()
		if err == nil || errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		l.logger.Warn("replica lock lost; acquiring it again", "error", err)
		l.held.Release()
		l.held = nil
	}
	held, err := l.db.LockReplica(ctx, l.binding)
	if _, ok := errors.AsType[*stock.BindingError](err); ok {
		l.halt(fmt.Errorf("%w: %w", order.ErrAdopted, err))
	}
	l.held = held
}

// checkTokens detects that the lock server's data were restored or removed: only then
// is its token lower than before.
func (l *replicaLock) checkTokens(ctx context.Context) {
	reached, err := l.backend.Reached(ctx)
	if err != nil || reached == 0 {
		return // readiness reports the error; 0 means that the server does not tell
	}
	if reached < l.newest {
		l.halt(fmt.Errorf("%w: the lock server is at token %d and was at %d: it was restored or emptied since "+
			"(to continue with it, stop all replicas and run `api fence adopt`)", order.ErrTokensBehind, reached, l.newest))
		return
	}
	l.newest = reached
}

// haltReason is what readiness shows for a halted replica.
func haltReason(err error) httpapi.Reason {
	if errors.Is(err, order.ErrTokensBehind) {
		return "the lock server was restored or emptied; stop all replicas and run `api fence adopt`"
	}
	return "the database was switched to another strategy or lock server; restart this replica"
}
