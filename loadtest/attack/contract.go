package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"
)

// The page that says what a service must answer, in any language, to be judged.
const contract = "docs/contract.md"

// maxShown bounds how much of an answer an error shows.
const maxShown = 200

// ErrNoList means that the service does not list the orders of a SKU.
var ErrNoList = errors.New("the service does not list the orders of a SKU")

// ListedOrder is an order in the list of a SKU's orders.
type ListedOrder struct {
	ID       AnyID  `json:"id"`
	Customer string `json:"customer"`
	// Key is "" if the service does not show it.
	Key      string `json:"idempotency_key"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
	Status   string `json:"status"`
}

// AnyID is the id of an order. If a service uses other strings or numbers than UUIDs, it is
// a hash of the id.
type AnyID uuid.UUID

// UnmarshalJSON decodes a string, a number or null.
func (id *AnyID) UnmarshalJSON(text []byte) error {
	name := strings.Trim(string(text), `"`)
	switch {
	case name == "" || name == "null":
		return nil
	case bytes.ContainsAny(text[:1], "{[tf"):
		return fmt.Errorf("the id %s is neither a string nor a number", text)
	}
	parsed, err := uuid.Parse(name)
	if err != nil {
		parsed = uuid.NewSHA1(uuid.Nil, []byte(name))
	}
	*id = AnyID(parsed)
	return nil
}

// Orders lists all orders of a SKU, page by page. It returns ErrNoList if the service does
// not offer that.
func (s *Service) Orders(ctx context.Context, sku string) ([]ListedOrder, error) {
	all := []ListedOrder{}
	query := url.Values{"sku": {sku}, "limit": {"200"}}
	for {
		var page struct {
			Items []ListedOrder `json:"items"`
			Next  string        `json:"next_cursor"`
		}
		path := "/v1/admin/orders?" + query.Encode()
		status, err := s.call(ctx, http.MethodGet, path, s.AdminToken, nil, &page)
		if notOffered(status, err) {
			return nil, fmt.Errorf("%w: %w", ErrNoList, err)
		}
		if err == nil && page.Items == nil {
			err = fmt.Errorf("GET %s: the answer has no items", s.URL+path)
		}
		if err != nil {
			return nil, err
		}
		if all = append(all, page.Items...); page.Next == "" {
			return all, nil
		}
		if len(page.Items) == 0 || page.Next == query.Get("cursor") || len(all) > maxRequests {
			return nil, fmt.Errorf("GET %s: the list does not end: after %d orders the next_cursor is %q", s.URL+path, len(all), page.Next)
		}
		query.Set("cursor", page.Next)
	}
}

// notOffered reports whether the service has no such call.
func notOffered(status int, err error) bool {
	return !errors.Is(err, ErrNotFound) &&
		(status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented)
}

// Conforms makes each call of docs/contract.md, and compares the answers with it. trial has
// one SKU, of which one unit is on sale, and two buyers. The error names the first call with
// another answer. listed is false if the service does not list orders.
func (s *Service) Conforms(ctx context.Context, trial *Plan) (listed bool, err error) {
	sku, buyer, next := trial.SKUs[0], trial.Order(0), trial.Order(1)
	deviates := func(call string, got *answer, wants string) error {
		return fmt.Errorf("--target %s: %s was answered %s; %s wants %s", s.URL, call, got.shown(), contract, wants)
	}
	path := "/v1/skus/" + sku
	got, err := s.ask(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return false, fmt.Errorf("--target %s: GET %s: %w", s.URL, path, err)
	}
	var stock struct {
		SKU              string
		Units, Available *int64
	}
	if err := json.Unmarshal(got.body, &stock); got.StatusCode != http.StatusOK || err != nil || stock.SKU != sku ||
		stock.Units == nil || *stock.Units != 1 || stock.Available == nil || *stock.Available != 1 {
		return false, deviates("GET "+path, got, fmt.Sprintf(`200 with {"sku":%q,"units":1,"available":1}, as it was put on sale`, sku))
	}
	const call = "POST /v1/orders "
	first, err := s.order(ctx, &buyer)
	if err != nil {
		return false, fmt.Errorf("--target %s: %s%w", s.URL, call, err)
	}
	id := orderID(first.body)
	if first.StatusCode != http.StatusCreated || id == uuid.Nil {
		return false, deviates(call+"for the only unit", first, "201 with the order's id")
	}
	second, err := s.order(ctx, &next)
	if err != nil {
		return false, fmt.Errorf("--target %s: %s%w", s.URL, call, err)
	}
	if OutcomeOf(second.StatusCode, slug(second.body)) != SoldOut {
		return false, deviates(call+"for a unit more than there are", second, `409 with {"type":"/errors/sold-out"}`)
	}
	orders, err := s.Orders(ctx, sku)
	switch {
	case errors.Is(err, ErrNoList):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("--target %s: %w", s.URL, err)
	}
	want := ListedOrder{ID: AnyID(id), Customer: buyer.Customer, Key: buyer.Key, SKU: sku, Quantity: 1, Status: "reserved"}
	if len(orders) == 1 && orders[0].Status == "paid" {
		want.Status = "paid"
	}
	if len(orders) == 1 && orders[0].Key == "" {
		want.Key = ""
	}
	if len(orders) != 1 || orders[0] != want {
		return false, fmt.Errorf("--target %s: GET /v1/admin/orders?sku=%s was answered with %s; %s wants only the accepted order, %s",
			s.URL, sku, describe(orders), contract, describe([]ListedOrder{want}))
	}
	return true, nil
}

// describe shows orders without their ids, which may be hashes.
func describe(orders []ListedOrder) string {
	var list []string
	for _, o := range orders {
		list = append(list, fmt.Sprintf("{customer %q, idempotency_key %q, sku %q, quantity %d, status %q}", o.Customer, o.Key, o.SKU, o.Quantity, o.Status))
	}
	return fmt.Sprintf("%d orders: ", len(orders)) + strings.Join(list[:min(len(list), maxExamples)], ", ")
}

// maxExamples is the number of orders that an error shows.
const maxExamples = 3

// order places an order as its customer.
func (s *Service) order(ctx context.Context, o *Order) (*answer, error) {
	body := map[string]any{"sku": o.SKU, "quantity": o.Quantity}
	return s.ask(ctx, http.MethodPost, "/v1/orders", Token(o.Customer, s.JWTSecret), body, "Idempotency-Key", o.Key)
}

// shown is the status and the beginning of the body, on one line.
func (a *answer) shown() string {
	if a.location != "" {
		return a.described()
	}
	body := strings.Join(strings.Fields(string(a.body[:min(len(a.body), maxShown)])), " ")
	return strings.TrimSpace(a.Status + " " + body)
}
