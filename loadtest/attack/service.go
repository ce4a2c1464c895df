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
	"strings"
	"time"

	"github.com/google/uuid"
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
	status, err := s.call(ctx, http.MethodPut, "/v1/admin/skus/"+url.PathEscape(sku), s.AdminToken, body, nil)
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		err = fmt.Errorf("check --admin-token: %w", err)
	case err == nil && status != http.StatusCreated:
		err = errors.New("the SKU exists already; another --seed gives another name")
	}
	if err != nil {
		return fmt.Errorf("put %s on sale: %w", sku, err)
	}
	return nil
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
	got, err := s.ask(ctx, method, path, token, in)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", method, s.URL+path, err)
	}
	switch {
	case got.problem.is("unknown-order"), got.problem.is("unknown-sku"):
		return got.StatusCode, fmt.Errorf("%s %s: %w", method, got.Request.URL, ErrNotFound)
	case got.StatusCode >= http.StatusMultipleChoices:
		return got.StatusCode, fmt.Errorf("%s %s: %s", method, got.Request.URL, got.described())
	case out != nil:
		if err := json.Unmarshal(got.body, out); err != nil {
			return got.StatusCode, fmt.Errorf("%s %s: %w", method, got.Request.URL, err)
		}
	}
	return got.StatusCode, nil
}

type answer struct {
	*http.Response // its body has been read
	body           []byte
	problem        problem
	location       string // of a redirect, else ""
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
