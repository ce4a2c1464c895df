package limit

import (
	"container/list"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits are a limit for each kind of caller. They are safe for concurrent use,
// and may be set while they hold. The zero value limits nothing.
type Limits struct {
	now [kinds]atomic.Pointer[buckets]
}

// Kind is what requests are counted by.
type Kind int

const (
	// ByAddress is by where a request comes from.
	ByAddress Kind = iota
	// ByCustomer is by whose request it is.
	ByCustomer
	kinds
)

func (k Kind) String() string { return [...]string{"address", "customer"}[k] }

// Set changes a limit. All callers have all of it then, unless it is the limit
// that holds already.
func (l *Limits) Set(kind Kind, limit Limit) {
	old := l.now[kind].Load()
	switch {
	case limit == Limit{}:
		l.now[kind].Store(nil)
	case old == nil || old.limit != limit:
		l.now[kind].Store(newBuckets(limit))
	}
}

// Get is the limit that holds.
func (l *Limits) Get(kind Kind) Limit {
	if b := l.now[kind].Load(); b != nil {
		return b.limit
	}
	return Limit{}
}

// Verdict is what Take says of a request. Its times are in whole seconds, upwards.
type Verdict struct {
	Limit Limit
	// OK lets the request through.
	OK bool
	// Left is how many requests more would be let through now.
	Left int
	// Full is how long it takes until the caller has the whole limit again.
	Full int
	// Wait is how long a caller who was refused should wait; 0 if OK.
	Wait int
}

// Take counts a request of caller's. limited is false where there is no limit.
func (l *Limits) Take(kind Kind, caller string) (v Verdict, limited bool) {
	b := l.now[kind].Load()
	if b == nil {
		return v, false
	}
	now := time.Now()
	limiter := b.of(caller)
	v = Verdict{Limit: b.limit, OK: limiter.AllowN(now, 1)}
	tokens := max(limiter.TokensAt(now), 0)
	v.Left, v.Full = int(tokens), b.seconds(float64(b.limit.Requests)-tokens)
	if !v.OK {
		v.Left, v.Wait = 0, max(b.seconds(1-tokens), 1)
	}
	return v, true
}

const (
	// shards keep callers from waiting for each other's look-up.
	shards = 16
	// maxCallers bounds the memory of one kind of limit, to some 30 MiB with the
	// longest names, however many are made up. Who was not seen for the longest is
	// forgotten, and would begin afresh: that takes more callers than this at once,
	// each of whom has a whole limit anyway.
	maxCallers = 1 << 16
)

// buckets are one token bucket a caller.
type buckets struct {
	limit  Limit
	rate   rate.Limit
	seed   maphash.Seed
	shards [shards]shard
}

// shard is a part of the callers; order has the one seen last first.
type shard struct {
	mu      sync.Mutex
	callers map[string]*list.Element
	order   list.List
}

type bucket struct {
	caller  string
	limiter *rate.Limiter
}

func newBuckets(limit Limit) *buckets {
	b := &buckets{limit: limit, rate: rate.Limit(float64(limit.Requests) / limit.Window.Seconds()), seed: maphash.MakeSeed()}
	for i := range b.shards {
		b.shards[i].callers = map[string]*list.Element{}
	}
	return b
}

// of is the bucket of a caller. A new one is full.
func (b *buckets) of(caller string) *rate.Limiter {
	// With a seed of our own nobody can crowd one shard.
	s := &b.shards[maphash.String(b.seed, caller)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.callers[caller]; ok {
		s.order.MoveToFront(found)
		return found.Value.(*bucket).limiter
	}
	if s.order.Len() >= maxCallers/shards {
		oldest := s.order.Back()
		s.order.Remove(oldest)
		delete(s.callers, oldest.Value.(*bucket).caller)
	}
	fresh := &bucket{caller, rate.NewLimiter(b.rate, b.limit.Requests)}
	s.callers[caller] = s.order.PushFront(fresh)
	return fresh.limiter
}

// seconds are how long it takes until a bucket has so many tokens more.
func (b *buckets) seconds(tokens float64) int { return int(math.Ceil(tokens / float64(b.rate))) }
