package attack

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// patience is how long a burst is waited for before the next one starts. A fast service
	// has answered by then; a slow lock answers one buyer after the other.
	patience = 200 * time.Millisecond
	// maxBursts bounds the bursts under way.
	maxBursts = 4
)

// Bursts sends the orders of a plan that has Burst set: for one SKU after the other, all
// buyers of the SKU order at once. more gets the answers of each burst, one call at a time,
// and returns false to end the bursts. The answers are in the order of their requests. Of
// cfg, Plan, JWTSecret and Dial are used.
func Bursts(ctx context.Context, cfg Config, more func([]Answer) bool) ([]Answer, error) {
	plan := cfg.Plan
	if err := plan.Check(); err != nil {
		return nil, err
	}
	tokens, err := Mint(ctx, plan.Seed, plan.Requests(), cfg.JWTSecret)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(ctx, &plan, tokens, maxBursts*plan.Burst)
	if err != nil {
		return nil, err
	}
	defer transport.base.CloseIdleConnections()
	if cfg.Dial != nil {
		transport.base.DialContext = cfg.Dial
	}
	var (
		answers = make([]Answer, plan.Requests())
		sent    int
		enough  atomic.Bool
		mu      sync.Mutex // for more
		bursts  errgroup.Group
		began   = time.Now()
	)
	bursts.SetLimit(maxBursts)
	for ; sent < len(answers) && ctx.Err() == nil && !enough.Load(); sent += plan.Burst {
		first, done := sent, make(chan struct{})
		bursts.Go(func() error {
			defer close(done)
			burst := answers[first : first+plan.Burst]
			transport.burst(burst, first, began)
			mu.Lock()
			defer mu.Unlock()
			if !more(burst) {
				enough.Store(true)
			}
			return nil
		})
		select {
		case <-done:
		case <-time.After(patience):
		}
	}
	_ = bursts.Wait() // never an error
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return answers[:sent], nil
}

// burst sends the requests from number first on at once. Their goroutines are ready before
// the first request is sent.
func (t *transport) burst(answers []Answer, first int, began time.Time) {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range answers {
		ready.Add(1)
		done.Go(func() {
			ctx, cancel := context.WithTimeout(t.ctx, RequestTimeout)
			defer cancel()
			req := t.request(ctx, first+i)
			ready.Done()
			<-start
			sent := time.Since(began)
			a := t.send(req)
			a.Seq, a.Due, a.Sent, a.Done = first+i, sent, sent, time.Since(began)
			answers[i] = a
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

func (t *transport) send(req *http.Request) Answer {
	res, err := t.base.RoundTrip(req)
	if err != nil {
		return NoAnswer(err.Error())
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return NoAnswer(err.Error())
	}
	return ReadAnswer(res.StatusCode, res.Header, body)
}
