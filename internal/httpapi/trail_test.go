package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"flashsale/internal/httpapi"
	"flashsale/internal/limit"
	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/telemetry"
)

// journal is a log that tests read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

// admin returns the lines about administrators' calls.
func (j *journal) admin(t *testing.T) (lines []map[string]any) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.buf.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		if fields["msg"] == "admin call" {
			lines = append(lines, fields)
		}
	}
	return lines
}

func newLoggedServer(t *testing.T, guesses limit.Limit) (*server, *journal) {
	t.Helper()
	j := new(journal)
	return newServerWith(t, func(cfg *httpapi.Config) {
		cfg.Logger = slog.New(telemetry.Logged(slog.NewJSONHandler(j, nil)))
		cfg.Limits.Set(limit.AdminGuesses, guesses)
		cfg.TrustedProxies = []string{"127.0.0.1"}
	}), j
}

func TestGuessesOfTheAdminTokenAreLimitedByAddress(t *testing.T) {
	t.Parallel()
	const guesses = 10
	s, _ := newLoggedServer(t, limit.Limit{Requests: guesses, Window: 24 * time.Hour})
	from := func(address, bearer string) response {
		headers := []string{"X-Forwarded-For", address}
		if bearer != "" {
			headers = append(headers, "Authorization", "Bearer "+bearer)
		}
		return s.call("GET", "/v1/admin/late-payments", "", headers...)
	}
	const guesser, operator = "2001:db8::1", "192.0.2.7"
	// None of these is a guess.
	customer := sandboxtest.Token(t, secret, map[string]any{"sub": "ann"})
	expired := sandboxtest.Token(t, secret, map[string]any{"sub": "ann", "scope": "admin", "exp": 1})
	for range 2 * guesses {
		from(guesser, adminToken).check(t, 200, "", "")
		from(guesser, customer).check(t, 403, "forbidden", "")
		from(guesser, expired).check(t, 401, "unauthorized", "")
		from(guesser, "").check(t, 401, "unauthorized", "")
	}
	// Many at once, from several addresses of one network, count like one after the other.
	var mu sync.Mutex
	statuses := map[int]int{}
	var all sync.WaitGroup
	for i := range 5 * guesses {
		all.Go(func() {
			guess := fmt.Sprintf("%s%d", adminToken, i)
			if i%2 == 0 {
				guess = sandboxtest.Token(t, "another secret of the tests, which is long", map[string]any{"sub": "ann", "scope": "admin", "i": i})
			}
			got := from(fmt.Sprintf("2001:db8::%x", i+1), guess)
			mu.Lock()
			defer mu.Unlock()
			statuses[got.StatusCode]++
		})
	}
	all.Wait()
	if statuses[401] != guesses || statuses[429] != 4*guesses {
		t.Errorf("the guesses got %v, want %d times 401 and then 429", statuses, guesses)
	}
	// Now the right token gets 429, too: a refusal would confirm it.
	right, wrong := from(guesser, adminToken), from(guesser, adminToken+"x")
	for _, got := range []response{right, wrong} {
		got.check(t, 429, "too-many-requests", "")
		// A tenth of a day after the first guess, so less the time that the guesses took.
		if after, err := strconv.Atoi(got.Header.Get("Retry-After")); err != nil || after > 8640 || after < 8640-60 {
			t.Errorf("Retry-After is %q, want about a tenth of a day", got.Header.Get("Retry-After"))
		}
	}
	if right.text != wrong.text {
		t.Errorf("the right token is answered with %s, a wrong one with %s", right.text, wrong.text)
	}
	from(operator, adminToken).check(t, 200, "", "")
	// Customers are not affected.
	s.call("GET", "/v1/orders", "", "X-Forwarded-For", guesser, "Authorization", "Bearer "+customer).check(t, 200, "", "")
}

