package client

import (
	"cmp"
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

	"flashsale/internal/sleep"
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
	// request is for anyReplica. err is the error of creating it.
	request *http.Request
	err     error
	key     string // the idempotency key, if any
	// once forbids a second try if the first may have been applied.
	once bool
	// reads is set if the call changes nothing.
	reads bool
	// unbounded disables the timeout of a try.
	unbounded bool
	// begin is called before each try. Optional.
	begin func()
	// consume reads the body of a success. The default decodes it.
	consume func(io.Reader) error
}

// anyReplica is the address of requests before a try, which adds a replica's.
const anyReplica = "/"

// with returns the call with its request.
func (c call) with(request *http.Request, err error) call {
	c.request, c.err = request, err
	return c
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

// fetch makes the call, and returns the decoded answer.
func fetch[T any](ctx context.Context, c *Client, call call) (value T, err error) {
	_, err = c.do(ctx, call, &value)
	return value, err
}

// answer is what a call needs of a success besides its body.
type answer struct {
	status int
	header http.Header
}

// do makes the call, and decodes the answer into out, unless out is nil. The error contains a Problem or a GaveUp, or is about the arguments.
func (c *Client) do(ctx context.Context, call call, out any) (answer, error) {
	if call.consume == nil {
		call.consume = func(body io.Reader) error {
			text, err := readAll(body)
			if err != nil || out == nil {
				return err
			}
			if err := json.Unmarshal(text, out); err != nil {
				return fmt.Errorf("decode the answer: %w", err)
			}
			return nil
		}
	}
	got, err := c.retry(ctx, call)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", call.what, err)
	}
	return got, nil
}

// retry tries until it has an answer that another try would not change.
func (c *Client) retry(ctx context.Context, call call) (answer, error) {
	if err := cmp.Or(call.err, context.Cause(ctx)); err != nil {
		return answer{}, err
	}
	waits := sleep.Backoff{Min: firstWait, Max: maxWait}
	gaveUp := &GaveUp{Key: call.key}
	for {
		gaveUp.Tries++
		current := c.current.Load()
		got, err := c.try(ctx, call, c.replicas[current%uint64(len(c.replicas))])
		if err == nil {
			return got, nil
		}
		gaveUp.Err = err
		outcome := outcomeOf(err)
		gaveUp.Unknown = gaveUp.Unknown || !call.reads && (outcome == maybeApplied || outcome == failed)
		last := outcome == refused || outcome == failed || call.once && outcome == maybeApplied
		if last && outcome != maybeApplied && (!gaveUp.Unknown || decides(err)) {
			return answer{}, err
		}
		var wait time.Duration
		if !last {
			wait, last = c.nextTry(ctx, err, current, gaveUp.Tries)
		}
		if wait == 0 {
			wait = waits.Next()
		}
		if last || gaveUp.Tries >= c.maxTries || sleep.For(ctx, wait) != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
				gaveUp.Err = fmt.Errorf("%w; last try: %w", cause, err)
			}
			return answer{}, gaveUp
		}
	}
}

// nextTry switches to the next replica. It returns the wait that the service asked for,
// if any, and whether the try was the last one, because the call has no time for it.
func (c *Client) nextTry(ctx context.Context, err error, current uint64, tries int) (wait time.Duration, last bool) {
	problem, answered := errors.AsType[*Problem](err)
	if !answered || problem.Status != http.StatusTooManyRequests {
		c.current.CompareAndSwap(current, current+1) // unless another call did
		if tries < len(c.replicas) {
			return 0, false // the next replica has not asked for a wait
		}
	}
	if !answered || problem.RetryAfter == 0 {
		return 0, false
	}
	// Spread clients that got the same Retry-After.
	wait = problem.RetryAfter + rand.N(problem.RetryAfter/4+1)
	deadline, bounded := ctx.Deadline()
	return wait, wait > maxRetryAfter || bounded && time.Until(deadline) < wait
}

// try sends one request and reads its answer.
func (c *Client) try(ctx context.Context, call call, replica *url.URL) (got answer, err error) {
	if !call.unbounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.tryTimeout)
		defer cancel()
	}
	if call.begin != nil {
		call.begin()
	}
	request := call.request.Clone(ctx)
	request.URL = replica.JoinPath(request.URL.EscapedPath())
	request.URL.RawQuery = call.request.URL.RawQuery
	if c.token != nil {
		token, err := c.token(ctx)
		if err != nil {
			return got, fmt.Errorf("token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if request.GetBody != nil {
		if request.Body, err = request.GetBody(); err != nil {
			return got, err
		}
	}
	response, err := c.http.Do(request)
	if err != nil {
		return got, err
	}
	defer response.Body.Close()
	if response.StatusCode < http.StatusMultipleChoices {
		return answer{response.StatusCode, response.Header}, call.consume(response.Body)
	}
	body, err := readAll(response.Body)
	if err != nil {
		return got, err
	}
	return got, problemOf(response.StatusCode, response.Header, body)
}

var errIncomplete = errors.New("the answer is incomplete")

func readAll(body io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		err = fmt.Errorf("%w: %w", errIncomplete, err)
	}
	return text, err
}

// outcome is what an error says about its try.
type outcome int

const (
	// refused: another try would get the same answer.
	refused outcome = iota
	// failed: as refused, but the service may have failed after the commit.
	failed
	// notApplied: the try changed nothing, and may be repeated.
	notApplied
	// maybeApplied: the try may have been applied.
	maybeApplied
)

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
		case problem.Status == http.StatusInternalServerError:
			return failed
		}
		return refused
	}
	if _, sent := errors.AsType[*url.Error](err); !sent && !errors.Is(err, errIncomplete) {
		return refused // no request was sent
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return notApplied
	}
	return maybeApplied
}
