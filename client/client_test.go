package client_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"flashsale/client"
)

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func TestCallsReturnTheServicesAnswers(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 3)
	ctx, ann, bob := t.Context(), s.as(t, "ann"), s.as(t, "bob")

	first, err := ann.Place(ctx, client.Purchase{SKU: sku, Quantity: 1, Key: `a "quoted" key \ and spaces `})
	if err != nil || first.Replayed || first.Order.Status != client.Reserved || first.Order.TotalCents != 999 || first.Replica != "replica-1" {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := ann.Place(ctx, client.Purchase{SKU: sku, Quantity: 1, Key: first.Key})
	if err != nil || !again.Replayed || again.Order != first.Order {
		t.Errorf("the same key: %+v, %v", again, err)
	}
	second, err := ann.Place(ctx, client.Purchase{SKU: sku, Quantity: 1})
	if err != nil || second.Key == "" || second.Order.ID == first.Order.ID {
		t.Errorf("a new key: %+v, %v", second, err)
	}
	if got, err := ann.Order(ctx, first.Order.ID); err != nil || got != first.Order {
		t.Errorf("read: %+v, %v", got, err)
	}
	for { // a SKU's stock lags behind its orders
		seen, _, err := bob.SKU(ctx, sku)
		if err != nil || seen.Available < 1 || seen.Units != 3 {
			t.Fatalf("%+v, %v", seen, err)
		}
		if seen.Available == 1 {
			break
		}
	}
	if got := s.reserved(t, sku); got != 2 {
		t.Errorf("%d units are reserved, want 2", got)
	}
}

func TestRefusalsAreKinds(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 2)
	ctx, ann := t.Context(), s.as(t, "ann")
	place := func(c *client.Client, p client.Purchase) error {
		_, err := c.Place(ctx, p)
		return err
	}
	if err := place(ann, client.Purchase{SKU: sku, Quantity: 1, Key: "k"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		err  error
		want client.Kind
	}{
		{"too many", place(ann, client.Purchase{SKU: sku, Quantity: 2}), client.ErrInsufficientStock},
		{"no SKU", place(ann, client.Purchase{SKU: "nope", Quantity: 1}), client.ErrUnknownSKU},
		{"quantity 0", place(ann, client.Purchase{SKU: sku}), client.ErrInvalidInput},
		{"another price", place(ann, client.Purchase{SKU: sku, Quantity: 1, PriceCents: new(int64(1))}), client.ErrPriceChanged},
		{"another currency", place(ann, client.Purchase{SKU: sku, Quantity: 1, Currency: "USD"}), client.ErrPriceChanged},
		{"another body", place(ann, client.Purchase{SKU: sku, Quantity: 2, Key: "k"}), client.ErrIdempotencyKeyReused},
		{"no token", place(s.with(t, client.Config{}), client.Purchase{SKU: sku, Quantity: 1}), client.ErrUnauthorized},
		{"no order", func() error { _, err := ann.Order(ctx, uuid.New()); return err }(), client.ErrUnknownOrder},
		{"no administrator", func() error { _, err := ann.Audit(ctx); return err }(), client.ErrForbidden},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, tt.err, tt.want)
		}
	}
	err := place(ann, client.Purchase{SKU: sku})
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok || problem.Status != http.StatusUnprocessableEntity || len(problem.Fields) != 1 || problem.Fields[0].Field != "quantity" {
		t.Errorf("%+v", problem)
	}
	if !strings.Contains(err.Error(), "quantity") || strings.Contains(err.Error(), "\n") {
		t.Errorf("the error is not one line that names the field: %v", err)
	}
}

func TestInvalidKeysAreRejectedLocally(t *testing.T) {
	c, err := client.New(client.Config{URLs: []string{"http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{strings.Repeat("k", 256), "a\nb", "é"} {
		_, err := c.Place(t.Context(), client.Purchase{SKU: "lamp", Quantity: 1, Key: key})
		if err == nil || !strings.Contains(err.Error(), "idempotency key") {
			t.Errorf("%.10q: %v", key, err)
		}
	}
}

func TestInvalidConfigurationIsAnError(t *testing.T) {
	for _, tt := range []struct {
		cfg  client.Config
		want string
	}{
		{client.Config{}, "URLs"},
		{client.Config{URLs: []string{"http://a", "shop.example"}}, "URLs[1]"},
		{client.Config{URLs: []string{"http://a"}, MaxTries: -1}, "MaxTries"},
		{client.Config{URLs: []string{"http://a"}, TryTimeout: -1}, "TryTimeout"},
	} {
		if _, err := client.New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.cfg, err)
		}
	}
}

func TestSKUsReadsAllPages(t *testing.T) {
	s := theShop(t)
	admin := s.administrator(t)
	var want []string
	for i := range 230 { // more than a page
		name := "sku-" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		if _, err := admin.PutSKU(t.Context(), name, lamp(1), client.Precondition{}); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	var got []string
	for sku, err := range s.with(t, client.Config{}).SKUs(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(sku.SKU, "sku-") {
			got = append(got, sku.SKU)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %d SKUs, want %d", len(got), len(want))
	}
	for _, err := range admin.SKUs(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		break // must stop reading
	}
}

// Later versions of the service may send events of further kinds.
func TestWatchSkipsUnknownEvents(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("event: weather\ndata: {\"sku\":[]}\n\nevent: stock\nid: 3\ndata: {\"sku\":\"lamp\",\"units\":5,\"available\":4,\"seq\":3}\n\n"))
	})
	c, err := client.New(client.Config{URLs: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	for event, err := range c.Watch(t.Context(), "lamp") {
		if err != nil || event.SKU != "lamp" || event.Available != 4 {
			t.Errorf("%+v, %v", event, err)
		}
		break
	}
}
