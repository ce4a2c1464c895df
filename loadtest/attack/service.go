package attack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sleep"
)

// serviceTimeout bounds one call outside of the attack. It is longer than the service's
// own timeout, which gives a better error.
const serviceTimeout = 10 * time.Second

// maxPageBytes bounds an answer outside of the attack. Services need not split lists.
const maxPageBytes = 16 << 20

// Service calls a replica before and after an attack. It is safe for concurrent use.
type Service struct {
	URL        string
	AdminToken string
	JWTSecret  string
	// Client is nil for a shared client with few connections.
	Client *http.Client
	// Patience bounds how long a call is repeated: on 429 and 503, by which a service says
	// that it did nothing, and for calls that may be made twice (GET and DELETE) also on other
	// 5xx and without an answer. 0 is no repetition.
	Patience time.Duration
}

// Stock is a SKU's stock, as the service shows it.
type Stock struct {
	SKU       string `json:"sku"`
	Units     int64  `json:"units"`
	Available int64  `json:"available"`
}

// PlacedOrder is an order as its customer reads it back.
type PlacedOrder struct {
	ID       uuid.UUID `json:"id"`
	SKU      string    `json:"sku"`
	Quantity int       `json:"quantity"`
	Status   string    `json:"status"`
}

// ErrNotFound means that the service itself reports no such order or SKU. A 404 of
// another program is a different error.
var ErrNotFound = errors.New("not found")

// ErrNoWithdrawal means that the service has no call to withdraw a SKU.
var ErrNoWithdrawal = errors.New("the service cannot withdraw a SKU")

// NotCreatedError is an error of PutOnSale after an answer that says that the call did not
// create the SKU. After any other error, the SKU may be on sale.
type NotCreatedError struct{ err error }

func (e *NotCreatedError) Error() string { return e.err.Error() }
func (e *NotCreatedError) Unwrap() error { return e.err }

// PutOnSale creates a SKU with a number of units. It returns an error if the SKU exists.
func (s *Service) PutOnSale(ctx context.Context, sku string, units int64) error {
	return s.put(ctx, sku, map[string]any{"name": "Load test " + sku, "price_cents": 1000, "currency": "EUR", "units": units})
}

// PutOnSaleForPeople is PutOnSale with a limit for each customer and the strict hold policy.
func (s *Service) PutOnSaleForPeople(ctx context.Context, sku string, units int64, limit int) error {
	return s.put(ctx, sku, map[string]any{"name": "Load test " + sku, "price_cents": 1000, "currency": "EUR", "units": units,
		"per_customer_limit": limit, "hold_policy": "strict"})
}

func (s *Service) put(ctx context.Context, sku string, body map[string]any) error {
	got, err := s.repeat(ctx, http.MethodPut, "/v1/admin/skus/"+url.PathEscape(sku), s.AdminToken, body)
	if err != nil {
		return fmt.Errorf("put %s on sale: %w", sku, err)
	}
	err = got.decode(nil)
	switch {
	case got.StatusCode == http.StatusUnauthorized || got.StatusCode == http.StatusForbidden:
		err = fmt.Errorf("check --admin-token: %w", err)
	case err == nil && got.StatusCode != http.StatusCreated:
		err = errors.New("the SKU exists already; another --seed gives another name")
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("put %s on sale: %w", sku, err)
	if got.unsure || got.StatusCode >= http.StatusInternalServerError || got.StatusCode == http.StatusRequestTimeout {
		return err
	}
	return &NotCreatedError{err}
}

// Answers reports whether the replica gives any answer but a 5xx.
func (s *Service) Answers(ctx context.Context) bool {
	got, err := s.ask(ctx, http.MethodGet, "/readyz", "", nil)
	return err == nil && got.StatusCode < http.StatusInternalServerError
}

// Withdraw takes a SKU off sale, if it is there. It returns ErrNoWithdrawal if the service
// does not offer that.
func (s *Service) Withdraw(ctx context.Context, sku string) error {
	status, err := s.call(ctx, http.MethodDelete, "/v1/admin/skus/"+url.PathEscape(sku), s.AdminToken, nil, nil)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case notOffered(status, err):
		return fmt.Errorf("%w: %w", ErrNoWithdrawal, err)
	case err != nil:
		return fmt.Errorf("withdraw %s: %w", sku, err)
	}
	return nil
}

// Stock returns a SKU's stock.
func (s *Service) Stock(ctx context.Context, sku string) (Stock, error) {
	var stock Stock
	_, err := s.call(ctx, http.MethodGet, "/v1/skus/"+url.PathEscape(sku), "", nil, &stock)
	return stock, err
}

// Holder returns the replica that holds a SKU's lock, or "" if none does.
func (s *Service) Holder(ctx context.Context, sku string) (replica string, err error) {
	var list struct {
		Locks []struct {
			SKU     string `json:"sku"`
			Replica string `json:"replica"`
		} `json:"locks"`
	}
	if _, err := s.call(ctx, http.MethodGet, "/v1/admin/locks", s.AdminToken, nil, &list); err != nil {
		return "", err
	}
	for _, held := range list.Locks {
		if held.SKU == sku {
			return held.Replica, nil
		}
	}
	return "", nil
}

// Order reads an order as its customer. It returns ErrNotFound if there is none.
func (s *Service) Order(ctx context.Context, id uuid.UUID, customer string) (PlacedOrder, error) {
	var order PlacedOrder
	_, err := s.call(ctx, http.MethodGet, "/v1/orders/"+id.String(), Token(customer, s.JWTSecret), nil, &order)
	return order, err
}

