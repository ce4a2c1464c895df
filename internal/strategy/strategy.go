// Package strategy is the registry of the ways to guard a decrement of stock:
// a lock, a way to write, and whether orders are batched. It holds data only.
// The service is wired from it, the load harness takes its expectations from
// it, and `api strategies` prints it.
package strategy

import (
	"fmt"
	"slices"
	"strings"
)

// Lock names what excludes other replicas before stock is read.
type Lock string

// The locks that a strategy may take.
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

// Write names how the decrement reaches MySQL.
type Write string

// The ways to write a decrement.
const (
	// ReadThenWrite reads available and writes what it computed from it.
	ReadThenWrite Write = "read-then-write"
	// SelectForUpdate is ReadThenWrite with the stock row locked by its read.
	SelectForUpdate Write = "select-for-update"
	// Conditional is one UPDATE that refuses itself when too few are left.
	Conditional Write = "conditional"
	// Version is ReadThenWrite that compares the row's seq and tries again.
	Version Write = "version"
	// EtcdCompareAndSwap takes the units in etcd, where this stock is kept, by
	// comparing mod_revision; the order is written to MySQL after it.
	EtcdCompareAndSwap Write = "etcd-compare-and-swap"
	// Batch is the desk's: a group of orders in one fenced transaction.
	Batch Write = "batch"
)

// Fence says what MySQL does with the fencing token of a lock.
type Fence string

// The fences, from none to the one that is right.
const (
	// FenceOff ignores tokens.
	FenceOff Fence = "off"
	// FenceWrite compares the token when writing. It still loses updates: a
	// stale write is admitted until the newer token has written once.
	FenceWrite Fence = "write"
	// FenceClaim registers the token before the read.
	FenceClaim Fence = "claim"
)

// ParseFence turns a flag's text into a Fence.
func ParseFence(s string) (Fence, error) {
	if f := Fence(s); slices.Contains([]Fence{FenceOff, FenceWrite, FenceClaim}, f) {
		return f, nil
	}
	return "", fmt.Errorf("unknown fence %q: off, write or claim", s)
}

// Verdict is the outcome of a run against a strategy.
type Verdict string

// The verdicts, in the order in which they take precedence.
const (
	// Oversold: more units were sold than were on sale.
	Oversold Verdict = "oversold"
	// Lost: an answer has no row, a row has no answer, or one stands twice.
	Lost Verdict = "lost"
	// Undersold: units are left that a buyer was refused.
	Undersold Verdict = "undersold"
	// Failed: errors kept the run from proving anything.
	Failed Verdict = "failed"
	// Exact: every unit was sold once and every answer is accounted for.
	Exact Verdict = "exact"
)

// Strategy is one row of the registry.
type Strategy struct {
	Name  string `json:"name"`
	Lock  Lock   `json:"lock"`
	Write Write  `json:"write"`
	// Server is what it needs besides MySQL.
	Server Server `json:"server,omitempty"`
	// Token: its lock yields a fencing token, so that a Fence can be used.
	Token bool `json:"token"`
	// Try: an order whose lock is held is refused at once, instead of waiting.
	Try bool `json:"try,omitempty"`
	// Shows is what a reader learns from it, in one line.
	Shows string `json:"shows"`
	// Replicas is the number up to which it is right: 0 is none, -1 is any.
	Replicas int `json:"right_up_to_replicas"`
	// OnePrimary: its lock is known to one server of MySQL alone, so that it is right
	// only where no more than one takes writes. The others are right on several.
	OnePrimary bool `json:"one_primary,omitempty"`
	// UnitsPerSecond is a rate that it surely sells one SKU at on two cores
	// shared with the load. It sizes the stock of a run, nothing else.
	UnitsPerSecond int `json:"units_per_second"`
}

