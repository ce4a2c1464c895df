// Package attack sends orders to a service at a planned rate, whether or not the service
// keeps up, and records every answer. Other calls can be among them: see Mix.
//
// Every order has a new customer and a new idempotency key. The rate is an open loop of
// vegeta; latency counts from when a request was due. Package proof compares the answers
// with the stock.
package attack

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/google/uuid"
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
	// Results get each answer. A slow disk delays no request: they are written by a goroutine
	// of their own, for which Run waits at the end.
	Results []*Results
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
	schedule := plan.schedule(cfg.Stop)
	result := &Result{Answers: make([]Answer, plan.Requests())}
	write, written := record(cfg.Results, &plan, schedule, result.Answers)
	defer written()
	var sent int
	var last time.Duration
	for res := range attacker.Attack(target, schedule, plan.Duration+overtime, "") {
		at := res.Timestamp.Sub(schedule.Began)
		made := transport.made(int(res.Seq))
		a := read(res, made.call)
		a.Due, a.Sent, a.Done, a.BytesIn = schedule.Due(a.Seq), at, at+res.Latency, int(res.BytesIn)
		if made.of.id != uuid.Nil {
			a.OrderID, a.Of = made.of.id, made.of.seq
		}
		transport.keep(&a, res.Body)
		result.Answers[a.Seq] = a
		write(a.Seq)
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
