package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"flashsale/internal/httpapi"
)

const oneLamp = `{"sku":"lamp","quantity":1}`

func newTestMode(t *testing.T) *server {
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.TestMode = true })
	s.putSKU("lamp", `{"name":"A lamp","price_cents":999,"currency":"EUR","units":100}`).check(t, http.StatusCreated, "", "")
	return s
}

// A storefront that retries with the same key gets its order, and one only.
func TestReservedKeysProvokeAnswers(t *testing.T) {
	t.Parallel()
	s := newTestMode(t)
	for _, test := range []struct {
		key     string
		status  int
		slug    string
		times   int
		applied bool
	}{
		{"test-429", http.StatusTooManyRequests, "too-many-requests", 1, false},
		{"test-503", http.StatusServiceUnavailable, "unavailable", 2, false},
		{"test-504-applied", http.StatusGatewayTimeout, "outcome-unknown", 1, true},
		{"test-504-not-applied", http.StatusGatewayTimeout, "outcome-unknown", 1, false},
		{"test-in-flight", http.StatusConflict, "request-in-flight", 1, false},
	} {
		// The key alone, one with a suffix, and the quoted form; each customer has their own.
		for _, key := range []string{test.key, test.key + "-1", `"` + test.key + `-2"`} {
			for _, name := range []string{"ann", "ben"} {
				name += strings.Trim(key, `"`) // customers whose only order is this one
				for range test.times {
					got := s.order(customer(t, name), key, oneLamp)
					got.check(t, test.status, test.slug, "")
					if got.Header.Get("X-Flashsale-Test") != test.key || (got.Header.Get("Retry-After") == "") != (test.status == http.StatusConflict) {
						t.Errorf("%s: headers %v", key, got.Header)
					}
				}
				list := s.as(customer(t, name), "GET", "/v1/orders", "")
				if orders := len(list.body["items"].([]any)); (orders == 1) != test.applied || orders > 1 {
					t.Errorf("%s: %d orders, want an order: %v", key, orders, test.applied)
				}
				got := s.order(customer(t, name), key, oneLamp)
				got.check(t, http.StatusCreated, "", "")
				if got.Header.Get("X-Flashsale-Test") != "" || (got.Header.Get("Idempotent-Replayed") == "true") != test.applied {
					t.Errorf("%s: the usual answer has headers %v", key, got.Header)
				}
				again := s.order(customer(t, name), key, oneLamp)
				again.check(t, http.StatusCreated, "", "")
				if again.Header.Get("Idempotent-Replayed") != "true" || again.text != got.text {
					t.Errorf("%s: a further try got %s, want a replay of %s", key, again.text, got.text)
				}
			}
		}
	}
}

// Only an order that is valid and would be made is provoked to be applied.
func TestProvokedOrdersAreChecked(t *testing.T) {
	t.Parallel()
	s := newTestMode(t)
	s.order(customer(t, "ann"), "test-503", `{"sku":"lamp","quantity":0}`).check(t, http.StatusUnprocessableEntity, "invalid-input", "quantity")
	s.order(customer(t, "ann"), "test-504-applied", `{"sku":"lamp","quantity":101}`).check(t, http.StatusConflict, "insufficient-stock", "")
	for _, key := range []string{"test", "test-5034", "test-504", "a-test-503", "test-slow", "TEST-503"} {
		s.order(customer(t, "ann"), key, oneLamp).check(t, http.StatusCreated, "", "")
	}
}

func TestSlowAnswers(t *testing.T) {
	t.Parallel()
	s := newTestMode(t)
	began := time.Now()
	got := s.order(customer(t, "ann"), "test-slow-3s-1", oneLamp)
	got.check(t, http.StatusCreated, "", "")
	if took := time.Since(began); took < 3*time.Second || got.Header.Get("X-Flashsale-Test") != "test-slow-3s" {
		t.Errorf("answered after %s with %v", took, got.Header)
	}
	// A storefront that gives up finds its order by the key.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/orders", strings.NewReader(oneLamp))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+customer(t, "ben"))
	request.Header.Set("Idempotency-Key", "test-slow-8s")
	request.Header.Set("Content-Type", "application/json")
	if answer, err := s.Client().Do(request); err == nil {
		_ = answer.Body.Close()
		t.Fatalf("answered %s", answer.Status)
	}
	// The request above may still be under way, even before its order.
	s.order(customer(t, "ben"), "test-slow-8s", oneLamp).check(t, http.StatusCreated, "", "")
	list := s.as(customer(t, "ben"), "GET", "/v1/orders", "")
	if orders := len(list.body["items"].([]any)); orders != 1 {
		t.Errorf("%d orders, want 1", orders)
	}
}

// A replica that shuts down does not wait for slow answers.
func TestSlowAnswersEndWhenTheReplicaDrains(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	close(draining)
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.TestMode, cfg.Draining = true, draining })
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	began := time.Now()
	s.order(customer(t, "ann"), "test-slow-8s", oneLamp).check(t, http.StatusCreated, "", "")
	if took := time.Since(began); took >= 8*time.Second {
		t.Errorf("answered after %s", took)
	}
}

// Without the test mode, reserved keys are keys.
func TestReservedKeysMeanNothingInProduction(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", `{"name":"A lamp","price_cents":999,"currency":"EUR","units":100}`).check(t, http.StatusCreated, "", "")
	for _, key := range []string{"test-429", "test-503-1", "test-504-applied", "test-504-not-applied", "test-in-flight", "test-slow-3s", "test-slow-8s"} {
		got := s.order(customer(t, "ann"), key, oneLamp)
		got.check(t, http.StatusCreated, "", "")
		if got.Header.Get("X-Flashsale-Test") != "" {
			t.Errorf("%s: headers %v", key, got.Header)
		}
	}
}
