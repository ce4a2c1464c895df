package httpapi

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/order"
)

// provocation is what the test mode does with an order whose key is name, or begins
// with name and a hyphen. docs/api.md has the table for storefront developers.
type provocation struct {
	name string
	err  error
	// times is how many tries of a customer's key get err, without an order. 0 means
	// that the try which creates the order gets err.
	times int
	// slow delays the answer of the try which creates the order, or is refused.
	slow time.Duration
}

var provocations = []provocation{
	{name: "test-429", err: kindTooMany.problem(""), times: 1},
	{name: "test-503", err: order.ErrUnavailable, times: 2},
	{name: "test-504-applied", err: order.ErrUnknown},
	{name: "test-504-not-applied", err: order.ErrUnknown, times: 1},
	{name: "test-in-flight", err: order.ErrInFlight, times: 1},
	{name: "test-slow-3s", slow: 3 * time.Second},
	// Longer than the default of --request-timeout, shorter than the server's WriteTimeout.
	{name: "test-slow-8s", slow: 8 * time.Second},
}

// maxTries bounds the keys that are remembered, to about 1 MiB. At the bound, all are
// forgotten: their next tries are provoked again.
const maxTries = 2000

// tries counts the provoked tries of customers' keys. The zero value is empty.
type tries struct {
	mu   sync.Mutex
	seen map[[2]string]int
}

// next counts a try, unless max tries were counted before.
func (t *tries) next(customer, key string, max int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := [2]string{customer, key}
	if t.seen[id] >= max {
		return false
	}
	if t.seen == nil || len(t.seen) >= maxTries && t.seen[id] == 0 {
		t.seen = map[[2]string]int{}
	}
	t.seen[id]++
	return true
}

// place places an order. In the test mode, it provokes what a reserved key asks for.
func (a *api) place(ctx context.Context, c *gin.Context, r order.Request) (order.Placed, error) {
	if a.cfg.TestMode {
		for _, p := range provocations {
			if r.Key == p.name || strings.HasPrefix(r.Key, p.name+"-") {
				return a.provoke(ctx, c, r, p)
			}
		}
	}
	return a.cfg.Orders.Place(ctx, r)
}

func (a *api) provoke(ctx context.Context, c *gin.Context, r order.Request, p provocation) (order.Placed, error) {
	if p.times > 0 && a.tries.next(r.Customer, r.Key, p.times) {
		return order.Placed{}, p.fail(c)
	}
	placed, err := a.cfg.Orders.Place(ctx, r)
	switch {
	case placed.Replayed || p.times > 0: // the usual answer
	case p.slow > 0:
		c.Header(testHeader, p.name)
		select {
		case <-time.After(p.slow):
		case <-ctx.Done():
		case <-a.cfg.Draining:
		}
	case err == nil:
		return placed, p.fail(c)
	}
	return placed, err
}

// testHeader marks provoked answers.
const testHeader = "X-Flashsale-Test"

// fail returns p's error, and marks the answer.
func (p *provocation) fail(c *gin.Context) error {
	c.Header(testHeader, p.name)
	if problemOf(p.err).Status == http.StatusTooManyRequests {
		c.Header("Retry-After", "1") // second, as fail sets for 503 and 504
	}
	return p.err
}
