package speccheck_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"flashsale/internal/httpapi/spec/speccheck"
)

// answers is a service that always sends the same answer.
type answers struct {
	status int
	header http.Header
	body   string
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
}

const (
	lamp = `{"sku":"lamp","name":"A lamp","price_cents":1,"currency":"EUR","units":1,"available":1,"per_customer_limit":null,` +
		`"hold_policy":"lenient","sale_starts_at":null,"sale_ends_at":null,"visible_from":null}`
	placed = `{"id":"01936f3e-7b1a-7c3e-9d0a-1f2e3d4c5b6a","sku":"lamp","quantity":1,"status":"reserved","price_cents":1,"total_cents":1,` +
		`"currency":"EUR","created_at":"2030-01-01T00:00:00Z","expires_at":"2030-01-01T00:15:00Z"}`
	unknown = `{"type":"/errors/unknown-sku","title":"No such SKU","status":404}`
)

func TestContractViolationsAreReported(t *testing.T) {
	t.Parallel()
	const problem = "application/problem+json"
	tests := []struct {
		name, call, body string // body of the request
		status           int
		headers, answer  string
		want             string // part of the report; "" for a valid answer
	}{
		{"valid", "GET /v1/skus/lamp", "", 200, `Content-Type: application/json|Etag: "1-1"`, lamp, ""},
		{"valid with a charset", "GET /v1/skus/lamp", "", 200, `Content-Type: application/json; charset=utf-8|Etag: "1-1"`, lamp, ""},
		{"not modified", "GET /v1/skus/lamp", "", 304, `Etag: "1-1"`, "", ""},
		{"a problem", "GET /v1/skus/lamp", "", 404, "Content-Type: " + problem, unknown, ""},
		{"no route", "GET /v2", "", 404, "Content-Type: " + problem, `{"type":"/errors/not-found","title":"t","status":404}`, ""},
		{"an unknown type", "GET /v2", "", 404, "Content-Type: " + problem, `{"type":"/errors/no-such","title":"t","status":404}`, "/type"},
		{"a page", "GET /docs", "", 200, "Content-Type: text/html", "<p>", ""},
		{"no ETag", "GET /v1/skus/lamp", "", 200, "Content-Type: application/json", lamp, "ETag is missing"},
		{"ETag without quotes", "GET /v1/skus/lamp", "", 200, "Content-Type: application/json|Etag: 1-1", lamp, "header ETag"},
		{"two limits", "GET /v1/skus/lamp", "", 200, `Content-Type: application/json|Etag: "1-1"|Ratelimit: "address";r=1;t=2|Ratelimit: "customer";r=3;t=4`, lamp, ""},
		{"a malformed limit", "GET /v1/skus/lamp", "", 200,
			`Content-Type: application/json|Etag: "1-1"|Ratelimit: "address";r=1;t=2|Ratelimit: limit=3`, lamp, "header RateLimit"},
		{"undeclared status", "GET /v1/skus/lamp", "", 418, "Content-Type: " + problem, unknown, "undeclared status"},
		{"plain text", "GET /v1/skus/lamp", "", 404, "Content-Type: text/plain", "404 page not found", "media type"},
		{"an extra field", "GET /v1/skus/lamp", "", 200, `Content-Type: application/json|Etag: "1-1"`, lamp[:len(lamp)-1] + `,"fence":1}`, "fence"},
		{"a missing field", "GET /v1/skus/lamp", "", 200, `Content-Type: application/json|Etag: "1-1"`, `{"sku":"lamp"}`, "missing properties"},
		{"another call's type", "GET /v1/skus/lamp", "", 404, "Content-Type: " + problem,
			`{"type":"/errors/sold-out","title":"t","status":404}`, "undeclared type"},
		{"another status in the body", "GET /v1/skus/lamp", "", 404, "Content-Type: " + problem,
			`{"type":"/errors/unknown-sku","title":"t","status":400}`, "status is 400"},
		{"a body with 304", "GET /v1/skus/lamp", "", 304, `Etag: "1-1"`, lamp, "unexpected body"},
		{"a malformed id", "POST /v1/orders", `{"sku":"lamp","quantity":1}`, 201, "Content-Type: application/json|Location: /x",
			strings.Replace(placed, "01936f3e-", "", 1), "uuid"},
		{"no Location", "POST /v1/orders", `{"sku":"lamp","quantity":1}`, 201, "Content-Type: application/json", placed, "Location is missing"},
		{"success for a bad body", "POST /v1/orders", `{"sku":"lamp","quantity":0}`, 201, "Content-Type: application/json|Location: /x", placed,
			"should have failed"},
		{"success for a bad query", "GET /v1/skus?limit=0", "", 200, `Content-Type: application/json|Etag: "1-1"`,
			`{"items":[],"next_cursor":null}`, "should have failed"},
		{"503 without Retry-After", "GET /v1/skus/lamp", "", 503, "Content-Type: " + problem,
			`{"type":"/errors/unavailable","title":"t","status":503}`, "Retry-After is missing"},
		{"405 without Allow", "PATCH /v1/skus/lamp", "", 405, "Content-Type: " + problem,
			`{"type":"/errors/method-not-allowed","title":"t","status":405}`, "Allow"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			header := http.Header{"X-Replica": {"r"}}
			for line := range strings.SplitSeq(test.headers, "|") {
				name, value, _ := strings.Cut(line, ": ")
				header.Add(name, value)
			}
			var reported []string
			transport := &speccheck.Transport{Base: answers{test.status, header, test.answer},
				Report: func(err error) { reported = append(reported, err.Error()) }}
			method, path, _ := strings.Cut(test.call, " ")
			r, err := http.NewRequestWithContext(t.Context(), method, "http://service"+path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if method == http.MethodPost {
				r.Header.Set("Idempotency-Key", "k")
			}
			got, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer got.Body.Close()
			if read, err := io.ReadAll(got.Body); err != nil || string(read) != test.answer {
				t.Errorf("the transport returned %q, %v", read, err)
			}
			switch {
			case test.want == "" && len(reported) > 0:
				t.Errorf("reported %q", reported)
			case test.want != "" && (len(reported) != 1 || !strings.Contains(reported[0], test.want)):
				t.Errorf("reported %q, want one with %q", reported, test.want)
			}
		})
	}
}

func TestMissingReplicaIsReported(t *testing.T) {
	t.Parallel()
	reports := 0
	transport := &speccheck.Transport{Base: answers{200, http.Header{"Content-Type": {"application/json"}}, `{"status":"alive"}`},
		Report: func(error) { reports++ }}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://service/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	got, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if reports != 1 {
		t.Errorf("%d reports, want 1", reports)
	}
}

func TestEventsAreChecked(t *testing.T) {
	t.Parallel()
	checker, err := speccheck.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, data, want string }{
		{"stock", `{"sku":"lamp","units":2,"available":1,"seq":1}`, ""},
		{"gone", `{"sku":"lamp","units":2,"available":0,"seq":1,"gone":true}`, ""},
		{"gone", `{"sku":"lamp","units":2,"available":0,"seq":1}`, "gone"},
		{"stock", `{"sku":"lamp","units":2,"seq":1}`, "available"},
		{"stock", `{"sku":"lamp","units":2,"available":"1","seq":1}`, "got string"},
		{"stock", `{"sku":"lamp","units":2,"available":1,"seq":1,"fence":1}`, "fence"},
		{"sold", `{"sku":"lamp","units":2,"available":1,"seq":1}`, "undeclared event"},
	} {
		err := checker.CheckEvent(test.name, []byte(test.data))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %s: %v, want %q", test.name, test.data, err, test.want)
		}
	}
}