var all = []Strategy{
	{Name: "none", Lock: NoLock, Write: ReadThenWrite, Replicas: 0, UnitsPerSecond: 150,
		Shows: "oversells: two readers see the same stock and both write"},
	{Name: "process", Lock: Process, Write: ReadThenWrite, Replicas: 1, UnitsPerSecond: 150,
		Shows: "right on one replica, oversells on two: a mutex ends where its process ends"},
	{Name: "row-lock", Lock: NoLock, Write: SelectForUpdate, Replicas: -1, UnitsPerSecond: 100,
		Shows: "right: SELECT ... FOR UPDATE makes the stock row the queue"},
	{Name: "lock-row", Lock: LockRow, Write: ReadThenWrite, Replicas: -1, OnePrimary: true, UnitsPerSecond: 20,
		Shows: "FOR UPDATE on a row of a lock table; each holder takes a connection and a transaction"},
	{Name: "conditional", Lock: NoLock, Write: Conditional, Replicas: -1, UnitsPerSecond: 200,
		Shows: "right: UPDATE ... WHERE available >= n, the honest yardstick"},
	{Name: "version", Lock: NoLock, Write: Version, Replicas: -1, UnitsPerSecond: 50,
		Shows: "right: compare-and-swap on a version column, with retries under contention"},
	{Name: "lock-table", Lock: LockTable, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 10,
		Shows: "a row with an owner and a lease by the database's clock: a crash leaves it, and its lease ends it"},
	{Name: "get-lock", Lock: GetLock, Write: ReadThenWrite, Replicas: -1, OnePrimary: true, UnitsPerSecond: 20,
		Shows: "GET_LOCK on a pinned connection: the lock ends with the connection, and knows no token"},
	{Name: "etcd-textbook", Lock: EtcdTextbook, Server: InEtcd, Write: ReadThenWrite, Replicas: -1, UnitsPerSecond: 5,
		Shows: "concurrency.Mutex for each order: slow, and oversells when its holder pauses past the TTL"},
	{Name: "etcd-try", Lock: EtcdTry, Server: InEtcd, Write: ReadThenWrite, Token: true, Try: true, Replicas: -1, UnitsPerSecond: 5,
		Shows: "a key that is created or not: an order whose SKU is locked is refused at once, and asks again"},
	{Name: "etcd-cas", Lock: NoLock, Server: InEtcd, Write: EtcdCompareAndSwap, Replicas: -1, UnitsPerSecond: 20,
		Shows: "stock in etcd by mod_revision, orders in MySQL: retries, and a crash between the two leaves units unsold"},
	{Name: "etcd", Lock: Etcd, Server: InEtcd, Write: Batch, Token: true, Replicas: -1, UnitsPerSecond: 400,
		Shows: "the default: our etcd mutex, a desk for each SKU, and a fencing token that MySQL checks"},
	{Name: "zookeeper", Lock: ZooKeeper, Server: InZooKeeper, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 10,
		Shows: "an ephemeral sequential node, each waiting for the one before it alone: fair, without a herd"},
	{Name: "redis", Lock: Redis, Server: InRedis, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 20,
		Shows: "SET NX PX with an owner, and a token that is counted beside it: a server that restarts empty gives the lock to another"},
	{Name: "redlock", Lock: Redlock, Server: InRedlock, Write: ReadThenWrite, Replicas: -1, UnitsPerSecond: 10,
		Shows: "a majority of five Redis servers: outlives the loss of two, trusts their clocks, and yields no token"},
	{Name: "memcached", Lock: Memcached, Server: InMemcached, Write: ReadThenWrite, Replicas: -1, UnitsPerSecond: 10,
		Shows: "add with an expiry, released by cas: right until the server evicts the lock or restarts; no token"},
	{Name: "kubernetes", Lock: Lease, Server: InKubernetes, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 5,
		Shows: "a Lease of the API server, by resourceVersion: right while it is held, and slow"},
	{Name: "kubernetes-stocklock", Lock: StockLock, Server: InKubernetes, Write: ReadThenWrite, Token: true, Replicas: -1, UnitsPerSecond: 5,
		Shows: "a custom resource with a queue: fair, and kubectl shows who holds it and who waits"},
}

// Default is the strategy of a service that was not told otherwise.
const Default = "etcd"

// All returns the registry in its order.
func All() []Strategy { return slices.Clone(all) }

// Names returns the strategies' names in their order.
func Names() []string {
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.Name
	}
	return names
}

// Find returns the strategy of that name.
func Find(name string) (Strategy, error) {
	for _, s := range all {
		if s.Name == name {
			return s, nil
		}
	}
	return Strategy{}, fmt.Errorf("unknown strategy %q: one of %s", name, strings.Join(Names(), ", "))
}

// FenceFor is the fence that takes effect: off where the lock has no token.
func (s Strategy) FenceFor(f Fence) Fence {
	if !s.Token {
		return FenceOff
	}
	return f
}

// Servers says on how many servers of MySQL that take writes it is right, for people.
func (s Strategy) Servers() string {
	if s.OnePrimary {
		return "one primary"
	}
	return "any number"
}

// Expect is the verdict that a run under load on so many replicas must have.
// A fence makes no difference here: it matters only to a holder that paused.
func (s Strategy) Expect(replicas int) Verdict {
	if s.Replicas < 0 || replicas <= s.Replicas {
		return Exact
	}
	return Oversold
}
