// Package strategy is the registry of the ways to protect stock from overselling: a lock, a
// way to write, and whether orders are batched. It has data only. The service, the load
// harness, `api strategies` and docs/strategies.md use it.
package strategy

import (
	"fmt"
	"slices"
	"strings"
)

// Lock names what excludes other replicas before stock is read.
type Lock string

// The locks.
const (
	NoLock       Lock = ""
	Process      Lock = "process"
	LockRow      Lock = "lock-row"
	LockTable    Lock = "lock-table"
	GetLock      Lock = "get-lock"
	EtcdTextbook Lock = "etcd-textbook"
	EtcdTry      Lock = "etcd-try"
	Etcd         Lock = "etcd"
	ZooKeeper    Lock = "zookeeper"
	Redis        Lock = "redis"
	Redlock      Lock = "redlock"
	Memcached    Lock = "memcached"
	Lease        Lock = "kubernetes-lease"
	StockLock    Lock = "kubernetes-stocklock"
)

// Server names what a strategy needs besides MySQL.
type Server string

// The servers.
const (
	InMySQL      Server = ""
	InEtcd       Server = "etcd"
	InZooKeeper  Server = "zookeeper"
	InRedis      Server = "redis"
	InRedlock    Server = "redlock"
	InMemcached  Server = "memcached"
	InKubernetes Server = "kubernetes"
)

// Write names how an order takes units from the stock.
type Write string

// The ways to write.
const (
	// ReadThenWrite reads the available units and writes the new number.
	ReadThenWrite Write = "read-then-write"
	// SelectForUpdate is ReadThenWrite, but the read locks the stock row.
	SelectForUpdate Write = "select-for-update"
	// Conditional is one UPDATE that matches no row if too few units are left.
	Conditional Write = "conditional"
	// Version is ReadThenWrite that compares the row's seq, and retries.
	Version Write = "version"
	// EtcdCompareAndSwap keeps the stock in etcd and compares mod_revision. It writes the
	// order to MySQL afterwards.
	EtcdCompareAndSwap Write = "etcd-compare-and-swap"
	// Batch writes the orders of a desk in one fenced transaction.
	Batch Write = "batch"
)

// Fence says how MySQL uses the fencing token of a lock.
type Fence string

// The fences.
const (
	// FenceOff ignores tokens.
	FenceOff Fence = "off"
	// FenceWrite compares the token with each write. It can still lose updates: a stale
	// write is accepted until the newer token has written once.
	FenceWrite Fence = "write"
	// FenceClaim stores the token before the read.
	FenceClaim Fence = "claim"
)

// ParseFence reads the value of a flag.
func ParseFence(s string) (Fence, error) {
	if f := Fence(s); slices.Contains([]Fence{FenceOff, FenceWrite, FenceClaim}, f) {
		return f, nil
	}
	return "", fmt.Errorf("unknown fence %q: off, write or claim", s)
}

// Verdict is the outcome of a run against a strategy.
type Verdict string

// The verdicts. If several apply, the first one counts.
const (
	// Oversold: more units were sold than were in stock.
	Oversold Verdict = "oversold"
	// Lost: an answer has no row, a row has no answer, or a row exists twice.
	Lost Verdict = "lost"
	// Undersold: units are left although a buyer was refused.
	Undersold Verdict = "undersold"
	// Failed: because of errors, the run proves nothing.
	Failed Verdict = "failed"
	// NotChallenged: nothing broke, but too few orders raced for the last units to show that
	// nothing can.
	NotChallenged Verdict = "not-challenged"
	// Exact: every unit was sold once, and every answer has its row.
	Exact Verdict = "exact"
)

// Strategy is one row of the registry.
type Strategy struct {
	Name  string `json:"name"`
	Lock  Lock   `json:"lock"`
	Write Write  `json:"write"`
	// Server is what it needs besides MySQL.
	Server Server `json:"server,omitempty"`
	// Token: its lock has a fencing token, so a Fence can be used.
	Token bool `json:"token"`
	// Try: an order whose lock is held is refused at once. Otherwise it waits.
	Try bool `json:"try,omitempty"`
	// Shows describes the strategy in one line.
	Shows string `json:"shows"`
	// Replicas is the number of replicas up to which it is correct; -1 is any number.
	Replicas int `json:"right_up_to_replicas"`
	// OnePrimary: its lock exists on one MySQL server only, so it is not correct if several
	// servers accept writes.
	OnePrimary bool `json:"one_primary,omitempty"`
	// UnitsPerSecond is a rate that it certainly reaches for one SKU on two cores that also
	// run the load. It determines the stock of a run.
	UnitsPerSecond int `json:"units_per_second"`
}

