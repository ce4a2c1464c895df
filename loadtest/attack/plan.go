package attack

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

const (
	// maxRequests bounds one attack: the token and the answer of each request stay in
	// memory, about 400 bytes.
	maxRequests = 2_000_000
	// maxRate is far above what one process can send. Above it, the pacer's interval in
	// whole nanoseconds is off by more than 1 %.
	maxRate = 1_000_000
)

// Plan says what an attack sends. Request number seq is a pure function of the plan: seq
// alone joins an answer to its request, and the same plan sends the same orders again.
type Plan struct {
	// Targets are the replicas' base URLs. Requests go to each in turn.
	Targets []string
	// SKUs are bought in turn, each from every replica.
	SKUs []string
	// MaxQuantity is the largest quantity of an order; the smallest is 1.
	MaxQuantity int
	// Rate is in requests per second, for Duration.
	Rate     int
	Duration time.Duration
	// Stages, if set by Ramp, are the rates over time; Rate is then their mean.
	Stages []Stage
	// Mix is how many of the requests are calls other than orders.
	Mix Mix
	// Burst, if set, is how many buyers order a SKU at once; Rate and Duration are not used
	// then. See Bursts.
	Burst int
	// Seed determines customers, idempotency keys and quantities.
	Seed uint64
}

// Order is the customer and the content of one request.
type Order struct {
	Customer, Key, SKU string
	Quantity           int
}

// Bursts returns a plan for orders of those SKUs by so many buyers at once. Its customers are
// others than the plan's.
func (p *Plan) Bursts(skus []string, buyers int) Plan {
	return Plan{Targets: p.Targets, SKUs: skus, MaxQuantity: 1, Burst: buyers, Seed: scramble(p.Seed + uint64(buyers))}
}

// Ramp sets the rate by stages.
func (p *Plan) Ramp(stages []Stage) {
	p.Stages = stages
	var requests float64
	p.Duration, requests = total(stages)
	p.Rate = int(math.Round(requests / p.Duration.Seconds()))
}

// Check returns an error for the first invalid field, by the name of its flag.
func (p *Plan) Check() error {
	switch {
	case len(p.Targets) == 0:
		return fmt.Errorf("--target: at least one URL is needed")
	case len(p.SKUs) == 0:
		return fmt.Errorf("--skus must be at least 1")
	case p.MaxQuantity < 1:
		return fmt.Errorf("--max-quantity must be at least 1, not %d", p.MaxQuantity)
	case p.Burst > 0:
		return nil
	case len(p.Stages) > 0 && (p.requests() < 1 || p.requests() > maxRequests):
		return fmt.Errorf("--stages are %.0f requests, and must be from 1 to %d, the most that one attack keeps in memory", p.requests(), maxRequests)
	case len(p.Stages) > 0:
		return nil
	case p.Rate < 1 || p.Rate > maxRate:
		return fmt.Errorf("--rate must be from 1 to %d requests a second, not %d", maxRate, p.Rate)
	case p.Duration <= 0:
		return fmt.Errorf("--duration must be more than 0, not %s", p.Duration)
	case p.requests() < 1:
		return fmt.Errorf("--rate %d for --duration %s is less than one request", p.Rate, p.Duration)
	case p.requests() > maxRequests:
		return fmt.Errorf("--rate %d for --duration %s is more than %d requests, the most that one attack keeps in memory",
			p.Rate, p.Duration, maxRequests)
	}
	return nil
}

// Requests returns the number of planned requests. A harness that falls behind sends
// fewer.
func (p *Plan) Requests() int { return int(p.requests()) }

// requests returns a float, so that a duration of years does not overflow.
func (p *Plan) requests() float64 {
	if p.Burst > 0 {
		return float64(p.Burst * len(p.SKUs))
	}
	if len(p.Stages) > 0 {
		_, requests := total(p.Stages)
		return requests
	}
	return float64(p.Rate) * p.Duration.Seconds()
}

// Orders returns about how many of the requests are orders.
func (p *Plan) Orders() int {
	if sum := p.Mix.sum(); sum > 0 {
		return int(p.requests() * float64(p.Mix[Place]) / float64(sum))
	}
	return p.Requests()
}

// schedule returns when the requests are due.
func (p *Plan) schedule(stop <-chan struct{}) *Schedule {
	s := NewSchedule(p.Rate, p.Requests(), stop)
	if len(p.Stages) > 0 {
		s.stages = p.Stages
	}
	return s
}

// call returns the call of request seq. To pay or to cancel needs an order that was made
// earlier; without one, an order is placed.
func (p *Plan) call(seq int) Call {
	sum := p.Mix.sum()
	if sum == 0 {
		return Place
	}
	at := int(mix(p.Seed, seq, kinds) % uint64(sum))
	call := Place
	for at >= p.Mix[call] {
		at -= p.Mix[call]
		call++
	}
	return call
}

// Order returns the order of request number seq, if it places one.
func (p *Plan) Order(seq int) Order {
	return Order{Customer: p.customer(seq), Key: p.key(seq), SKU: p.SKUs[p.sku(seq)], Quantity: p.quantity(seq)}
}

// target returns the index in Targets of the replica that gets request seq.
func (p *Plan) target(seq int) int { return seq % len(p.Targets) }

// sku returns the index in SKUs. It changes only after each replica has had the SKU. If
// both indexes were seq modulo their length, each of three SKUs on three replicas would go
// to one replica only, and nothing would race.
func (p *Plan) sku(seq int) int {
	if p.Burst > 0 {
		return seq / p.Burst
	}
	return seq / len(p.Targets) % len(p.SKUs)
}

func (p *Plan) quantity(seq int) int {
	return 1 + int(mix(p.Seed, seq, quantities)%uint64(p.MaxQuantity))
}

func (p *Plan) customer(seq int) string { return name("buyer-", mix(p.Seed, seq, customers)) }

func (p *Plan) key(seq int) string { return name("key-", mix(p.Seed, seq, keys)) }

func name(prefix string, n uint64) string {
	var buf [32]byte
	text := append(buf[:0], prefix...)
	for shift := 60; shift > 0 && n>>shift == 0; shift -= 4 {
		text = append(text, '0')
	}
	return string(strconv.AppendUint(text, n, 16))
}

// The streams of random numbers of a request, one for each use.
const (
	customers uint64 = iota + 1
	keys
	quantities
	kinds
	pages
)

// mix returns a random number for request seq: splitmix64 (Steele, Lea and Flood, 2014).
// It is one-to-one in seq, so that no two requests share a customer or a key. It
// scatters the numbers, so that the database gets them in random order.
func mix(seed uint64, seq int, stream uint64) uint64 {
	return scramble(scramble(seed+stream*golden) + uint64(seq)*golden)
}

const golden = 0x9e3779b97f4a7c15

func scramble(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
