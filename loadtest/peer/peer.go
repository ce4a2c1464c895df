// Package peer has the peers of a bench: strategies of the service, and rivals, which
// are other ways to take orders behind the service's own router, middleware and JSON.
//
// A rival only takes orders. It has no customer limits and no sale window, and except
// for Batched it refuses a key that was used before, instead of replaying the order. What a rival
// omits makes it faster. Rivals on MySQL write the service's own rows, so that the
// same audit checks them.
package peer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"flashsale/internal/httpapi"
	"flashsale/internal/strategy"
)

// Store is where a peer stores its orders.
type Store string

// The stores.
const (
	// Nowhere: the peer stores nothing, and nothing can be checked.
	Nowhere Store = "nowhere"
	// MySQL: the service's tables, which the audit reads.
	MySQL Store = "mysql"
	// Redis: the units left, and a list of orders.
	Redis Store = "redis"
)

// Peer is one row of the registry.
type Peer struct {
	Name string `json:"name"`
	// Is describes in one line what the peer does with an order.
	Is    string `json:"is"`
	Store Store  `json:"store"`
	// Durable: promised orders survive a loss of power.
	Durable bool `json:"durable"`
	// Etcd: the peer locks in etcd.
	Etcd bool `json:"etcd"`
	// Expected is the expected verdict of every run.
	Expected strategy.Verdict `json:"expected"`
	// Ways are the ways to run the peer. The bench finds the fastest one first.
	Ways []Way `json:"-"`
	// MaxWorkers bounds the workers of a closed loop: more would time out. 0 is none.
	MaxWorkers int `json:"-"`
	// UnitsPerSecond is more than the peer can sell. It bounds the stock, if each unit
	// is a row. 0 is no bound.
	UnitsPerSecond int `json:"-"`
	// open opens the rival. It is nil if every Way is a strategy.
	open func(context.Context, Servers) (rival, error)
}

// Way is one way to run a peer.
type Way struct {
	// Strategy is one of the service's own program. If it is empty, Serve runs the peer.
	Strategy string `json:"strategy,omitempty"`
	// Pool is the number of connections from each replica to the store.
	Pool int `json:"pool,omitempty"`
}

// String describes the way: "bin/api, pool 32".
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

type rival interface {
	httpapi.Orders
	// ready checks the servers that the rival needs.
	ready(ctx context.Context) map[string]error
	// close is called after the last answer. It sums up stock that is in several rows.
	close(ctx context.Context) error
}

// ways are the ways to run a strategy of the service, or with "" a rival, with those pools.
func ways(strategy string, pools ...int) []Way {
	list := make([]Way, len(pools))
	for i, pool := range pools {
		list[i] = Way{Strategy: strategy, Pool: pool}
	}
	return list
}

// The most workers of peers with a lock in MySQL, and with a session in etcd for each
// order: with more, requests would exceed their time-out of 5 s.
const (
	lockWorkers     = 128
	textbookWorkers = 64
)

// Batched is the peer that batches as the service does, but without a lock.
const Batched = "conditional-batched"

var all = []Peer{
	{Name: "noop", Store: Nowhere, Expected: strategy.Exact, Ways: ways("", 0), open: openNoop,
		Is: "the same middleware and JSON without a lock or a store: the upper limit"},
	{Name: "redis-lua", Store: Redis, Expected: strategy.Exact, Ways: ways("", 16, 64), open: openRedis,
		Is: "a script decrements the stock and pushes the order; not durable"},
	{Name: "redis-lua-aof", Store: Redis, Durable: true, Expected: strategy.Exact, Ways: ways("", 16, 64), open: openRedis,
		Is: "the same with appendfsync always"},
	{Name: "conditional", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: ways("conditional", 8, 32, 96),
		Is: "UPDATE ... WHERE available >= n, then INSERT, in a transaction"},
	{Name: "conditional-1trip", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: ways("", 8, 32, 96), open: openOneTrip,
		Is: "the same in one packet"},
	{Name: Batched, Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: ways("", 2, 3, 5), open: openBatched,
		Is: "all orders that arrived during the last commit in one packet: UPDATE ... WHERE available >= n for each SKU, INSERT of all orders; no lock"},
	{Name: "row-lock", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: ways("row-lock", 8, 32), MaxWorkers: lockWorkers,
		Is: "SELECT ... FOR UPDATE, UPDATE, INSERT"},
	{Name: "version", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: ways("version", 4, 16), MaxWorkers: lockWorkers,
		Is: "compare-and-swap on a version column, with retries"},
	{Name: "get-lock", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: ways("", 8, 32), MaxWorkers: lockWorkers, open: openGetLock,
		Is: "GET_LOCK on a pinned connection, read, then write"},
	{Name: "skip-locked", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: ways("", 8, 32, 96), UnitsPerSecond: 12_000, open: openSkipLocked,
		Is: "a row for each unit: SELECT ... FOR UPDATE SKIP LOCKED, DELETE, INSERT, in two packets"},
	{Name: "buckets", Store: MySQL, Durable: true, Expected: strategy.Exact, Ways: ways("", 8, 32, 96), open: openBuckets,
		Is: "conditional-1trip on one of 16 rows"},
	{Name: "etcd-textbook", Store: MySQL, Durable: true, Etcd: true, Expected: strategy.Exact, MaxWorkers: textbookWorkers, open: openSessionAnOrder,
		Ways: []Way{{Strategy: "etcd-textbook", Pool: 32}, {Pool: 32}},
		Is:   "concurrency.Mutex for each order, with one session (bin/api) or a session for each order; the faster one counts"},
	{Name: "etcd-no-desk", Store: MySQL, Durable: true, Etcd: true, Expected: strategy.Exact, Ways: ways("", 8, 32), MaxWorkers: lockWorkers, open: openNoDesk,
		Is: "the service's own lock for each order, and a fenced conditional write in one packet"},
	{Name: "etcd", Store: MySQL, Durable: true, Etcd: true, Expected: strategy.Exact, Ways: ways("etcd", 32),
		Is: "the service's default: its own lock, a desk, one fenced transaction for each batch"},
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
	return Peer{}, fmt.Errorf("unknown peer %q: must be one of %s", name, strings.Join(Names(), ", "))
}
