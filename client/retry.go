package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/cenkalti/backoff/v5"

	"flashsale/client/wire"
)

const (
	// The wait between tries doubles from firstWait to maxWait, with jitter.
	firstWait = 50 * time.Millisecond
	maxWait   = 2 * time.Second
	// maxRetryAfter bounds the service's Retry-After. The caller gets the error if
	// the service asks for a longer wait.
	maxRetryAfter = 30 * time.Second
	// maxAnswer bounds the size of an answer: an audit of about 100,000 SKUs.
	maxAnswer = 32 << 20
)

// call is one call, with one or more tries.
type call struct {
	what string // prefix of its errors: "place an order"
	send func(context.Context, *wire.Client) (*http.Response, error)
	key  string // the idempotency key, if any
	// once forbids a second try if the first may have been applied.
	once bool
	// reads is set if the call changes nothing.
	reads bool
	// unbounded disables the timeout of a try.
	unbounded bool
	// consume reads the body of a success as it arrives. Optional.
	consume func(io.Reader) error
}

// answer is a success.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// GaveUp is the error of a call that failed after its last try.
type GaveUp struct {
	Tries int
	// Key is the idempotency key of all tries. Repeat the call with it to learn the
	// outcome.
	Key string
	// Unknown is true if a try may have been applied. The error then is
	// ErrOutcomeUnknown, too.
	Unknown bool
	// Err is the last try's error, with the context's error if the context ended.
	Err error
}

func (g *GaveUp) Error() string {
	unknown := ""
	if g.Unknown {
		unknown = "; the call may have been applied"
	}
	return fmt.Sprintf("gave up (tries: %d%s): %s", g.Tries, unknown, g.Err)
}

// Unwrap returns Err.
func (g *GaveUp) Unwrap() error { return g.Err }

// Is reports whether target is ErrOutcomeUnknown and the outcome is unknown.
func (g *GaveUp) Is(target error) bool { return g.Unknown && target == error(ErrOutcomeUnknown) }

// do makes the call, and decodes the answer into out, unless out is nil. It returns a
// Problem, a GaveUp, or an error of the caller's arguments.
func (c *Client) do(ctx context.Context, call call, out any) (*answer, error) {
	got, err := c.retry(ctx, call)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", call.what, err)
	}
	if out != nil {
		if err := json.Unmarshal(got.body, out); err != nil {
			return nil, fmt.Errorf("%s: decode the answer: %w", call.what, err)
		}
	}
	return got, nil
}

// retry tries until it has an answer that another try would not change.
func (c *Client) retry(ctx context.Context, call call) (*answer, error) {
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval, waits.Multiplier = firstWait, maxWait, 2
	var (
		tries   int
		unknown bool
		last    error // of the last try
		final   bool
	)
	got, err := backoff.Retry(ctx, func() (*answer, error) {
		tries++
		current := c.current.Load()
		got, err := c.try(ctx, call, c.replicas[current%uint64(len(c.replicas))])
		if err == nil {
			return got, nil
		}
		last = err
		outcome := outcomeOf(err)
		unknown = unknown || !call.reads && (outcome == maybeApplied || internal(err))
		if outcome == refused || call.once && outcome == maybeApplied {
			final = outcome == refused && (!unknown || decides(err))
			return nil, backoff.Permanent(err)
		}
		return nil, c.nextTry(ctx, err, current, tries)
	}, backoff.WithBackOff(waits), backoff.WithMaxTries(uint(c.maxTries)), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return got, nil
	}
	if final {
		return nil, last
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(last, cause) {
		last = fmt.Errorf("%w; last try: %w", cause, last)
	}
	return nil, &GaveUp{Tries: tries, Key: call.key, Unknown: unknown, Err: last}
}

// nextTry switches to the next replica, and returns err, wrapped with the wait if the
// service asked for one.
func (c *Client) nextTry(ctx context.Context, err error, current uint64, tries int) error {
	problem, answered := errors.AsType[*Problem](err)
	if !answered || problem.Status != http.StatusTooManyRequests {
		c.current.CompareAndSwap(current, current+1) // unless another call did
		if tries < len(c.replicas) {
			return err // the next replica has not asked for a wait
		}
	}
	if !answered || problem.RetryAfter == 0 {
		return err
	}
	// Spread clients that got the same Retry-After.
	wait := problem.RetryAfter + rand.N(problem.RetryAfter/4+1)
	deadline, bounded := ctx.Deadline()
	if wait > maxRetryAfter || bounded && time.Until(deadline) < wait {
		return backoff.Permanent(err)
	}
	return &backoff.RetryAfterError{Duration: wait}
}

// try sends one request and reads its answer.
func (c *Client) try(ctx context.Context, call call, replica *wire.Client) (*answer, error) {
	if !call.unbounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.tryTimeout)
		defer cancel()
	}
	response, err := call.send(ctx, replica)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if call.consume != nil && response.StatusCode == http.StatusOK {
		if err := call.consume(response.Body); err != nil {
			return nil, err
		}
		return &answer{status: response.StatusCode, header: response.Header}, nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, &brokenOff{err}
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return nil, problemOf(response.StatusCode, response.Header, body)
	}
	return &answer{response.StatusCode, response.Header, body}, nil
}

// brokenOff is the error of an incomplete body.
type brokenOff struct{ error }

func (b *brokenOff) Unwrap() error { return b.error }

// outcome is what an error says about its try.
type outcome int

const (
	// refused: another try would get the same answer.
	refused outcome = iota
	// notApplied: the try changed nothing, and may be repeated.
	notApplied
	// maybeApplied: the try may have been applied.
	maybeApplied
)

// internal reports whether the service failed, possibly after the commit.
func internal(err error) bool {
	problem, ok := errors.AsType[*Problem](err)
	return ok && problem.Status == http.StatusInternalServerError
}

// decides reports whether a refusal proves that no earlier try was applied: the
// service looks up the key before it refuses, but not before it authenticates.
func decides(err error) bool {
	problem, ok := errors.AsType[*Problem](err)
	if !ok || problem.Kind == "" || problem.Status >= http.StatusInternalServerError {
		return false
	}
	return problem.Status != http.StatusUnauthorized && problem.Status != http.StatusForbidden
}

func outcomeOf(err error) outcome {
	if problem, ok := errors.AsType[*Problem](err); ok {
		switch {
		case problem.Status == http.StatusTooManyRequests, problem.Status == http.StatusRequestTimeout && problem.Kind != "",
			problem.Status == http.StatusServiceUnavailable && problem.Kind != "":
			return notApplied
		case problem.Kind == ErrRequestInFlight, problem.Status >= http.StatusBadGateway && problem.Status <= http.StatusGatewayTimeout:
			return maybeApplied // a proxy's answer proves nothing
		}
		return refused
	}
	if _, ok := errors.AsType[*brokenOff](err); ok {
		return maybeApplied
	}
	if _, sent := errors.AsType[*url.Error](err); !sent {
		return refused // no request was sent
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return notApplied
	}
	return maybeApplied
}
