// Package peer holds the rivals that the service is measured beside: other ways
// to take orders, each behind the service's own router, middleware and JSON.
//
// A rival takes orders and nothing else. It knows neither limits nor the window
// of a sale, and all but Batched refuse a key that they have seen instead of
// replaying its order: what a rival leaves out makes it faster, not slower. Rivals
// on MySQL write the service's own rows, so that the same audit checks them.
package peer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"flashsale/internal/httpapi"
	"flashsale/internal/strategy"
)

// Store says where a peer's orders are, and so who can check them.
type Store string

// The stores.
const (
	// Nowhere: nothing is kept, and nothing can be checked but the answers.
	Nowhere Store = "nowhere"
	// MySQL: the audit reads the service's tables.
	MySQL Store = "mysql"
	// Redis: the units left, and the orders as they were pushed.
	Redis Store = "redis"
)

// Peer is one row of the registry.
type Peer struct {
	Name string `json:"name"`
	// Is says in a line what it does with an order.
	Is    string `json:"is"`
	Store Store  `json:"store"`
	// Durable: what was promised survives the loss of power.
	Durable bool `json:"durable"`
	// Etcd: it locks in etcd.
	Etcd bool `json:"etcd"`
	// Expected is the verdict that every run must have.
	Expected strategy.Verdict `json:"expected"`
	// Ways are those to run it; a sweep finds out which is the fastest here.
	Ways []Way `json:"-"`
	// MaxWorkers bounds the requests under way of a closed loop, where more
	// would only queue, and time out. 0 is no bound.
	MaxWorkers int `json:"-"`
	// UnitsPerSecond is more than it can sell on any machine: stock is sized by
	// it, where each unit costs a row. 0 is no bound.
	UnitsPerSecond int `json:"-"`
	// open makes the rival. It is nil where every Way is the service's own.
	open func(context.Context, Servers) (rival, error)
}

// Way is one way to run a peer.
type Way struct {
	// Strategy is the service's, run by its own program. Where it is empty, Serve
	// runs the peer.
	Strategy string `json:"strategy,omitempty"`
	// Pool is the connections of each replica to the peer's store.
	Pool int `json:"pool,omitempty"`
}

// String is for people.
func (w Way) String() string {
	var parts []string
	if w.Strategy != "" {
		parts = append(parts, "bin/api")
	}
	if w.Pool > 0 {
		parts = append(parts, fmt.Sprintf("pool %d", w.Pool))
	}
	return strings.Join(parts, ", ")
}

// rival takes orders, and gives back what it holds.
type rival interface {
	httpapi.Orders
	// ready asks the servers that it needs.
	ready(ctx context.Context) map[string]error
	// close is called after the last order was answered. Books that are kept in
	// more than one place are put together here.
	close(ctx context.Context) error
}

// service is a peer that is one of the service's own strategies.
func service(name string, pools ...int) []Way {
	ways := make([]Way, len(pools))
	for i, pool := range pools {
		ways[i] = Way{Strategy: name, Pool: pool}
	}
	return ways
}

// pools are the ways of a rival.
func pools(sizes ...int) []Way {
	ways := make([]Way, len(sizes))
	for i, pool := range sizes {
		ways[i] = Way{Pool: pool}
	}
	return ways
}

// The workers that a slow peer's queue is bounded by, so that it is served within
// a request's time-out of 5 s: by a lock in MySQL, and by one in etcd an order.
const (
	lockWorkers     = 128
	textbookWorkers = 64
)

// Batched is the peer that batches as the service does, and takes no lock.
const Batched = "conditional-batched"

var all = []Peer{
	{Name: "noop", Store: Nowhere, Expected: strategy.Exact, Ways: pools(0), open: openNoop,
		Is: "the same middleware and JSON, no guard, no store: the ceiling"},
	{Name: "redis-lua", Store: Redis, Expected: strategy.Exact, Ways: pools(16, 64), open: openRedis,
		Is: "a script decrements and pushes the order; not durable"},
	{Name: "redis-lua-aof", Store: Redis, Durable: true, Expected: strategy.Exact, Ways: pools(16, 64), open: openRedis,
		Is: "the same with appendfsync always"},
	{Name: "conditional", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: service("conditional", 8, 32, 96),
		Is: "UPDATE ... WHERE available >= n, then INSERT, in a transaction"},
	{Name: "conditional-1trip", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: pools(8, 32, 96), open: openOneTrip,
		Is: "the same in one packet"},
	{Name: Batched, Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: pools(2, 3, 5), open: openBatched,
		Is: "whatever queued up during the last commit in one packet: UPDATE ... WHERE available >= n for each SKU, INSERT of all orders; no lock"},
	{Name: "row-lock", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: service("row-lock", 8, 32), MaxWorkers: lockWorkers,
		Is: "SELECT ... FOR UPDATE, UPDATE, INSERT"},
	{Name: "version", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: service("version", 4, 16), MaxWorkers: lockWorkers,
		Is: "compare-and-swap on a version column, with retries"},
	{Name: "get-lock", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: pools(8, 32), MaxWorkers: lockWorkers, open: openGetLock,
		Is: "GET_LOCK on a pinned connection, read, then write"},
	{Name: "skip-locked", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: pools(8, 32, 96), UnitsPerSecond: 12_000, open: openSkipLocked,
		Is: "a row a unit, SELECT ... FOR UPDATE SKIP LOCKED, DELETE, INSERT, in two packets"},
	{Name: "buckets", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: pools(8, 32, 96), open: openBuckets,
		Is: "conditional-1trip on one of 16 rows"},
	{Name: "etcd-textbook", Store: MySQL, Durable: true, Etcd: true, Expected: strategy.Exact, MaxWorkers: textbookWorkers, open: openSessionAnOrder,
		Ways: []Way{{Strategy: "etcd-textbook", Pool: 32}, {Pool: 32}},
		Is:   "concurrency.Mutex for each order: its session reused (bin/api), or an order's own; the better one counts"},
	{Name: "etcd-no-desk", Store: MySQL, Durable: true, Etcd: true, Expected: strategy.Exact, Ways: pools(8, 32), MaxWorkers: lockWorkers, open: openNoDesk,
		Is: "our mutex for each order, and a fenced conditional write in one packet"},
	{Name: "etcd", Store: MySQL, Durable: true, Etcd: true, Expected: strategy.Exact, Ways: service("etcd", 32),
		Is: "the service's default: our mutex, a desk, one fenced transaction a batch"},
}

// All returns the registry in its order.
func All() []Peer { return slices.Clone(all) }

// Names returns the peers' names in their order.
func Names() []string {
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	return names
}

// Find returns the peer of that name.
func Find(name string) (Peer, error) {
	for _, p := range all {
		if p.Name == name {
			return p, nil
		}
	}
	return Peer{}, fmt.Errorf("unknown peer %q: one of %s", name, strings.Join(Names(), ", "))
}
