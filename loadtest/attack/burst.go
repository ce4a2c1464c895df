package attack

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// Bursts sends the orders of a plan that has Burst set: for one SKU after the other, all
// buyers of the SKU order at once. more gets the answers of each burst, and returns false to
// end the bursts. The answers are in the order of their requests.
func Bursts(ctx context.Context, plan Plan, secret string, more func([]Answer) bool) ([]Answer, error) {
	if err := plan.Check(); err != nil {
		return nil, err
	}
	tokens, err := Mint(ctx, plan.Seed, plan.Requests(), secret)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(ctx, &plan, tokens, plan.Burst)
	if err != nil {
		return nil, err
	}
	defer transport.base.CloseIdleConnections()
	answers := make([]Answer, plan.Requests())
	began := time.Now()
	for first := 0; first < len(answers); first += plan.Burst {
		burst := answers[first : first+plan.Burst]
		transport.burst(burst, first, began)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !more(burst) {
			return answers[:first+plan.Burst], nil
		}
	}
	return answers, nil
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