var all = []Strategy{
	{Name: "none", Lock: NoLock, Write: ReadThenWrite, Replicas: 0, UnitsPerSecond: 150,
		Shows: "oversells: two orders read the same stock, and both write"},
	{Name: "process", Lock: Process, Write: ReadThenWrite, Replicas: 1, UnitsPerSecond: 150,
		Shows: "correct on one replica, oversells on two: a mutex excludes only goroutines of its process"},
	{Name: "row-lock", Lock: NoLock, Write: SelectForUpdate, Replicas: -1, UnitsPerSecond: 100,
		Shows: "SELECT ... FOR UPDATE: orders queue for the stock row"},
	{Name: "lock-row", Lock: LockRow, Write: ReadThenWrite, Replicas: -1, OnePrimary: true, UnitsPerSecond: 20,
		Shows: "FOR UPDATE on a row of a lock table; each holder occupies a connection and a transaction"},
	{Name: "conditional", Lock: NoLock, Write: Conditional, Replicas: -1, UnitsPerSecond: 200,
		Shows: "UPDATE ... WHERE available >= n: the simplest correct way, and the baseline for the others"},
	{Name: "version", Lock: NoLock, Write: Version, Replicas: -1, UnitsPerSecond: 50,
		Shows: "compare-and-swap on a version column; contention causes retries"},
	{Name: "lock-table", Lock: LockTable, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 10,
		Shows: "a row with an owner, and a lease that is timed by the database's clock; the lease ends the lock of a crashed holder"},
	{Name: "get-lock", Lock: GetLock, Write: ReadThenWrite, Replicas: -1, OnePrimary: true, UnitsPerSecond: 20,
		Shows: "GET_LOCK on a pinned connection; the lock ends with its connection and has no token"},
	{Name: "etcd-textbook", Lock: EtcdTextbook, Server: InEtcd, Write: ReadThenWrite, Replicas: -1, UnitsPerSecond: 5,
		Shows: "concurrency.Mutex for each order; slow, and oversells when a holder pauses past the TTL"},
	{Name: "etcd-try", Lock: EtcdTry, Server: InEtcd, Write: ReadThenWrite, Token: true, Try: true, Replicas: -1, UnitsPerSecond: 5,
		Shows: "a key that only one client can create; if the SKU is locked, the order is refused at once"},
	{Name: "etcd-cas", Lock: NoLock, Server: InEtcd, Write: EtcdCompareAndSwap, Replicas: -1, UnitsPerSecond: 20,
		Shows: "stock in etcd, compared by mod_revision, and orders in MySQL; contention causes retries, and a crash between the two writes leaves units unsold"},
	{Name: "etcd", Lock: Etcd, Server: InEtcd, Write: Batch, Token: true, Replicas: -1, UnitsPerSecond: 400,
		Shows: "the default: our own etcd mutex, a desk for each SKU, and a fencing token that MySQL checks"},
	{Name: "zookeeper", Lock: ZooKeeper, Server: InZooKeeper, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 10,
		Shows: "ephemeral sequential nodes; each waiter watches only the node before its own, so a release wakes only one"},
	{Name: "redis", Lock: Redis, Server: InRedis, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 20,
		Shows: "SET NX PX with an owner, and a counter for tokens; a server that restarts empty grants a held lock again"},
	{Name: "redlock", Lock: Redlock, Server: InRedlock, Write: ReadThenWrite, Replicas: -1, UnitsPerSecond: 10,
		Shows: "a majority of five Redis servers; works while two are down, depends on their clocks, and has no token"},
	{Name: "memcached", Lock: Memcached, Server: InMemcached, Write: ReadThenWrite, Replicas: -1, UnitsPerSecond: 10,
		Shows: "add with an expiry, released by cas; correct until the server evicts the lock or restarts; no token"},
	{Name: "kubernetes", Lock: Lease, Server: InKubernetes, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 5,
		Shows: "a Lease in the API server, compared by resourceVersion; slow, and waiters are not served in order"},
	{Name: "kubernetes-stocklock", Lock: StockLock, Server: InKubernetes, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 5,
		Shows: "a custom resource with a queue; waiters are served in order, and kubectl lists the holder and the queue"},
}

// Default is the service's default strategy.
const Default = "etcd"

// All returns the registry.
func All() []Strategy { return slices.Clone(all) }

// Names returns the names of all strategies.
func Names() []string {
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.Name
	}
	return names
}

// Find returns the strategy of that name.
func Find(name string) (Strategy, error) {
	i := slices.IndexFunc(all, func(s Strategy) bool { return s.Name == name })
	if i < 0 {
		return Strategy{}, fmt.Errorf("unknown strategy %q: one of %s", name, strings.Join(Names(), ", "))
	}
	return all[i], nil
}

// FenceFor returns f, or FenceOff if the lock has no token.
func (s Strategy) FenceFor(f Fence) Fence {
	if !s.Token {
		return FenceOff
	}
	return f
}

// Servers returns the number of MySQL servers that may accept writes, for people.
func (s Strategy) Servers() string {
	if s.OnePrimary {
		return "one primary"
	}
	return "any number"
}

// Expect returns the verdict that a run under load on so many replicas must have. It does
// not depend on the fence, which matters only to a holder that paused.
func (s Strategy) Expect(replicas int) Verdict {
	if s.Replicas < 0 || replicas <= s.Replicas {
		return Exact
	}
	return Oversold
}
