package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	// Client is net/http's default if nil.
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

// ErrNotFound says that the service answered 404.
var ErrNotFound = errors.New("not found")

// PutOnSale creates a SKU with so many units. One that exists already is an
// error: its units would not be those.
func (s *Service) PutOnSale(ctx context.Context, sku string, units int64) error {
	body := map[string]any{"name": "Load test " + sku, "price_cents": 1000, "currency": "EUR", "units": units}
	status, err := s.call(ctx, http.MethodPut, "/v1/admin/skus/"+url.PathEscape(sku), s.AdminToken, body, nil)
	if err == nil && status != http.StatusCreated {
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
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	var body io.Reader = http.NoBody
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.URL, "/")+path, body)
	if err != nil {
		return 0, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := s.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", method, req.URL, err)
	}
	switch {
	case res.StatusCode == http.StatusNotFound:
		return res.StatusCode, fmt.Errorf("%s %s: %w", method, req.URL, ErrNotFound)
	case res.StatusCode >= 300:
		return res.StatusCode, fmt.Errorf("%s %s: %s%s", method, req.URL, res.Status, explanation(text))
	case out != nil:
		if err := json.Unmarshal(text, out); err != nil {
			return res.StatusCode, fmt.Errorf("%s %s: %w", method, req.URL, err)
		}
	}
	return res.StatusCode, nil
}

// explanation is what a problem says of itself, after a colon.
func explanation(body []byte) string {
	var problem struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &problem) != nil {
		return ""
	}
	if problem.Detail != "" {
		return ": " + problem.Detail
	}
	if problem.Title != "" {
		return ": " + problem.Title
	}
	return ""
}
