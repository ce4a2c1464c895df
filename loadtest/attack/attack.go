// Package attack offers orders to a service at a fixed rate, whether it keeps up
// or not, and keeps the answer to each request.
//
// Every request is a customer's first, with an idempotency key of its own. The
// rate is vegeta's open loop; latency counts from when a request was due. What
// the answers mean for the stock is package proof's to say.
package attack

import (
	"context"
	"errors"
	"fmt"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

const (
	// requestTimeout is longer than the service takes at most, 5 s, so that it
	// is the service that says how a request ended.
	requestTimeout = 8 * time.Second
	// maxUnderWay bounds the requests under way, each with a connection, a socket
	// here and one at the service: about 300 MB in all. 2,000 requests a second
	// have that many under way when each takes four seconds. When all of them
	// wait, the rate falls, which is reported.
	maxUnderWay = 8192
	// spareFiles of the limit on open files are for all but these connections.
	spareFiles = 128
	// overtime is for the last requests of an attack that is a moment late. One
	// that is later is behind, and leaves them out.
	overtime = 100 * time.Millisecond
	// firstWorkers saves the first second the making of goroutines.
	firstWorkers = 64
	// maxAnswerBytes is more than any answer of the service has.
	maxAnswerBytes = 64 << 10
)

// Config is one attack.
type Config struct {
	Plan Plan
	// JWTSecret signs the customers' tokens.
	JWTSecret string
	// Buyers, if set, bounds the requests under way: each waits for an answer
	// before it sends the next request, and the rate falls when all of them wait.
	Buyers int
	// Stop, if set, ends the attack before the plan does: nothing more is sent once
	// it is closed.
	Stop <-chan struct{}
	// Before, if set, is called when all is prepared, which takes seconds for a long
	// attack; the attack begins when it returns nil.
	Before func() error
	// OnAnswer, if set, is called after each answer, by one goroutine.
	OnAnswer func(Answer)
}

// Result is what came of an attack.
type Result struct {
	// Answers stand in the order of their requests: Answers[i].Seq == i.
	Answers []Answer
	// Began is when the first request was one interval away.
	Began time.Time
	// Sending is how long requests were sent for, as planned or longer.
	Sending time.Duration
	// PeakUnderWay is the most requests that were under way at a time, and
	// Saturated whether the harness keeps no more.
	PeakUnderWay int
	Saturated    bool
}

// AchievedRate is the rate at which requests were really sent, a second.
func (r *Result) AchievedRate() float64 {
	if r.Sending <= 0 {
		return 0
	}
	return float64(len(r.Answers)) / r.Sending.Seconds()
}

// Run carries the attack out and returns when every request has its answer or
// has waited too long for one. When ctx ends first it breaks off what is under
// way and returns ctx's error.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	plan := cfg.Plan
	if err := plan.Check(); err != nil {
		return nil, err
	}
	tokens, err := mint(ctx, &plan, cfg.JWTSecret)
	if err != nil {
		return nil, fmt.Errorf("mint the customers' tokens: %w", err)
	}
	limit := underWay()
	if cfg.Buyers > 0 {
		limit = min(limit, cfg.Buyers)
	}
	transport, err := newTransport(ctx, &plan, tokens, limit)
	if err != nil {
		return nil, err
	}
	defer transport.close()
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

	// vegeta knows one target; the transport sends each request to its own.
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: "POST", URL: plan.Targets[0] + "/v1/orders"})
	schedule := &schedule{pacer: vegeta.ConstantPacer{Freq: plan.Rate, Per: time.Second}, limit: uint64(plan.Requests()), stop: cfg.Stop}
	result := &Result{Answers: make([]Answer, plan.Requests())}
	var (
		reader reader
		sent   int
		last   time.Duration
	)
	for res := range attacker.Attack(target, schedule, plan.Duration+overtime, "") {
		at := res.Timestamp.Sub(schedule.began)
		a := reader.read(res)
		a.Due, a.Sent, a.Done = schedule.due(a.Seq), at, at+res.Latency
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
	result.Began = schedule.began
	result.Sending = last
	if !schedule.stopped {
		result.Sending = max(plan.Duration, last)
	}
	result.PeakUnderWay = int(transport.peak.Load())
	result.Saturated = result.PeakUnderWay >= limit
	return result, nil
}

// underWay is maxUnderWay, or less where the system lets a process open fewer
// files: a request that fails for want of a socket says nothing of the service.
func underWay() int {
	files, limited := openFiles()
	if !limited {
		return maxUnderWay
	}
	return min(maxUnderWay, max(firstWorkers, files-spareFiles))
}

// schedule is a pacer that remembers when the attack began, which vegeta does
// not tell, and ends it when it is told to stop, or after limit requests: rounding could
// make one more.
type schedule struct {
	pacer vegeta.ConstantPacer
	limit uint64
	stop  <-chan struct{}
	began time.Time // set before the first request, read after it
	// stopped says that stop was closed; it is read after the last request.
	stopped bool
}

// Pace is vegeta.Pacer's.
func (s *schedule) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	if s.began.IsZero() {
		s.began = time.Now().Add(-elapsed)
	}
	select {
	case <-s.stop: // nil, and never, where only the plan ends it
		s.stopped = true
		return 0, true
	default:
	}
	if hits >= s.limit {
		return 0, true
	}
	return s.pacer.Pace(elapsed, hits)
}

// Rate is vegeta.Pacer's.
func (s *schedule) Rate(elapsed time.Duration) float64 { return s.pacer.Rate(elapsed) }

// due is when the pacer wants request seq to be sent: the first comes one
// interval after the beginning.
func (s *schedule) due(seq int) time.Duration {
	return time.Duration(seq+1) * (s.pacer.Per / time.Duration(s.pacer.Freq))
}
