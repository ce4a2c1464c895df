// Package limit counts the requests of each caller and refuses those above a limit.
//
// Each caller has a token bucket that refills at a constant rate, so all requests of
// a window may come at once. Memory is bounded, whatever the number of callers.
package limit

import (
	"container/list"
	"fmt"
	"hash/maphash"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limit is how many requests one caller may make in a window of time. The zero
// value sets no limit.
type Limit struct {
	Requests int
	Window   time.Duration
}

const (
	// maxRequests is the largest limit that Parse accepts.
	maxRequests = 1_000_000
	maxWindow   = 24 * time.Hour
)

// Parse reads a limit like "100/10s". "0" is no limit.
func Parse(text string) (Limit, error) {
	if text == "0" {
		return Limit{}, nil
	}
	before, after, _ := strings.Cut(text, "/")
	requests, err := strconv.Atoi(before)
	window, windowErr := time.ParseDuration(after)
	switch {
	case err != nil || windowErr != nil:
		return Limit{}, fmt.Errorf("%q: must be REQUESTS/WINDOW like 100/10s, or 0 for no limit", text)
	case requests < 1 || requests > maxRequests:
		return Limit{}, fmt.Errorf("%q: requests must be from 1 to %d", text, maxRequests)
	case window < time.Second || window > maxWindow || window%time.Second != 0:
		return Limit{}, fmt.Errorf("%q: the window must be whole seconds, from 1s to %s", text, maxWindow)
	}
	return Limit{requests, window}, nil
}

// UnmarshalText is Parse, for a flag.
func (l *Limit) UnmarshalText(text []byte) (err error) {
	*l, err = Parse(string(text))
	return err
}

// String returns the limit in the form that Parse reads.
func (l Limit) String() string {
	if l.Requests == 0 {
		return "0"
	}
	return fmt.Sprintf("%d/%s", l.Requests, l.Window)
}

// Limits has one limit of each kind. It is safe for concurrent use. The
// zero value limits nothing.
type Limits struct {
	current [kinds]atomic.Pointer[buckets]
}

// Kind says what is counted, and what identifies a caller.
type Kind int

// The kinds.
const (
	ByAddress     Kind = iota // requests of an address
	ByCustomer                // requests of a customer
	Cancellations             // calls of a customer that cancel an order
	LatePayments              // payments of a customer that have to be stored for a refund
	AdminGuesses              // refused admin tokens of an address: see Try
	kinds
)

// String is the kind's name in headers.
func (k Kind) String() string {
	return [...]string{"address", "customer", "cancellations", "late-payments", "admin-guesses"}[k]
}

// Counts describes the kind: a limit is so many of these.
func (k Kind) Counts() string {
	return [...]string{"requests of an address", "requests of a customer", "cancellations of a customer", "late payments of a customer",
		"refused admin tokens of an address"}[k]
}

// Set changes a limit. It refills the buckets of all callers, unless the limit is the
// current one.
func (l *Limits) Set(kind Kind, limit Limit) {
	switch {
	case limit == Limit{}:
		l.current[kind].Store(nil)
	case limit != l.Get(kind):
		l.current[kind].Store(newBuckets(limit))
	}
}

// Get returns the current limit.
func (l *Limits) Get(kind Kind) Limit {
	if b := l.current[kind].Load(); b != nil {
		return b.limit
	}
	return Limit{}
}

// Verdict is the result of Take. Its times are in seconds, rounded up.
type Verdict struct {
	Limit Limit
	// OK reports whether the request is within the limit.
	OK bool
	// Left is how many more requests are allowed now.
	Left int
	// Full is the time until the caller's bucket is full again.
	Full int
	// Wait is the time that a refused caller should wait. It is 0 if OK.
	Wait int
}

// Take counts a request by the caller. limited is false if there is no limit.
func (l *Limits) Take(kind Kind, caller string) (v Verdict, limited bool) {
	b := l.current[kind].Load()
	if b == nil {
		return v, false
	}
	now := time.Now()
	bucket := b.bucket(caller)
	return b.verdict(bucket, now, bucket.AllowN(now, 1)), true
}

// Try makes an attempt of the caller, and counts it if attempt returns true. It makes
// none if the caller has no request left: then OK is false. The attempts of one caller
// do not overlap, so that many at once count like one after the other.
func (l *Limits) Try(kind Kind, caller string, attempt func() bool) Verdict {
	b := l.current[kind].Load()
	if b == nil {
		attempt()
		return Verdict{OK: true}
	}
	bucket := b.bucket(caller)
	bucket.attempts.Lock()
	defer bucket.attempts.Unlock()
	now := time.Now()
	ok := bucket.TokensAt(now) >= 1
	if ok && attempt() {
		bucket.AllowN(now, 1)
	}
	return b.verdict(bucket, now, ok)
}

func (b *buckets) verdict(bucket *bucket, now time.Time, ok bool) Verdict {
	tokens := max(bucket.TokensAt(now), 0)
	v := Verdict{Limit: b.limit, OK: ok, Left: int(tokens), Full: b.seconds(float64(b.limit.Requests) - tokens)}
	if !ok {
		v.Left, v.Wait = 0, max(b.seconds(1-tokens), 1)
	}
	return v
}

const (
	// shards keeps callers from waiting for each other's lookup.
	shards = 16
	// maxCallers bounds the memory of one kind to about 30 MiB with the longest names.
	// Beyond it, the caller that was seen least recently is forgotten and starts again
	// with a full bucket.
	maxCallers = 1 << 16
)

// buckets has one token bucket for each caller.
type buckets struct {
	limit  Limit
	rate   float64      // tokens that a bucket gets in a second
	seed   maphash.Seed // random, so that no client can choose its shard
	shards [shards]shard
}

// shard has some of the callers.
type shard struct {
	mu      sync.Mutex
	callers map[string]*list.Element
	order   list.List // of *bucket, the most recently seen first
}

type bucket struct {
	caller string
	*rate.Limiter
	attempts sync.Mutex // held during an attempt of Try
}

func newBuckets(limit Limit) *buckets {
	b := &buckets{limit: limit, rate: float64(limit.Requests) / limit.Window.Seconds(), seed: maphash.MakeSeed()}
	for i := range b.shards {
		b.shards[i].callers = map[string]*list.Element{}
	}
	return b
}

// bucket returns the bucket of a caller. A new one is full.
func (b *buckets) bucket(caller string) *bucket {
	s := &b.shards[maphash.String(b.seed, caller)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.callers[caller]; ok {
		s.order.MoveToFront(found)
		return found.Value.(*bucket)
	}
	if s.order.Len() >= maxCallers/shards {
		oldest := s.order.Remove(s.order.Back()).(*bucket)
		delete(s.callers, oldest.caller)
	}
	fresh := &bucket{caller: caller, Limiter: rate.NewLimiter(rate.Limit(b.rate), b.limit.Requests)}
	s.callers[caller] = s.order.PushFront(fresh)
	return fresh
}

// seconds returns the time until a bucket gains so many tokens.
func (b *buckets) seconds(tokens float64) int { return int(math.Ceil(tokens / b.rate)) }