// Pay pays an order as its customer. It returns the answer's status and, unless that is
// 200, the slug of its problem.
func (s *Service) Pay(ctx context.Context, id uuid.UUID, customer string) (status int, slug string, err error) {
	got, err := s.ask(ctx, http.MethodPost, "/v1/orders/"+id.String()+"/payment", Token(customer, s.JWTSecret), map[string]string{"reference": "payment of " + id.String()})
	if err != nil {
		return 0, "", err
	}
	return got.StatusCode, path.Base(got.problem.Type), nil
}

// call returns the status of an answer below 300 and decodes its body into out.
func (s *Service) call(ctx context.Context, method, path, token string, in, out any) (int, error) {
	got, err := s.repeat(ctx, method, path, token, in)
	if err != nil {
		return 0, err
	}
	return got.StatusCode, got.decode(out)
}

// decode decodes the body of an answer below 300 into out, unless that is nil. Of another
// answer it returns an error.
func (a *answer) decode(out any) error {
	call := a.Request.Method + " " + a.Request.URL.String()
	switch {
	case a.problem.is("unknown-order"), a.problem.is("unknown-sku"):
		return fmt.Errorf("%s: %w", call, ErrNotFound)
	case a.StatusCode >= http.StatusMultipleChoices:
		return fmt.Errorf("%s: %s", call, a.described())
	case out != nil:
		if err := json.Unmarshal(a.body, out); err != nil {
			return fmt.Errorf("%s: %w", call, err)
		}
	}
	return nil
}

// pauses are between the repetitions of a call. The first is short: a request limit often
// has room again at once.
var pauses = sleep.Backoff{Min: 50 * time.Millisecond, Max: 2 * time.Second}

// repeat makes a call, again and again while Patience allows it. It waits for Retry-After,
// if that is longer than its own pause. It returns the last answer or error.
func (s *Service) repeat(ctx context.Context, method, path, token string, in any) (*answer, error) {
	ends := time.Now().Add(s.Patience)
	pause, unsure := pauses, false
	for {
		got, err := s.ask(ctx, method, path, token, in)
		if err != nil {
			err = fmt.Errorf("%s %s: %w", method, s.URL+path, err)
		} else {
			got.unsure = unsure
		}
		if !repeatable(method, got) {
			return got, err
		}
		wait := pause.Next()
		if got != nil {
			wait = max(wait, got.retryAfter())
		}
		// Cut short, a wait for Retry-After would only end in the next refusal.
		if time.Now().Add(wait).After(ends) || sleep.For(ctx, wait) != nil {
			return got, err
		}
		unsure = unsure || got == nil || got.StatusCode >= http.StatusInternalServerError
	}
}

// repeatable reports whether a call may be made again after an answer, or without one.
func repeatable(method string, got *answer) bool {
	twice := method == http.MethodGet || method == http.MethodDelete
	if got == nil {
		return twice
	}
	switch got.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true
	case http.StatusNotImplemented:
		return false
	}
	return twice && got.StatusCode >= http.StatusInternalServerError
}

// retryAfter returns 0 if the answer does not name seconds.
func (a *answer) retryAfter() time.Duration {
	seconds, err := strconv.ParseUint(a.Header.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

type answer struct {
	*http.Response // its body has been read
	body           []byte
	problem        problem
	location       string // of a redirect, else ""
	// unsure: an earlier attempt of the same call may have been carried out.
	unsure bool
}

// ask makes a call. header is names, each with its value.
func (s *Service) ask(ctx context.Context, method, path, token string, in any, header ...string) (*answer, error) {
	asked, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(asked, method, strings.TrimSuffix(s.URL, "/")+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	client := s.Client
	if client == nil {
		client = shared
	}
	sent := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return nil, unreachable(ctx, req.URL, sent, err)
	}
	defer res.Body.Close()
	got := &answer{Response: res}
	if got.body, err = io.ReadAll(io.LimitReader(res.Body, maxPageBytes)); err != nil {
		return nil, unreachable(ctx, req.URL, sent, err)
	}
	if len(got.body) == maxPageBytes {
		return nil, fmt.Errorf("the answer has %d bytes or more; return fewer items, and a next_cursor", maxPageBytes)
	}
	if to, err := res.Location(); err == nil && res.StatusCode < http.StatusBadRequest {
		got.location = to.String()
	}
	if json.Unmarshal(got.body, &got.problem) != nil {
		got.problem = problem{}
	}
	return got, nil
}

var shared = NewClient(16)

type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// ours reports whether the problem is the service's own.
func (p *problem) ours() bool { return strings.Contains(p.Type, "/errors/") }

// is compares the end of the type, as slug does.
func (p *problem) is(slug string) bool { return strings.HasSuffix(p.Type, "/errors/"+slug) }

// described returns the status with the target of a redirect, the text of the problem, or
// the content type.
func (a *answer) described() string {
	kind, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type"))
	switch {
	case a.location != "":
		return a.Status + " to " + a.location
	case a.problem.ours():
		return a.Status + ": " + strings.TrimSuffix(cmp.Or(a.problem.Detail, a.problem.Title), ".")
	case kind != "":
		return a.Status + " (" + kind + ")"
	}
	return a.Status
}
