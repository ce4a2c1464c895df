package faults

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

// mixedFaults are those of clocks, of an operator, and of everything.
var mixedFaults = []Scenario{
	{
		Name: "clocks-jump", Injects: "the clocks of the database and of one replica jump an hour ahead, and later back",
		needs: needs{clocks: true}, ttls: 2,
		inject: func(ctx context.Context, r *run) error { r.begin(); return r.jump(ctx, time.Hour, syscall.SIGUSR1) },
		heal:   func(ctx context.Context, r *run) error { return r.jump(ctx, -time.Hour, syscall.SIGUSR2) },
	},
	{
		Name: "rolling-restart", Injects: "the replicas are restarted one after the other under load", Short: true,
		deaf: true, restarts: true, chaos: true,
		inject: func(ctx context.Context, r *run) error {
			r.begin()
			for i, replica := range r.fleet.Replicas {
				if err := replica.Restart(ctx); err != nil {
					return err
				}
				if err := r.sellAt(ctx, i); err != nil {
					return err
				}
			}
			return nil
		},
		heal: nothing,
	},
	{
		Name: "chaos", Injects: "one random fault after another, of those that need no cluster, small disk or clock",
		needs:    needs{etcdNodes: 3, network: true, connections: fewConnections},
		election: etcdElection, deaf: true, restarts: true,
	},
}

// jump steps the wall clocks.
func (r *run) jump(ctx context.Context, by time.Duration, signal syscall.Signal) error {
	if err := r.stack.MySQL.JumpClock(ctx, by); err != nil {
		return err
	}
	return r.fleet.Replicas[len(r.fleet.Replicas)-1].Signal(signal)
}

// quiet is the pause between two faults of chaos.
const quiet = 2 * time.Second

// The list of chaos refers to All, which has chaos.
func init() { mixedFaults[len(mixedFaults)-1].sequence = everything }

// everything makes one random fault after another. Buyers order at all replicas, also at
// those that fail.
func everything(ctx context.Context, r *run) error {
	var list []Scenario
	for _, s := range All() {
		if s.chaos && s.needs.databases == 0 {
			list = append(list, s)
		}
	}
	whole, began := r.Scenario, time.Now()
	defer func() { r.Scenario, r.at = whole, began }()
	counts := map[string]int{}
	for time.Since(began) < r.Chaos {
		r.Scenario = list[r.rng.IntN(len(list))]
		r.election = max(r.election, whole.election)
		if err := r.findSeller(ctx); err != nil {
			return err
		}
		if err := r.cycle(ctx); err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
		counts[r.Name]++
		if err := sleep.For(ctx, quiet); err != nil {
			return err
		}
	}
	r.note("seed %d: %v", r.Seed, counts)
	return nil
}

// findSeller makes the replica that sells the hot SKU the seller.
func (r *run) findSeller(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		holder, err := r.service.Holder(ctx, r.hot)
		for i, replica := range r.fleet.Replicas {
			if err == nil && replica.Name == holder {
				r.seller = i
				return nil
			}
		}
		if sleep.For(ctx, tryPause) != nil {
			return sleep.Cause(ctx, fmt.Errorf("nobody sells %s: %w", r.hot, err))
		}
	}
}

// adoptFence does what an operator does after etcd has lost its data: stop all replicas,
// adopt the new source of tokens, and start them.
func adoptFence(ctx context.Context, r *run) error {
	if err := r.fleet.Stop(); err != nil {
		return err
	}
	adopt := exec.CommandContext(ctx, r.API, "fence", "adopt", "--mysql-dsn="+r.dsn)
	adopt.Env = append(adopt.Environ(), "FLASHSALE_ETCD_ENDPOINTS="+r.stack.EtcdEndpoints()[0])
	adopt.SysProcAttr = sandbox.ChildAttr()
	if out, err := adopt.CombinedOutput(); err != nil {
		return fmt.Errorf("api fence adopt: %w: %s", err, out)
	}
	return startAll(ctx, r.fleet.Replicas)
}

// startAll starts replicas that were stopped.
func startAll(ctx context.Context, list []*sandbox.Replica) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, replica := range list {
		group.Go(func() error { return replica.Restart(ctx) })
	}
	return group.Wait()
}
