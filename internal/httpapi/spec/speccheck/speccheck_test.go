package speccheck_test

import (
	"net/http"
	"strings"
	"testing"

	"flashsale/internal/httpapi/spec/speccheck"
)

func TestAnswersOutsideTheContractAreFound(t *testing.T) {
	checker, err := speccheck.New()
	if err != nil {
		t.Fatal(err)
	}
	const (
		order = `{"id":"01936f3e-7b1a-7c3e-9d0a-1f2e3d4c5b6a","sku":"lamp","quantity":1,"status":"reserved","price_cents":1,"total_cents":1,` +
			`"currency":"EUR","created_at":"2030-01-01T00:00:00Z","expires_at":"2030-01-01T00:15:00.5Z"}`
		gone = `{"type":"/errors/sold-out","title":"Sold out","status":409}`
		json = "application/json"
		prob = "application/problem+json"
	)
	for _, tt := range []struct {
		method, path string
		status       int
		header, body string // header is "Content-Type[; Name: value]"
		want         string // "" where the contract allows it
	}{
		{"POST", "/v1/orders", 201, json + "|Idempotent-Replayed: true", order, ""},
		{"POST", "/v1/orders", 409, prob, gone, ""},
		{"GET", "/v1/orders/x?y=z", 200, json + "; charset=utf-8", order, ""},
		{"GET", "/v1/skus/lamp", 304, "", "", ""},
		{"DELETE", "/v1/admin/locks/lamp", 204, "", "", ""},
		{"GET", "/nowhere", 404, prob, gone, ""},
		{"PUT", "/v1/orders", 405, prob + "|Allow: GET, POST", gone, ""},
		{"GET", "/v1/skus/lamp/events", 200, "text/event-stream", "data: x", ""},

		{"POST", "/v1/orders", 200, json, order, "no such answer"},
		{"POST", "/v1/orders", 201, "text/plain", order, "Content-Type"},
		{"POST", "/v1/orders", 201, json + "|Idempotent-Replayed: yes", order, "Idempotent-Replayed"},
		{"POST", "/v1/orders", 201, json, strings.Replace(order, `"sku":"lamp",`, "", 1), "sku"},
		{"POST", "/v1/orders", 201, json, strings.Replace(order, `"quantity":1`, `"quantity":"1"`, 1), "quantity"},
		{"POST", "/v1/orders", 201, json, strings.Replace(order, `"reserved"`, `"sold"`, 1), "status"},
		{"POST", "/v1/orders", 201, json, strings.Replace(order, "01936f3e", "x", 1), "uuid"},
		{"POST", "/v1/orders", 201, json, strings.Replace(order, "2030-01-01T00:00:00Z", "2030-01-01 00:00:00", 1), "date-time"},
		{"POST", "/v1/orders", 201, json, strings.Replace(order, `{`, `{"secret":1,`, 1), "secret"},
		{"POST", "/v1/orders", 201, json, "", "no JSON"},
		{"POST", "/v1/orders", 409, json, gone, "Content-Type"},
		{"POST", "/v1/orders", 503, prob + "|Retry-After: soon", gone, "Retry-After"},
		{"GET", "/v1/skus/lamp", 304, "", "x", "a body"},
		{"GET", "/nowhere", 200, json, "{}", "no such path"},
		{"PUT", "/v1/orders", 405, prob, gone, "Allow"},
	} {
		header := http.Header{}
		kind, more, _ := strings.Cut(tt.header, "|")
		if kind != "" {
			header.Set("Content-Type", kind)
		}
		if name, value, ok := strings.Cut(more, ": "); ok {
			header.Set(name, value)
		}
		err := checker.Check(tt.method, tt.path, tt.status, header, []byte(tt.body))
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s %d %s %s: %v, want %q", tt.method, tt.path, tt.status, tt.header, tt.body, err, tt.want)
		}
	}
}
