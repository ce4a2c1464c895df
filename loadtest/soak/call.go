package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"flashsale/internal/httpapi/spec/speccheck"
	"flashsale/internal/sleep"
)

const (
	// patience is how long a request waits for its answer: far longer than the
	// service works on one, so that none at all says that something is wrong.
	patience = 30 * time.Second
	// impatience is what some tries wait instead, to lose the answers of replicas
	// that are slow or stopped.
	impatience = time.Second
	// settleWithin bounds the tries of one call. The service has to serve again
	// well within it after each fault.
	settleWithin = 90 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 8 << 20
)

// caller sends requests to replicas, and looks at each answer by itself. It is
// safe for concurrent use.
type caller struct {
	urls       []string
	client     *http.Client
	checker    *speccheck.Checker
	record     *record
	weather    *weather
	adminToken string
	secret     string
}

// request is one call, as often as it is sent.
type request struct {
	name         string // of the call, in the table
	method, path string
	token        string
	header       map[string]string
	body         string
}

// keyed is the header of an idempotency key.
func keyed(key string) map[string]string { return map[string]string{"Idempotency-Key": key} }

// reply is what came of a request.
type reply struct {
	status int    // 0 where no answer came
	slug   string // of a problem
	header http.Header
	body   []byte
	// sent and done are around everything that the service did for it. Over
	// several tries they are the first's and the last's.
	sent, done time.Time
	// lost: a try before this answer may have been applied.
	lost bool
	err  error // why no answer came
}

func (r *reply) outcome() string {
	if r.status == 0 {
		return "no answer"
	}
	return strings.TrimSpace(fmt.Sprint(r.status, " ", r.slug))
}

// replayed reports whether the service says that an earlier request made it.
func (r *reply) replayed() bool { return r.header.Get("Idempotent-Replayed") == "true" }

// once sends a request to one replica, and checks what does not depend on any
// state: that there is an answer, that it is in the contract, and no 500.
func (c *caller) once(ctx context.Context, replica int, wait time.Duration, r request) reply {
	re := c.send(ctx, replica, wait, r)
	if ctx.Err() != nil {
		return re // interrupted
	}
	c.record.count(r.name, re.outcome())
	if re.status == 0 {
		givenUp := wait < patience && errors.Is(re.err, context.DeadlineExceeded)
		if !givenUp && c.weather.calm(re.sent, re.done) {
			c.record.violate(Violation{Invariant: Answered, Detail: fmt.Sprintf("%s %s at replica %d: %v", r.method, r.path, replica+1, re.err)})
		}
		return re
	}
	if re.status == http.StatusInternalServerError {
		c.record.violate(Violation{Invariant: NoFault, Detail: fmt.Sprintf("%s %s: %s", r.method, r.path, re.body)})
	}
	if err := c.checker.Check(r.method, r.path, re.status, re.header, re.body); err != nil {
		c.record.violate(Violation{Invariant: InContract, Detail: err.Error()})
	}
	return re
}

func (c *caller) send(ctx context.Context, replica int, wait time.Duration, r request) (re reply) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	re.sent = time.Now()
	defer func() { re.done = time.Now() }()
	req, err := http.NewRequestWithContext(ctx, r.method, c.urls[replica]+r.path, strings.NewReader(r.body))
	if err != nil {
		re.err = err
		return re
	}
	if r.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	res, err := c.client.Do(req)
	if err != nil {
		re.err = err
		return re
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		re.err = err
		return re
	}
	re.status, re.header, re.body = res.StatusCode, res.Header, body
	if res.StatusCode >= http.StatusBadRequest {
		re.slug = slugOf(body)
	}
	return re
}

// slugOf is the end of a problem's type.
func slugOf(body []byte) string {
	var problem struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(body, &problem) // what is no problem has no slug
	return strings.TrimPrefix(problem.Type, "/errors/")
}

// settle sends a request to one replica after another until an answer settles
// what has become of it, as every client of the service has to.
func (c *caller) settle(ctx context.Context, rng *rand.Rand, r request) (reply, error) {
	var first time.Time
	lost := false
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		try := patience
		if rng.IntN(4) == 0 {
			try = impatience
		}
		re := c.once(ctx, rng.IntN(len(c.urls)), try, r)
		if ctx.Err() != nil {
			return re, ctx.Err()
		}
		if first.IsZero() {
			first = re.sent
		}
		switch {
		case re.status == 0, re.status == http.StatusGatewayTimeout, re.status == http.StatusConflict && re.slug == "request-in-flight":
			lost = true
		case re.status == http.StatusServiceUnavailable, re.status == http.StatusTooManyRequests:
		default:
			re.sent, re.lost = first, lost
			return re, nil
		}
		if time.Since(first) > settleWithin {
			return re, &broken{Flows, fmt.Sprintf("%s %s is not settled after %s: %s", r.method, r.path, settleWithin, re.outcome())}
		}
		if err := sleep.For(ctx, wait); err != nil {
			return re, err
		}
	}
}

// together settles the same request several times at once.
func (c *caller) together(ctx context.Context, rng *rand.Rand, n int, r request) ([]reply, error) {
	requests := make([]request, n)
	for i := range requests {
		requests[i] = r
	}
	return c.atOnce(ctx, rng, requests...)
}

// atOnce settles requests at the same time.
func (c *caller) atOnce(ctx context.Context, rng *rand.Rand, requests ...request) ([]reply, error) {
	replies, errs := make([]reply, len(requests)), make([]error, len(requests))
	done := make(chan int)
	for i, r := range requests {
		own := rand.New(rand.NewPCG(rng.Uint64(), uint64(i))) // a rand.Rand is for one goroutine
		go func() {
			replies[i], errs[i] = c.settle(ctx, own, r)
			done <- i
		}()
	}
	for range requests {
		<-done
	}
	return replies, errors.Join(errs...)
}

// same reports whether two bodies are the same, byte for byte.
func same(a, b []byte) bool { return bytes.Equal(a, b) }
