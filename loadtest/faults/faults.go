// Package faults measures how long nothing is sold when a part of the system fails,
// and checks that nothing acknowledged is lost.
//
// A run sends orders to running replicas at a constant rate and injects one fault. When
// orders flow again, it heals the fault and waits until every replica sells. It measures
// the longest time without a sale and the longest wait of a buyer, joins every answer
// with its row in the database, and audits the database.
//
// Each Fault is a row of a Table: Seller has the faults of the replica that sells,
// Database those of the servers of a clustered database. The caller starts replicas and
// servers. Package attack sends the orders, package proof compares them with the rows.
package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"flashsale/internal/sandbox"
)

// Table is the faults of one part of the system.
type Table struct {
	faults []Fault
	// measures are the columns of the summary.
	measures []*measure
	// margin is how long a run may take beyond the duration of its fault.
	margin time.Duration
	// pays says that buyers pay their orders.
	pays bool
	// choose, if set, picks what to fail, while orders flow already. check, if set, is
	// called just before the fault.
	choose, check func(context.Context, *run) error
}

// Fault is one way in which a part of the system fails.
type Fault struct {
	Name string
	// Network is what the fault cuts: with Relays the links between two replicas, with
	// Namespaces those between database servers. "" is any.
	Network sandbox.NetworkKind

	table *Table
	// inject starts the fault. It calls run.begin at the moment from which times count.
	// heal ends the fault.
	inject, heal func(context.Context, *run) error
	// The fault lasts at least lasts plus that many TTLs, and until orders flow again.
	lasts time.Duration
	ttls  int
	// sellerDown says that buyers order at the other replicas only.
	sellerDown bool
	// restarts says that a replica gets a new process. Otherwise all must keep running.
	restarts bool
	// anyWriter says that the database server that failed may take the next write.
	anyWriter bool
	// figure is the measure whose median and maximum are saved; nil is noSale.
	figure *measure
	// goals are the goals on each database product; those for "" hold on any.
	goals map[sandbox.Product][]goal
}

// measure is a figure of a run, in milliseconds.
type measure struct {
	name string
	of   func(*Result) float64
}

var (
	noSale     = &measure{"no sale", func(r *Result) float64 { return r.GapMS }}
	buyersWait = &measure{"longest wait", func(r *Result) float64 { return r.WaitMS }}
	untilWrite = &measure{"until writable", func(r *Result) float64 { return r.WritableMS }}
	untilOrder = &measure{"until an order", func(r *Result) float64 { return r.OrdersMS }}
	afterWrite = &measure{"writable to an order", func(r *Result) float64 { return r.OrdersMS - r.WritableMS }}
)

// goal bounds a measure over all runs of a fault; 0 is no bound.
type goal struct {
	measure      *measure
	median, most time.Duration
}

// Names returns the names of all faults.
func (t *Table) Names() []string {
	names := make([]string, len(t.faults))
	for i := range t.faults {
		names[i] = t.faults[i].Name
	}
	return names
}

// Find returns the faults with the given names.
func (t *Table) Find(names []string) ([]Fault, error) {
	var found []Fault
	for _, name := range names {
		i := slices.Index(t.Names(), name)
		if i < 0 {
			return nil, fmt.Errorf("unknown fault %q: must be one of %s", name, strings.Join(t.Names(), ", "))
		}
		fault := t.faults[i]
		fault.table = t
		found = append(found, fault)
	}
	return found, nil
}

// Lasts returns how long the fault lasts at least by default, given the TTL of the
// replicas' locks.
func (f *Fault) Lasts(lockTTL time.Duration) time.Duration {
	return f.lasts + time.Duration(f.ttls)*lockTTL
}

func (f *Fault) goalsOn(product sandbox.Product) []goal {
	return slices.Concat(f.goals[""], f.goals[product])
}
