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
	// firstWait and longestWait bound the waits between tries, each of which is
	// some twice the one before, give or take a half.
	firstWait   = 50 * time.Millisecond
	longestWait = 2 * time.Second
	// longestRetryAfter is the longest that a service may ask to wait. What asks
	// for more is handed to the caller, who knows whether it is worth it.
	longestRetryAfter = 30 * time.Second
	// maxAnswer bounds what is read of an answer: an audit of some 100,000 SKUs.
	maxAnswer = 32 << 20
)

// call is one call, which may take several tries.
type call struct {
	// what stands before its errors: "place an order".
	what string
	// send makes one try.
	send func(context.Context, *wire.Client) (*http.Response, error)
	// key is the idempotency key that each try carries, if the call has one.
	key string
	// once: a second try would be another call. It is made only where the first
	// was surely not applied.
	once bool
	// reads: nothing can have been applied.
	reads bool
	// patient: a try takes as long as it takes.
	patient bool
	// consume reads a success as it comes; nil reads it to its end.
	consume func(io.Reader) error
}

// answer is a success, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// GaveUp says that a call was tried as often as it may be.
type GaveUp struct {
	// Tries that were made.
	Tries int
	// Key is the idempotency key of all of them: to go on later with what may
	// have been applied, make the same call with it.
	Key string
	// Unknown: a try may have been applied. errors.Is then finds
	// ErrOutcomeUnknown.
	Unknown bool
	// Err is what came of the last try, and the context's error if that ended.
	Err error
}

func (g *GaveUp) Error() string {
	n := "1 try"
	if g.Tries != 1 {
		n = fmt.Sprintf("%d tries", g.Tries)
	}
	if g.Unknown {
		return fmt.Sprintf("gave up after %s, of which one may have been applied: %s", n, g.Err)
	}
	return fmt.Sprintf("gave up after %s: %s", n, g.Err)
}

// Unwrap is Err.
func (g *GaveUp) Unwrap() error { return g.Err }

// Is finds ErrOutcomeUnknown where the outcome is.
func (g *GaveUp) Is(target error) bool { return g.Unknown && target == error(ErrOutcomeUnknown) }

// do makes the call, and puts the body of its answer into out, unless that is
// nil. Its errors are a Problem, a GaveUp, or one of the caller's own making.
func (c *Client) do(ctx context.Context, call call, out any) (*answer, error) {
	got, err := c.persist(ctx, call)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", call.what, err)
	}
	if out != nil {
		if err := json.Unmarshal(got.body, out); err != nil {
			return nil, fmt.Errorf("%s: the answer cannot be read: %w", call.what, err)
		}
	}
	return got, nil
}

// persist tries until there is an answer that another try would not change.
func (c *Client) persist(ctx context.Context, call call) (*answer, error) {
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval, waits.Multiplier = firstWait, longestWait, 2
	var (
		tries   int
		unknown bool
		last    error // what came of the last try
		final   bool
	)
	got, err := backoff.Retry(ctx, func() (*answer, error) {
		tries++
		at := c.at.Load()
		got, err := c.try(ctx, call, c.replicas[at%uint64(len(c.replicas))])
		if err == nil {
			return got, nil
		}
		last = err
		fate := fateOf(err)
		unknown = unknown || !call.reads && (fate == mayStand || faulty(err))
		if fate == settled {
			final = !unknown || decides(err)
			return nil, backoff.Permanent(err)
		}
		if call.once && fate == mayStand {
			return nil, backoff.Permanent(err)
		}
		return nil, c.nextTry(ctx, err, at, tries)
	}, backoff.WithBackOff(waits), backoff.WithMaxTries(uint(c.maxTries)), backoff.WithMaxElapsedTime(0))
	if err == nil {
		return got, nil
	}
	if final {
		return nil, last
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(last, cause) {
		last = fmt.Errorf("%w; the last try: %w", cause, last)
	}
	return nil, &GaveUp{Tries: tries, Key: call.key, Unknown: unknown, Err: last}
}

// nextTry turns to the next replica, and says how long to wait.
func (c *Client) nextTry(ctx context.Context, err error, at uint64, tries int) error {
	problem, answered := errors.AsType[*Problem](err)
	if !answered || problem.Status != http.StatusTooManyRequests {
		c.at.CompareAndSwap(at, at+1) // unless another call has turned already
		if tries < len(c.replicas) {
			return err // the next has not asked for a wait
		}
	}
	if !answered || problem.RetryAfter == 0 {
		return err
	}
	// All who were sent away at once should not come back at once.
	wait := problem.RetryAfter + rand.N(problem.RetryAfter/4+1)
	deadline, bounded := ctx.Deadline()
	if wait > longestRetryAfter || bounded && time.Until(deadline) < wait {
		return backoff.Permanent(err)
	}
	return &backoff.RetryAfterError{Duration: wait}
}

// try sends one request and reads its answer.
func (c *Client) try(ctx context.Context, call call, replica *wire.Client) (*answer, error) {
	if !call.patient {
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

// brokenOff is an answer whose body did not come to its end.
type brokenOff struct{ error }

func (b *brokenOff) Unwrap() error { return b.error }

// fate is what an error says of the call.
type fate int

const (
	// settled: another try would be answered alike.
	settled fate = iota
	// notApplied: this try changed nothing.
	notApplied
	// mayStand: this try may have been applied.
	mayStand
)

// faulty reports a fault of the service's, which may have come after the commit.
func faulty(err error) bool {
	problem, ok := errors.AsType[*Problem](err)
	return ok && problem.Status == http.StatusInternalServerError
}

// decides reports whether an answer that settles this try settles those before
// it, too: the service looks for the key before it refuses. Who is not let in, or
// meets a fault, or a proxy, or has no token any more, is not told.
func decides(err error) bool {
	problem, ok := errors.AsType[*Problem](err)
	if !ok || problem.Kind == "" || problem.Status >= http.StatusInternalServerError {
		return false
	}
	return problem.Status != http.StatusUnauthorized && problem.Status != http.StatusForbidden
}

func fateOf(err error) fate {
	if problem, ok := errors.AsType[*Problem](err); ok {
		switch {
		case problem.Status == http.StatusTooManyRequests, problem.Status == http.StatusRequestTimeout && problem.Kind != "",
			problem.Status == http.StatusServiceUnavailable && problem.Kind != "":
			return notApplied
		case problem.Kind == ErrRequestInFlight:
			return mayStand
		}
		switch problem.Status { // the service's word or a proxy's, who knows no more than we do
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return mayStand
		}
		return settled
	}
	if _, ok := errors.AsType[*brokenOff](err); ok {
		return mayStand
	}
	if _, sent := errors.AsType[*url.Error](err); !sent {
		return settled // no request was made of it
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return notApplied
	}
	return mayStand
}
