package history

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/loadtest/attack"
)

// Kind is what a call asks for.
type Kind string

// The kinds.
const (
	Order        Kind = "order"
	Payment      Kind = "payment"
	Cancellation Kind = "cancellation"
	Restock      Kind = "restock"
	Read         Kind = "read" // of an order
)

// ask is what a caller wants. It is sent again, unchanged, until it is answered.
type ask struct {
	kind Kind
	// customer and key identify an order and, with an empty customer, a restock.
	customer, key string
	// quantity is that of an order, or the units of a restock.
	quantity int
	// order is the id of the order to pay, cancel or read.
	order uuid.UUID
}

// call is one request with its answer. Times count from the start of the traffic, on the
// monotonic clock.
type call struct {
	ask
	replica      int
	began, ended time.Duration
	attack.Answer
	// shown is the order's status in a 200.
	shown string
}

// ambiguous reports whether the call may have been applied.
func (c *call) ambiguous() bool { return c.Outcome == attack.Ambiguous }

// unapplied reports whether the service promises that the call changed nothing, and asks
// for it again.
func (c *call) unapplied() bool {
	return c.Status == http.StatusServiceUnavailable || c.Status == http.StatusTooManyRequests ||
		c.Status == http.StatusConflict && c.Reason == "request-in-flight"
}

// String describes the call for people.
func (c *call) String() string {
	var asked string
	switch c.kind {
	case Order:
		asked = fmt.Sprintf("%s orders %d with key %s", c.customer, c.quantity, c.key)
	case Restock:
		asked = fmt.Sprintf("restock of %d with key %s", c.quantity, c.key)
	default:
		asked = fmt.Sprintf("%s of order %s", c.kind, c.order)
	}
	answered := strings.TrimSpace(fmt.Sprint(c.Status, " ", c.Reason, " ", c.shown))
	switch {
	case c.Status == 0:
		answered = c.Reason
	case c.Status == http.StatusCreated && c.Replayed:
		answered = "201, replayed, " + c.OrderID.String()
	case c.Status == http.StatusCreated:
		answered = "201, " + c.OrderID.String()
	}
	return fmt.Sprintf("%s at replica %d, %.6f-%.6f s: %s", asked, c.replica+1, c.began.Seconds(), c.ended.Seconds(), answered)
}

// request builds the HTTP request of an ask for a SKU.
func (a *ask) request(ctx context.Context, base, sku, token string) (*http.Request, error) {
	method, path, body := http.MethodPost, "/v1/orders", ""
	switch a.kind {
	case Order:
		body = `{"sku":"` + sku + `","quantity":` + strconv.Itoa(a.quantity) + `}`
	case Restock:
		path, body = "/v1/admin/skus/"+sku+"/restocks", `{"units":`+strconv.Itoa(a.quantity)+`}`
	case Payment: // always with one reference, so that a repeated payment gets the first answer
		path, body = "/v1/orders/"+a.order.String()+"/payment", `{"reference":"payment of `+a.order.String()+`"}`
	case Cancellation:
		path = "/v1/orders/" + a.order.String() + "/cancellation"
	case Read:
		method, path = http.MethodGet, "/v1/orders/"+a.order.String()
	}
	return newRequest(ctx, method, base+path, token, a.key, body)
}

func newRequest(ctx context.Context, method, url, token, key, body string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	// With GetBody, net/http would repeat a request with an Idempotency-Key after the
	// connection breaks: a call that nobody has recorded. It still repeats reads, which
	// change nothing.
	req.GetBody = nil
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	return req, nil
}

const maxAnswer = 64 << 10

// exchange sends a request and reads the answer. shown is the status of an order in a 200.
func exchange(client *http.Client, req *http.Request) (a attack.Answer, shown string) {
	res, err := client.Do(req)
	if err != nil {
		return attack.NoAnswer(err.Error()), ""
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return attack.NoAnswer(err.Error()), ""
	}
	a = attack.ReadAnswer(res.StatusCode, res.Header, body)
	if res.StatusCode == http.StatusOK {
		var order attack.PlacedOrder
		_ = json.Unmarshal(body, &order) // a body without a status is an answer that the model refuses
		a.Reason, shown = "", order.Status
	}
	return a, shown
}
