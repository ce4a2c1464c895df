package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/loadtest/lockserver"
)

// mixedFaults are those of clocks, of an operator, and of everything.
var mixedFaults = []Scenario{
	{
		Name: "clocks-jump", Injects: "the clocks of the database and of one replica jump an hour ahead, and later back",
		needs: needs{clocks: true}, ttls: 2,
		inject: func(ctx context.Context, r *run) error { r.begin(); return r.jump(ctx, time.Hour, clockAhead) },
		heal:   func(ctx context.Context, r *run) error { return r.jump(ctx, -time.Hour, clockRight) },
	},
	{
		Name: "rolling-restart", Injects: "the replicas are restarted one after the other under load",
		silent: true, storm: 3, restarts: true, chaos: true,
		inject: func(ctx context.Context, r *run) error {
			r.begin()
			for i, replica := range r.fleet.Replicas {
				if err := replica.Restart(ctx); err != nil {
					return err
				}
				ready := time.Now()
				if err := r.sellAt(ctx, i); err != nil {
					return err
				}
				if took := time.Since(ready); took > r.Recovers(r.LockTTL) {
					r.late("%s sold %s after it was ready", replica.Name, took)
				}
			}
			return nil
		},
		heal: nothing,
	},
	{
		Name: "chaos", Injects: "one random fault after another, of those that need no cluster, small disk or clock",
		needs:    needs{etcdNodes: 3, network: true, connections: fewConnections},
		election: etcdElection, silent: true, restarts: true,
	},
}

// The signals of mutant.Clock: SIGUSR1 and SIGUSR2, which package syscall does not name on
// Windows.
const (
	clockAhead = syscall.Signal(10)
	clockRight = syscall.Signal(12)
)

// jump steps the wall clocks.
func (r *run) jump(ctx context.Context, by time.Duration, signal syscall.Signal) error {
	if err := r.stack.MySQL.JumpClock(ctx, by); err != nil {
		return err
	}
	replica := r.fleet.Replicas[len(r.fleet.Replicas)-1]
	before, err := clockOf(ctx, replica.URL)
	if err != nil {
		return err
	}
	if err := replica.Signal(signal); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		now, err := clockOf(ctx, replica.URL)
		if err == nil && now.Sub(before).Abs() > by.Abs()/2 {
			return nil
		}
		if sleep.For(ctx, tryPause) != nil {
			return errors.Join(fmt.Errorf("the clock of %s has not jumped: %w", replica.Name, ctx.Err()), err)
		}
	}
}

// clockOf reads a replica's wall clock.
func clockOf(ctx context.Context, url string) (time.Time, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", http.NoBody)
	if err != nil {
		return time.Time{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return time.Time{}, err
	}
	defer response.Body.Close()
	return http.ParseTime(response.Header.Get("Date"))
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
		if s.chaos {
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
		if err := r.cycle(ctx); err != nil && !errors.Is(err, errNotReached) {
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
	// The adoption hides older orders from the audit.
	if err := r.audit(ctx, r.stack.MySQL.DSN(databaseName)); err != nil {
		return err
	}
	if err := r.fleet.Stop(); err != nil {
		return err
	}
	adopt := exec.CommandContext(ctx, r.API, "fence", "adopt", "--etcd-prefix="+lockserver.Prefix)
	// Every user of the machine can read the arguments; the DSN has a password.
	adopt.Env = append(adopt.Environ(), "FLASHSALE_MYSQL_DSN="+r.dsn, "FLASHSALE_ETCD_ENDPOINTS="+r.stack.EtcdEndpoints()[0])
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
