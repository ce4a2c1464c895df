package bench

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
)

// offer is what one run sends.
type offer struct {
	plan   attack.Plan
	tokens *tokens
	// workers each send their next request when they have their answer: a closed
	// loop. rate, in requests a second, is an open one, and workers its bound.
	workers, rate int
	// warmUp comes before the window in which is measured.
	warmUp, window time.Duration
	// limit is the most requests that are sent.
	limit int
	// measure is called at the beginning and at the end of the window.
	measure func()
}

// openWorkers bounds the requests under way of an open loop.
const openWorkers = 8192

// taken is what came of an offer.
type taken struct {
	// answers in the order of their requests, those of the warm-up too.
	answers []attack.Answer
	began   time.Time
	// from and to bound the window, counted from began.
	from, to time.Duration
	// exhausted: the planned requests were used up before the time was.
	exhausted bool
}

// send carries the offer out, and returns when each request has its answer.
func send(ctx context.Context, o offer) (*taken, error) {
	limit := min(o.limit, o.tokens.count())
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
	total := o.warmUp + o.window
	// One timer for all requests: a request that was sent last has its time, too.
	late := time.AfterFunc(total+answerTimeout, wire.breakOff)
	defer late.Stop()

	// With rate 0 vegeta sends as fast as its workers come back.
	pace := &schedule{pacer: vegeta.ConstantPacer{Freq: o.rate, Per: time.Second}, limit: uint64(limit), total: total}
	target := vegeta.NewStaticTargeter(vegeta.Target{Method: "POST", URL: o.plan.Targets[0] + "/v1/orders"})
	result := &taken{}
	stopMeasuring := o.atBounds(ctx, result)
	sent := 0
	for res := range attacker.Attack(target, pace, total, "") {
		a := &wire.answers[res.Seq]
		at := res.Timestamp.Sub(pace.began)
		a.Due, a.Done = at, at+res.Latency
		if o.rate > 0 {
			a.Due = pace.due(a.Seq)
		}
		sent = max(sent, a.Seq+1)
	}
	stopMeasuring()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if sent == 0 {
		return nil, errors.New("nothing was sent")
	}
	result.answers, result.began, result.exhausted = wire.answers[:sent], pace.began, pace.exhausted
	return result, nil
}

// atBounds calls measure at both ends of the window, and keeps when that was.
// stop waits for the second, or for ctx to end.
func (o *offer) atBounds(ctx context.Context, t *taken) (stop func()) {
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		if sleep.For(ctx, o.warmUp) != nil {
			return
		}
		o.measure()
		t.from = time.Since(began)
		if sleep.For(ctx, o.warmUp+o.window-t.from) != nil {
			return
		}
		o.measure()
		t.to = time.Since(began)
	}()
	return func() { <-done }
}

// inWindow are the answers that came in the window, and the latencies of those
// requests that were due in it, sorted.
func (t *taken) inWindow() (answers []attack.Answer, latencies attack.Latencies) {
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

// schedule is a pacer that remembers when the attack began, which vegeta does not
// tell, and ends it after limit requests.
type schedule struct {
	pacer     vegeta.ConstantPacer
	limit     uint64
	total     time.Duration
	began     time.Time // set before the first request, read after it
	exhausted bool      // read when all is over
}

// Pace is vegeta.Pacer's.
func (s *schedule) Pace(elapsed time.Duration, hits uint64) (wait time.Duration, stop bool) {
	if s.began.IsZero() {
		s.began = time.Now().Add(-elapsed)
	}
	if hits >= s.limit {
		s.exhausted = s.pacer.Freq == 0 && elapsed < s.total
		return 0, true
	}
	return s.pacer.Pace(elapsed, hits)
}

// Rate is vegeta.Pacer's.
func (s *schedule) Rate(elapsed time.Duration) float64 { return s.pacer.Rate(elapsed) }

// due is when the pacer wants request seq to be sent: the first comes one
// interval after the beginning.
func (s *schedule) due(seq int) time.Duration {
	return time.Duration(float64(seq+1) * float64(time.Second) / float64(s.pacer.Freq))
}
