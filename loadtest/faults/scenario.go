// Package faults makes parts of a running service fail, on real servers, and checks that
// nothing that was acknowledged is lost.
//
// A Scenario is one fault. A run of it starts the servers and replicas that it needs,
// sends orders for one hot SKU at a constant rate and mixed calls on small ones, injects
// the fault, ends it, and waits until every replica sells again. Then it checks
// everything: each answer is joined with its row, the database is audited, the history of
// each small SKU must be linearizable, and nothing may be left behind.
//
// Package attack sends the orders, package history the mixed calls and checks them, and
// package proof compares answers with rows.
package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Scenario is one fault.
type Scenario struct {
	Name string
	// Injects says what fails, for people.
	Injects string
	// NoSale bounds the longest time without a sale at the median of several runs; 0 is no
	// bound.
	NoSale time.Duration
	// Short says that the scenario belongs to the short list.
	Short bool

	needs needs
	// election is what an election of the scenario's servers may take. It adds to the
	// bound for the recovery.
	election time.Duration
	// inject makes the fault. It calls run.begin at the moment from which times count.
	// heal ends it, and returns once whatever was down answers again.
	inject, heal func(context.Context, *run) error
	// The fault lasts at least lasts plus that many TTLs, and until orders flow, unless it
	// halts the sale.
	lasts time.Duration
	ttls  int
	halts bool
	// instant says that the fault has ended as soon as it was made.
	instant bool
	// storm multiplies the mixed calls, many of which repeat a key.
	storm int
	// away says that buyers of the hot SKU order at the other replicas than its seller.
	away bool
	// silent says that a replica may not answer at all.
	silent bool
	// restarts says that a replica gets a new process. Otherwise all must keep running.
	restarts bool
	// chaos says that the fault may be one of a random sequence, on the servers that chaos
	// needs.
	chaos bool
	// sequence, if set, makes several faults, in place of inject and heal.
	sequence func(context.Context, *run) error
	// verify, if set, makes further checks after the recovery.
	verify func(context.Context, *run) error
}

// needs are the servers of a scenario. The zero value is one database and one etcd node.
type needs struct {
	etcdNodes, databases int
	// network is real links between all of them, which can be cut.
	network bool
	// delays is relays between the replicas and etcd, which can delay.
	delays bool
	// disk is the size of the database's disk in MiB; 0 is the machine's.
	disk int
	// quota bounds the size of etcd's database in bytes; 0 is etcd's default.
	quota int64
	// connections bounds the clients of the database; 0 is the sandbox's default.
	connections int
	// clocks says that the database's clock can jump, and the last replica's.
	clocks bool
}

// All returns all scenarios, in the order in which they are run.
func All() []Scenario {
	return slices.Concat(sellerFaults, etcdFaults, networkFaults, databaseFaults, mixedFaults)
}

// Names returns the names of some scenarios.
func Names(list []Scenario) []string {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	return names
}

// Short returns the scenarios of the short list.
func Short() []Scenario {
	return slices.DeleteFunc(All(), func(s Scenario) bool { return !s.Short })
}

// Find returns the scenarios with the given names.
func Find(names []string) ([]Scenario, error) {
	all := All()
	found := make([]Scenario, len(names))
	for i, name := range names {
		n := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == strings.TrimSpace(name) })
		if n < 0 {
			return nil, fmt.Errorf("unknown scenario %q: must be one of %s", name, strings.Join(Names(all), ", "))
		}
		found[i] = all[n]
	}
	return found, nil
}

// duration is how long the fault lasts at least.
func (s *Scenario) duration(lockTTL time.Duration) time.Duration {
	return s.lasts + time.Duration(s.ttls)*lockTTL
}

// Recovers is the bound for the time from the end of the fault until every replica sells.
func (s *Scenario) Recovers(lockTTL time.Duration) time.Duration {
	return 2*lockTTL + s.election + 500*time.Millisecond
}

// NeedsRoot reports whether only root can start the scenario's servers.
func (s *Scenario) NeedsRoot() bool {
	return s.needs.disk > 0 || s.needs.clocks || s.needs.databases > 1 && s.needs.network
}

// Clocks reports whether the scenario needs Config.ClockAPI.
func (s *Scenario) Clocks() bool { return s.needs.clocks }
