package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/sandbox"
)

// Seller has the faults of the replica that sells the SKU.
var Seller = Table{
	faults: []Fault{
		{
			Name: "killed", sellerDown: true, restarts: true,
			// Long enough that another replica takes over before this one is back.
			lasts:  2 * time.Second,
			inject: func(_ context.Context, r *run) error { r.begin(); r.seller().Kill(); return nil },
			heal:   func(ctx context.Context, r *run) error { return r.seller().Restart(ctx) },
			goals:  takeoverGoals,
		},
		{
			Name: "stopped", sellerDown: true,
			// The seller resumes long after its lease has expired.
			ttls:   3,
			inject: func(_ context.Context, r *run) error { r.begin(); return r.seller().Signal(sandbox.SIGSTOP) },
			heal:   func(_ context.Context, r *run) error { return r.seller().Signal(sandbox.SIGCONT) },
			goals:  takeoverGoals,
		},
		{
			Name: "parted", Network: sandbox.Relays,
			lasts: 5 * time.Second,
			inject: func(ctx context.Context, r *run) error {
				r.begin()
				return r.Network.CutBoth(ctx, r.Fleet.Replicas[0].Name, r.Fleet.Replicas[1].Name)
			},
			heal:   func(ctx context.Context, r *run) error { return r.Network.Heal(ctx) },
			figure: buyersWait,
			// A buyer at the replica that cannot reach the seller waits at most the request
			// timeout, plus the quantum after which a seller gives the lock to a replica that
			// waits for it.
			goals: map[sandbox.Product][]goal{"": {{measure: buyersWait, most: 5*time.Second + 50*time.Millisecond}}},
		},
	},
	measures: []*measure{noSale, buyersWait},
	margin:   90 * time.Second,
	check:    checkSeller,
}

var takeoverGoals = map[sandbox.Product][]goal{"": {{measure: noSale, median: 300 * time.Millisecond, most: time.Second}}}

// errOtherSeller ends a run before its fault, which would hit the wrong replica.
var errOtherSeller = errors.New("another replica sells")

// checkSeller returns errOtherSeller unless the replica still sells: on a busy machine
// another may have taken over after a short silence.
func checkSeller(ctx context.Context, r *run) error {
	holder, err := r.service.Holder(ctx, r.SKU)
	if want := r.seller().Name; err == nil && holder != want {
		err = fmt.Errorf("%w: %q and not %s sells %s", errOtherSeller, holder, want, r.SKU)
	}
	return err
}
