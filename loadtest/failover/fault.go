package failover

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

// Fault is one thing that befalls a cluster of databases.
type Fault struct {
	Name string
	// OwnHosts: the servers need networks of their own.
	OwnHosts bool

	// strike brings the fault and calls r.begin at the moment from which on times
	// count. heal ends it, with all servers in the cluster.
	strike, heal func(context.Context, *run) error
	// spared: also the server that the replicas write to may take writes next.
	spared bool
	// goals are those of each product that has any.
	goals map[sandbox.Product]goal
}

// goal bounds the longest time without a sale, and the time from the moment at which
// another server takes writes to the first sale. 0 is no bound.
type goal struct{ gap, after time.Duration }

// outage is how long the cluster has no majority: long enough that each server has
// noticed.
const outage = 10 * time.Second

var faults = []Fault{
	{
		Name: "kill",
		strike: func(_ context.Context, r *run) error {
			r.begin()
			r.server().Kill()
			return nil
		},
		heal: rejoin,
		goals: map[sandbox.Product]goal{
			sandbox.RealMySQL: {gap: 10 * time.Second, after: time.Second},
			sandbox.MariaDB:   {gap: 8 * time.Second},
		},
	},
	{
		// Galera has no primary: there a server is shut down, as for an upgrade.
		Name: "switch",
		strike: func(ctx context.Context, r *run) error {
			r.begin()
			if r.server().Product == sandbox.RealMySQL {
				return r.Cluster.SwitchPrimary(ctx, r.another())
			}
			return r.server().Stop(ctx)
		},
		heal:  rejoin,
		goals: map[sandbox.Product]goal{sandbox.RealMySQL: {gap: 4 * time.Second}},
	},
	{
		Name: "cut", OwnHosts: true,
		strike: func(ctx context.Context, r *run) error {
			err := r.Cluster.CutOff(ctx, r.struck)
			r.begin() // until then some traffic still gets through
			return err
		},
		heal: func(ctx context.Context, r *run) error {
			if err := r.Cluster.Heal(ctx, r.struck); err != nil {
				return err
			}
			return rejoin(ctx, r)
		},
	},
	{
		Name: "majority", spared: true,
		strike: func(ctx context.Context, r *run) error {
			if err := r.signalOthers(sandbox.SIGSTOP); err != nil {
				return err
			}
			err := sleep.For(ctx, outage)
			r.begin()
			if resumed := r.signalOthers(sandbox.SIGCONT); err == nil {
				err = resumed
			}
			return err
		},
		heal: func(ctx context.Context, r *run) error {
			for i := range r.Cluster.Nodes {
				if err := r.Cluster.Rejoin(ctx, i); err != nil {
					return err
				}
			}
			return nil
		},
	},
}

func rejoin(ctx context.Context, r *run) error { return r.Cluster.Rejoin(ctx, r.struck) }

// signalOthers sends a signal to all servers but the one that the replicas write to.
func (r *run) signalOthers(sig syscall.Signal) error {
	for i, m := range r.Cluster.Nodes {
		if i == r.struck {
			continue
		}
		if err := m.Signal(sig); err != nil {
			return err
		}
	}
	return nil
}

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
