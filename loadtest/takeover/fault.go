package takeover

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"flashsale/internal/sandbox"
)

// Fault is one way in which a seller fails, and what is asked of the others then.
type Fault struct {
	Name string
	// Relayed: the replicas must reach each other by relays, and be two.
	Relayed bool

	// lasts is how long the fault lasts, by the lock's TTL.
	lasts func(ttl time.Duration) time.Duration
	// buyersEverywhere: buyers order at the seller, too, which goes on serving.
	buyersEverywhere bool
	strike           func(*run) error
	heal             func(context.Context, *run) error
	// figure is what counts of a run, in milliseconds; measured is its name.
	figure   func(*Result) float64
	measured string
	// median and most bound the figure where the goal is met; 0 is no bound.
	median, most time.Duration
}

// faults are all of them.
var faults = []Fault{
	{
		Name: "killed",
		// Long enough that the replica's start is not the take-over.
		lasts:  func(time.Duration) time.Duration { return 2 * time.Second },
		strike: func(r *run) error { r.seller().Kill(); return nil },
		heal:   func(ctx context.Context, r *run) error { return r.seller().Restart(ctx) },
		figure: gap, measured: "no sale", median: gapMedian, most: gapMost,
	},
	{
		Name: "stopped",
		// The seller goes on when its lease has long ended.
		lasts:  func(ttl time.Duration) time.Duration { return 3 * ttl },
		strike: func(r *run) error { return r.seller().Signal(sandbox.SIGSTOP) },
		heal:   func(_ context.Context, r *run) error { return r.seller().Signal(sandbox.SIGCONT) },
		figure: gap, measured: "no sale", median: gapMedian, most: gapMost,
	},
	{
		Name: "parted", Relayed: true,
		lasts:            func(time.Duration) time.Duration { return 5 * time.Second },
		buyersEverywhere: true,
		strike: func(r *run) error {
			for _, relay := range r.Relays {
				relay.Cut()
			}
			return nil
		},
		heal: func(_ context.Context, r *run) error {
			for _, relay := range r.Relays {
				relay.Heal()
			}
			return nil
		},
		figure: wait, measured: "a buyer's wait", most: waitMost,
	},
}

const (
	// gapMedian and gapMost are the goal for the time without a sale.
	gapMedian = 300 * time.Millisecond
	gapMost   = time.Second
	// waitMost is the goal for the wait of a buyer at a replica that cannot reach
	// the seller: a request's time, and the quantum after which a seller gives up
	// the lock to a replica that waits for it.
	waitMost = 5*time.Second + 50*time.Millisecond
)

func gap(r *Result) float64  { return r.GapMS }
func wait(r *Result) float64 { return r.WaitMS }

// FindFaults finds those of the names.
func FindFaults(names []string) ([]Fault, error) {
	var found []Fault
	for _, name := range names {
		i := slices.IndexFunc(faults, func(f Fault) bool { return f.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown fault %q: one of %s", name, strings.Join(FaultNames(), ", "))
		}
		found = append(found, faults[i])
	}
	return found, nil
}

// FaultNames are those of all faults.
func FaultNames() []string {
	names := make([]string, len(faults))
	for i := range faults {
		names[i] = faults[i].Name
	}
	return names
}

// Lasts is how long the fault lasts unless a run is told otherwise, where the
// replicas' locks have that TTL.
func (f *Fault) Lasts(ttl time.Duration) time.Duration { return f.lasts(ttl) }
