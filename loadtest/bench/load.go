package bench

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
)

type offer struct {
	plan   attack.Plan
	tokens *attack.Tokens
	// In a closed loop, each of the workers sends its next request after the answer to
	// the last one. In an open loop, requests are sent at this rate a second.
	workers, rate int
	// warmUp precedes the measured window.
	warmUp, window time.Duration
	limit          int
	// measure is called at the start and at the end of the window.
	measure func()
}

// openWorkers bounds the concurrent requests of an open loop.
const openWorkers = 8192

type measurement struct {
	// answers are in the order of their requests, including the warm-up.
	answers []attack.Answer
	began   time.Time
	// from and to are the window, as times since began.
	from, to time.Duration
	// exhausted: the limit of requests was reached before the end of the window.
	exhausted bool
}

// send sends the requests, and returns when all are answered.
func send(ctx context.Context, o offer) (*measurement, error) {
	limit := min(o.limit, o.tokens.Len())
	wire, err := newWire(ctx, &o.plan, o.tokens, limit)
	if err != nil {
		return nil, err
	}
	defer wire.close()
	workers := o.workers
	if o.rate > 0 {
		workers = openWorkers
	}
	attacker := vegeta.NewAttacker(
		vegeta.Client(&http.Client{Transport: wire}), vegeta.Workers(uint64(min(workers, o.workers))), vegeta.MaxWorkers(uint64(workers)),
	)
	defer context.AfterFunc(ctx, func() { attacker.Stop(); wire.breakOff() })()

	// With rate 0, vegeta sends as fast as its workers allow.
	pace := attack.NewSchedule(o.rate, limit, nil)
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: "POST", URL: o.plan.Targets[0] + "/v1/orders"})
	result := &measurement{}
	late := time.AfterFunc(math.MaxInt64, wire.breakOff) // one timer for all requests, set at the end of the window
	defer late.Stop()
	measured := o.atBounds(ctx, result, func() {
		attacker.Stop()
		late.Reset(attack.RequestTimeout)
	})
	sent := 0
	for res := range attacker.Attack(target, pace, 0, "") {
		a := &wire.answers[res.Seq]
		at := res.Timestamp.Sub(pace.Began)
		a.Due, a.Done = at, at+res.Latency
		if o.rate > 0 {
			a.Due = pace.Due(a.Seq)
		}
		sent = max(sent, a.Seq+1)
	}
	<-measured
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if sent == 0 {
		return nil, errors.New("nothing was sent")
	}
	result.answers, result.began, result.exhausted = wire.answers[:sent], pace.Began, sent == limit
	return result, nil
}

// atBounds calls measure at both ends of the window and records when. Then it calls end. The
// window begins later than planned if this process was stopped in the warm-up. The returned
// channel is closed after end, or when ctx ends.
func (o *offer) atBounds(ctx context.Context, t *measurement, end func()) <-chan struct{} {
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		if sleep.For(ctx, o.warmUp) != nil {
			return
		}
		o.measure()
		t.from = time.Since(began)
		if sleep.For(ctx, o.window) != nil {
			return
		}
		o.measure()
		t.to = time.Since(began)
		end()
	}()
	return done
}

// inWindow returns the answers in the window, and its requests' sorted latencies.
func (t *measurement) inWindow() (answers []attack.Answer, latencies attack.Latencies) {
	for i := range t.answers {
		a := &t.answers[i]
		if a.Done >= t.from && a.Done < t.to {
			answers = append(answers, *a)
		}
		if a.Due >= t.from && a.Due < t.to {
			latencies = append(latencies, a.Latency())
		}
	}
	slices.Sort(latencies)
	return answers, latencies
}
