// Package attack sends orders to a service at a fixed rate, whether or not the service
// keeps up, and records every answer.
//
// Every request has a new customer and a new idempotency key. The rate is an open loop of
// vegeta; latency counts from when a request was due. Package proof compares the answers
// with the stock.
package attack

import (
	"context"
	"errors"
	"net"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

const (
	// RequestTimeout is longer than the service's own timeout of 5 s, so that the service
	// reports how a request ended.
	RequestTimeout = 8 * time.Second
	// maxUnderWay bounds the requests under way. Each has a connection; together they take
	// about 300 MB here and at the service. 2,000 requests per second reach the bound if
	// each takes four seconds. At the bound the rate falls, which is reported.
	maxUnderWay = 8192
	// spareFiles is the part of the limit on open files that is not for connections.
	spareFiles = 128
	// overtime lets an attack that is slightly late send its last requests. An attack that
	// is later than that omits them.
	overtime = 100 * time.Millisecond
	// firstWorkers start before the attack, so that its first second does not start them.
	firstWorkers   = 64
	maxAnswerBytes = 64 << 10
)

// Config is one attack.
type Config struct {
	Plan      Plan
	JWTSecret string
	// Buyers, if set, bounds the requests under way: each buyer waits for an answer before
	// the next request, and the rate falls while all of them wait.
	Buyers int
	// Stop, if set, ends the attack early: closing it stops further requests.
	Stop <-chan struct{}
	// Before, if set, is called after the preparation, which takes seconds for a long
	// attack. The attack starts when it returns nil.
	Before func() error
	// Dial, if set, opens the connections to the replicas, for replicas in another network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// OnAnswer, if set, is called with each answer, by one goroutine.
	OnAnswer func(Answer)
}

// Result is the outcome of an attack.
type Result struct {
	// Answers are in the order of their requests: Answers[i].Seq == i.
	Answers []Answer
	// Began is the start of the attack, one interval before the first request.
	Began time.Time
	// Sending is how long requests were sent.
	Sending time.Duration
	// PeakUnderWay is the most requests that were under way at a time. Saturated says that
	// this is the bound of the harness.
	PeakUnderWay int
	Saturated    bool
}

// AchievedRate returns the requests per second that were really sent.
func (r *Result) AchievedRate() float64 {
	if r.Sending <= 0 {
		return 0
	}
	return float64(len(r.Answers)) / r.Sending.Seconds()
}

// Run makes the attack. It returns when every request has an answer or has timed out. If
// ctx ends first, Run cancels the requests under way and returns ctx's error.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	plan := cfg.Plan
	if err := plan.Check(); err != nil {
		return nil, err
	}
	tokens, err := Mint(ctx, plan.Seed, plan.Requests(), cfg.JWTSecret)
	if err != nil {
		return nil, err
	}
	limit := underWay()
	if cfg.Buyers > 0 {
		limit = min(limit, cfg.Buyers)
	}
	transport, err := newTransport(ctx, &plan, tokens, limit)
	if err != nil {
		return nil, err
	}
	defer transport.base.CloseIdleConnections()
	if cfg.Dial != nil {
		transport.base.DialContext = cfg.Dial
	}
	if cfg.Before != nil {
		if err := cfg.Before(); err != nil {
			return nil, err
		}
	}

	attacker := vegeta.NewAttacker(
		vegeta.Client(clientOf(transport)),
		vegeta.Workers(firstWorkers),
		vegeta.MaxWorkers(uint64(limit)),
		vegeta.MaxBody(maxAnswerBytes),
	)
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()

	// vegeta gets one target; the transport sends each request to its own target.
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: "POST", URL: plan.Targets[0] + "/v1/orders"})
	schedule := NewSchedule(plan.Rate, plan.Requests(), cfg.Stop)
	result := &Result{Answers: make([]Answer, plan.Requests())}
	var sent int
	var last time.Duration
	for res := range attacker.Attack(target, schedule, plan.Duration+overtime, "") {
		at := res.Timestamp.Sub(schedule.Began)
		a := read(res)
		a.Due, a.Sent, a.Done = schedule.Due(a.Seq), at, at+res.Latency
		result.Answers[a.Seq] = a
		sent, last = max(sent, a.Seq+1), max(last, at)
		if cfg.OnAnswer != nil {
			cfg.OnAnswer(a)
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if sent == 0 {
		return nil, errors.New("the attack sent nothing")
	}
	result.Answers = result.Answers[:sent]
	result.Began = schedule.Began
	result.Sending = last
	if !schedule.stopped {
		result.Sending = max(plan.Duration, last)
	}
	result.PeakUnderWay = int(transport.peak.Load())
	result.Saturated = result.PeakUnderWay >= limit
	return result, nil
}

// underWay returns maxUnderWay, or less if the limit on open files is lower: a request
// that fails for lack of a socket says nothing about the service.
func underWay() int {
	return min(maxUnderWay, max(firstWorkers, openFiles()-spareFiles))
}

// Schedule is a vegeta.Pacer that records the start of the attack, which vegeta does not
// report. It ends the attack on stop, or after limit requests: rounding could add one.
type Schedule struct {
	vegeta.ConstantPacer
	// Began is set before the first request. Read it after that request.
	Began time.Time

	limit uint64
	stop  <-chan struct{}
	// stopped says that stop was closed; read after the last request.
	stopped bool
}

// NewSchedule sends rate requests per second, or as many as possible with rate 0. A nil
// stop is never closed.
func NewSchedule(rate, limit int, stop <-chan struct{}) *Schedule {
	return &Schedule{ConstantPacer: vegeta.ConstantPacer{Freq: rate, Per: time.Second}, limit: uint64(limit), stop: stop}
}

// Pace implements vegeta.Pacer.
func (s *Schedule) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	if s.Began.IsZero() {
		s.Began = time.Now().Add(-elapsed)
	}
	select {
	case <-s.stop:
		s.stopped = true
		return 0, true
	default:
	}
	if hits >= s.limit {
		return 0, true
	}
	return s.ConstantPacer.Pace(elapsed, hits)
}

// Due returns when request seq is to be sent: the first, one interval after the start.
func (s *Schedule) Due(seq int) time.Duration {
	return time.Duration(seq+1) * (s.Per / time.Duration(s.Freq))
}
