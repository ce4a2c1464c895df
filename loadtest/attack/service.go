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
	"strings"
	"time"

	"github.com/google/uuid"
)

// serviceTimeout bounds one call outside the attack. It is longer than the
// service's own bound, which gives the better reason.
const serviceTimeout = 10 * time.Second

// Service is what the harness asks a replica for before and after an attack. It
// is safe for concurrent use.
type Service struct {
	// URL is the replica's.
	URL string
	// AdminToken is sent with what an administrator may do.
	AdminToken string
	// JWTSecret signs the tokens of the customers that are impersonated.
	JWTSecret string
	// Client is one for a few calls at a time if nil.
	Client *http.Client
}

// Stock is a SKU's, as the service shows it.
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

// ErrNotFound says that there is no such order or SKU. It is the service's own
// word: the 404 of another program is an error like any other.
var ErrNotFound = errors.New("not found")

// PutOnSale creates a SKU with so many units. One that exists already is an
// error: its units would not be those.
func (s *Service) PutOnSale(ctx context.Context, sku string, units int64) error {
	body := map[string]any{"name": "Load test " + sku, "price_cents": 1000, "currency": "EUR", "units": units}
	status, err := s.call(ctx, http.MethodPut, "/v1/admin/skus/"+url.PathEscape(sku), s.AdminToken, body, nil)
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		err = fmt.Errorf("is --admin-token the service's? %w", err)
	case err == nil && status != http.StatusCreated:
		err = errors.New("it exists already (another --seed makes another name)")
	}
	if err != nil {
		return fmt.Errorf("put %s on sale: %w", sku, err)
	}
	return nil
}

// Stock reads a SKU's stock.
func (s *Service) Stock(ctx context.Context, sku string) (Stock, error) {
	var stock Stock
	_, err := s.call(ctx, http.MethodGet, "/v1/skus/"+url.PathEscape(sku), "", nil, &stock)
	return stock, err
}

// Holder is the replica that holds a SKU's lock, or "" where none does.
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

// Order reads an order back as its customer, or returns ErrNotFound.
func (s *Service) Order(ctx context.Context, id uuid.UUID, customer string) (PlacedOrder, error) {
	var order PlacedOrder
	token, err := Token(customer, s.JWTSecret)
	if err != nil {
		return order, err
	}
	_, err = s.call(ctx, http.MethodGet, "/v1/orders/"+id.String(), token, nil, &order)
	return order, err
}

// call returns the status of an answer below 300, and puts its body into out.
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

// answer is the answer to one call, whatever it says.
type answer struct {
	*http.Response // its body has been read
	body           []byte
	problem        problem
	location       string // of a redirect, else ""
}

// ask sends one call and reads its answer.
func (s *Service) ask(ctx context.Context, method, path, token string, in any) (*answer, error) {
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
	if got.body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes)); err != nil {
		return nil, unreachable(ctx, req.URL, sent, err)
	}
	if to, err := res.Location(); err == nil && res.StatusCode < http.StatusBadRequest {
		got.location = to.String()
	}
	if json.Unmarshal(got.body, &got.problem) != nil {
		got.problem = problem{}
	}
	return got, nil
}

// shared is what Services without a Client call by.
var shared = NewClient(16)

// problem is what an error of the service's says of itself.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// ours says whether it is the service's own, or none, or another program's.
func (p *problem) ours() bool { return strings.Contains(p.Type, "/errors/") }

// is compares the end of the type, as slug does.
func (p *problem) is(slug string) bool { return strings.HasSuffix(p.Type, "/errors/"+slug) }

// described is the status, and what the answer says of itself: where a redirect
// points, the problem, or what else it is.
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
