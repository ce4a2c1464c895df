package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

// takeOver is the goal for the time without a sale when the seller dies or stands still.
const takeOver = 300 * time.Millisecond

// sellerFaults hit the replica that sells the hot SKU.
var sellerFaults = []Scenario{
	{
		Name: "seller-killed", Injects: "the seller is killed and started again", NoSale: takeOver, Short: true,
		away: true, silent: true, restarts: true, chaos: true,
		// Long enough that another replica takes over before this one is back.
		lasts:  2 * time.Second,
		inject: func(_ context.Context, r *run) error { r.begin(); r.sellerReplica().Kill(); return nil },
		heal:   restartSeller,
	},
	{
		// The seller resumes long after its lease has expired.
		Name: "seller-stopped", Injects: "the seller is paused (SIGSTOP) for three lock TTLs, and resumes", NoSale: takeOver, Short: true,
		away: true, silent: true, chaos: true, ttls: 3,
		inject: func(_ context.Context, r *run) error { r.begin(); return r.sellerReplica().Signal(sandbox.SIGSTOP) },
		heal:   func(_ context.Context, r *run) error { return r.sellerReplica().Signal(sandbox.SIGCONT) },
	},
	{
		Name: "killed-after-commit", Injects: "the seller is killed after COMMIT, before it answers", Short: true,
		needs: needs{network: true}, away: true, silent: true, restarts: true,
		lasts: 2 * time.Second,
		inject: func(ctx context.Context, r *run) error {
			if err := r.net().Cut(ctx, r.databaseNames()[0], r.sellerReplica().Name); err != nil {
				return err
			}
			return r.killUnanswered(ctx)
		},
		heal: restartSeller,
	},
	{
		Name: "killed-mid-commit", Injects: "another client locks the SKU's row for 0.6 s, and the seller is killed while its commit waits for the row",
		away: true, silent: true, restarts: true,
		lasts: 2 * time.Second,
		inject: func(ctx context.Context, r *run) error {
			if err := r.lockRow(ctx, r.stack.MySQL.DSN(databaseName)); err != nil {
				return err
			}
			defer func() { _ = sendAway(ctx, r) }() // the service may have done so
			if err := r.awaitBlocked(ctx); err != nil {
				return err
			}
			r.begin()
			r.sellerReplica().Kill()
			// Its successor reads the row before the commit is done, unless its claim waits.
			return sleep.For(ctx, locked)
		},
		heal: restartSeller,
	},
	{
		Name: "killed-mid-forward", Injects: "the seller is killed after it has committed forwarded orders, before it answers the replicas that sent them",
		needs: needs{network: true}, away: true, silent: true, restarts: true,
		lasts: 2 * time.Second,
		inject: func(ctx context.Context, r *run) error {
			for i, other := range r.fleet.Replicas {
				if i != r.seller {
					if err := r.net().Cut(ctx, r.sellerReplica().Name, other.Name); err != nil {
						return err
					}
				}
			}
			return r.killUnanswered(ctx)
		},
		heal: restartSeller,
	},
}

// locked is how long a stranger keeps a row locked. The service may end it earlier.
const locked = 600 * time.Millisecond

func restartSeller(ctx context.Context, r *run) error {
	if r.needs.network {
		if err := r.net().Heal(ctx); err != nil {
			return err
		}
	}
	return r.sellerReplica().Restart(ctx)
}

// unanswered is how long a seller works without answers before it is killed: less than the
// silence after which another replica would take over, and longer than answers that were
// sent before need.
const unanswered = 100 * time.Millisecond

// killUnanswered kills the seller once it has committed orders whose answers nobody gets.
// It returns errNotReached if there is no such order.
func (r *run) killUnanswered(ctx context.Context) error {
	if err := sleep.For(ctx, unanswered); err != nil {
		return err
	}
	sold := r.sales.Load()
	r.begin()
	r.sellerReplica().Kill()
	rows, err := r.countOrders(ctx)
	if err != nil {
		return err
	}
	if rows <= sold {
		return errNotReached
	}
	r.note("%d orders were committed and not answered", rows-sold)
	return nil
}

var (
	// errOtherSeller ends an attempt before its fault, which would hit the wrong replica.
	errOtherSeller = errors.New("another replica sells")
	// errNotReached ends an attempt whose fault missed the state that it was meant for.
	errNotReached = errors.New("the fault came when no order was in the state that it is meant for")
)

// checkSeller returns errOtherSeller unless the replica still sells: on a busy machine
// another may have taken over after a short silence.
func (r *run) checkSeller(ctx context.Context) error {
	holder, err := r.service.Holder(ctx, r.hot)
	if want := r.sellerReplica().Name; err == nil && holder != want {
		err = fmt.Errorf("%w: %q and not %s sells %s", errOtherSeller, holder, want, r.hot)
	}
	return err
}
