package soak

import (
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
	// longWait is the timeout of most tries. It is far longer than the service's own, so
	// that no answer within it is an error.
	longWait = 30 * time.Second
	// shortWait is the timeout of some tries, to lose the answers of slow or stopped
	// replicas.
	shortWait = time.Second
	// settleWithin bounds the tries of one call. The service must serve again within it
	// after each fault.
	settleWithin = 90 * time.Second
	maxAnswer    = 8 << 20
)

// caller sends requests to replicas and checks each answer on its own. It is safe for
// concurrent use.
type caller struct {
	urls       []string
	client     *http.Client
	checker    *speccheck.Checker
	record     *record
	faults     *faults
	adminToken string
	secret     string
}

// request is one call. It may be sent several times.
type request struct {
	name         string // of the call, in the table
	method, path string
	token        string
	header       map[string]string
	body         string
}

func keyed(key string) map[string]string { return map[string]string{"Idempotency-Key": key} }

type reply struct {
	status int    // 0 if there was no answer
	slug   string // of a problem
	header http.Header
	body   []byte
	// sent and done enclose everything that the service did: from the first try to the end
	// of the last.
	sent, done time.Time
	// lost says that an earlier try may have been applied.
	lost bool
	err  error // why there was no answer
}

func (r *reply) outcome() string {
	if r.status == 0 {
		return "no answer"
	}
	return strings.TrimSpace(fmt.Sprint(r.status, " ", r.slug))
}

// replayed reports whether the answer repeats that to an earlier request.
func (r *reply) replayed() bool { return r.header.Get("Idempotent-Replayed") == "true" }

// once sends a request to one replica and checks what depends on no state: that there is
// an answer, that it conforms to the contract, and that it is not a 500.
func (c *caller) once(ctx context.Context, replica int, wait time.Duration, r request) reply {
	re := c.send(ctx, replica, wait, r)
	if ctx.Err() != nil {
		return re // interrupted
	}
	c.record.do(func() { c.record.counts[[2]string{r.name, re.outcome()}]++ })
	if re.status == 0 {
		givenUp := wait < longWait && errors.Is(re.err, context.DeadlineExceeded)
		if !givenUp && c.faults.none(re.sent, re.done) {
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

func (c *caller) send(ctx context.Context, replica int, wait time.Duration, r request) reply {
	re := reply{sent: time.Now()}
	re.err = c.exchange(ctx, replica, wait, r, &re)
	re.done = time.Now()
	return re
}

func (c *caller) exchange(ctx context.Context, replica int, wait time.Duration, r request, re *reply) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, c.urls[replica]+r.path, strings.NewReader(r.body))
	if err != nil {
		return err
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
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	re.status, re.header, re.body = res.StatusCode, res.Header, body
	if res.StatusCode >= http.StatusBadRequest {
		re.slug = slugOf(body)
	}
	return nil
}

func slugOf(body []byte) string {
	var problem struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(body, &problem) // any other body has no slug
	return strings.TrimPrefix(problem.Type, "/errors/")
}

// settle sends a request to random replicas until an answer says what happened to it, as
// every client of the service must.
func (c *caller) settle(ctx context.Context, rng *rand.Rand, r request) (reply, error) {
	var first time.Time
	lost := false
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		try := longWait
		if rng.IntN(4) == 0 {
			try = shortWait
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
			return re, &broken{Flows, fmt.Sprintf("%s %s has no definite answer after %s: %s", r.method, r.path, settleWithin, re.outcome())}
		}
		if err := sleep.For(ctx, wait); err != nil {
			return re, err
		}
	}
}