// Anyone can be refused, as often as they like: the log must not fill the disk. A call
// that changes something is never left out.
func TestRefusedAdminCallsDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	s, j := newLoggedServer(t, limit.Limit{})
	const calls = 300
	began := time.Now()
	for i := range calls {
		if i%2 == 0 { // a guess, which no limit bounds here
			s.call("GET", "/v1/admin/locks", "", "Authorization", "Bearer guess").check(t, 401, "unauthorized", "")
			continue
		}
		s.call("GET", "/v1/admin/locks", "").check(t, 401, "unauthorized", "")
	}
	s.call("PUT", "/v1/admin/skus/lamp", thing, "Authorization", "Bearer "+adminToken).check(t, 201, "", "")
	most := 50 + int(time.Since(began)/(100*time.Millisecond)) + 1
	lines := j.admin(t)
	if n := len(lines) - 1; n > most || n < 50 {
		t.Errorf("%d lines about %d refused calls, want 50 to %d", n, calls, most)
	}
	if last := lines[len(lines)-1]; last["action"] != "putSKU" || last["status"] != float64(http.StatusCreated) {
		t.Errorf("the last line is %v, want that of the PUT", last)
	}
	// A refused call that is logged tells how many were not.
	made, told := calls, 0
	for deadline := time.Now().Add(30 * time.Second); told != made; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the lines tell of %d refused calls, want %d", told, made)
		}
		s.call("GET", "/v1/admin/locks", "").check(t, 401, "unauthorized", "")
		made, told = made+1, 0
		for _, line := range j.admin(t) {
			if line["status"] == float64(http.StatusUnauthorized) {
				unlogged, _ := line["unlogged"].(float64)
				told += 1 + int(unlogged)
			}
		}
	}
}

// A flood of calls without a token must not hide guesses of the admin token: each that is
// counted is in the log.
func TestEachCountedGuessIsLogged(t *testing.T) {
	t.Parallel()
	const guesses, flood = 10, 200
	s, j := newLoggedServer(t, limit.Limit{Requests: guesses, Window: 24 * time.Hour})
	for range flood {
		s.call("GET", "/v1/admin/locks", "", "X-Forwarded-For", "192.0.2.1").check(t, 401, "unauthorized", "")
	}
	for i := range guesses {
		s.call("GET", "/v1/admin/audit", "", "X-Forwarded-For", "192.0.2.2", "Authorization", fmt.Sprintf("Bearer guess%d", i)).check(t, 401, "unauthorized", "")
	}
	lines := 0
	for _, line := range j.admin(t) {
		if line["action"] != "audit" {
			continue
		}
		lines++
		if line["remote"] != "192.0.2.2" || line["reason"] == nil {
			t.Errorf("the line of a guess is %v, want its address and reason", line)
		}
	}
	if lines != guesses {
		t.Errorf("%d lines about %d guesses", lines, guesses)
	}
}

// failing applies changes of SKUs, and then fails.
type failing struct {
	httpapi.Orders
	fail func() error
}

func (f failing) PutSKU(ctx context.Context, want stock.Stock, only order.Precondition) (stock.Stock, bool, error) {
	if _, _, err := f.Orders.PutSKU(ctx, want, only); err != nil {
		return stock.Stock{}, false, err
	}
	return stock.Stock{}, false, f.fail()
}

// A call that fails after it was applied is in the log, with what was asked for.
func TestFailedAdminCallsAreLogged(t *testing.T) {
	t.Parallel()
	j := new(journal)
	var fail func() error
	s := newServerWith(t, func(cfg *httpapi.Config) {
		cfg.Logger = slog.New(telemetry.Logged(slog.NewJSONHandler(j, nil)))
		cfg.Orders = failing{cfg.Orders, func() error { return fail() }}
	})
	for i, test := range []struct {
		status int
		slug   string
		fail   func() error
	}{
		{504, "outcome-unknown", func() error { return order.ErrUnknown }},
		{500, "internal", func() error { panic("a fault of the test") }},
	} {
		fail = test.fail
		s.call("PUT", fmt.Sprintf("/v1/admin/skus/lamp-%d", i), thing, "Authorization", "Bearer "+adminToken).check(t, test.status, test.slug, "")
		lines := j.admin(t)
		if len(lines) != i+1 {
			t.Fatalf("%d lines after %d calls: %v", len(lines), i+1, lines)
		}
		line := lines[i]
		requested, _ := line["requested"].(map[string]any)
		if line["status"] != float64(test.status) || line["problem"] != test.slug || line["actor"] != "admin-token" || requested["units"] == nil {
			t.Errorf("got %v", line)
		}
		if after, _ := line["after"].(map[string]any); test.status == 504 && after["units"] != requested["units"] {
			t.Errorf("the change that was applied is missing: %v", line)
		}
	}
}
