package httpapi_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"flashsale/internal/httpapi/spec/speccheck"
	"flashsale/internal/order"
)

func TestAcceptHeaderIsHonored(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	for accept, status := range map[string]int{
		"": 200, "*/*": 200, "application/json": 200, "application/*": 200, "text/html, application/xhtml+xml, */*;q=0.8": 200,
		"APPLICATION/JSON": 200, "application/json;charset=utf-8": 200, "text/html;q=1, application/json;q=0.001": 200, ";": 200,
		"text/html": 406, "text/html;q=1.0, text/*": 406, "application/json;q=0": 406, "*/*, application/json;q=0": 406, "application/*;q=0, */*": 406, "text/event-stream": 406,
		// A malformed header accepts everything.
		"nonsense": 200, "*": 200, "text/html, *;q=0.1": 200, "*/json": 200, "text/*html": 200, "text/": 200, "text/html;q=2": 200, "text/html;q=-1": 200,
		"text/html;q=NaN": 200, "text/html;q=": 200, "text/html;x=\"a,b\"": 200, ",": 200, "text/html,,": 406,
	} {
		got := s.call("GET", "/v1/skus/lamp", "", "Accept", accept)
		slug := ""
		if status == http.StatusNotAcceptable {
			slug = "not-acceptable"
		}
		got.check(t, status, slug, "")
	}
	s.call("GET", "/v1/events", "", "Accept", "application/json").check(t, http.StatusNotAcceptable, "not-acceptable", "")
	s.call("GET", "/healthz", "", "Accept", "text/html").check(t, http.StatusOK, "", "")
}

func TestHEADIsGETWithoutABody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	for path, status := range map[string]int{"/v1/skus/lamp": 200, "/v1/skus": 200, "/v1/skus/sofa": 404, "/healthz": 200, "/metrics": 200,
		"/v1/orders": 401, "/v1/events": 405, "/v1/skus/lamp/events": 405, "/v1/orders/1/payment": 405} {
		got := s.call("HEAD", path, "")
		if got.StatusCode != status || got.text != "" {
			t.Errorf("HEAD %s: %d %q, want %d and no body", path, got.StatusCode, got.text, status)
		}
	}
}

func TestTooLargeRequestsAreRejected(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	long := strings.Repeat("x", 20<<10)
	s.call("GET", "/v1/skus", "", "X-Long", long).check(t, http.StatusRequestHeaderFieldsTooLarge, "headers-too-large", "")
	s.call("GET", "/v1/skus?cursor="+long, "").check(t, http.StatusRequestHeaderFieldsTooLarge, "headers-too-large", "")
	ann := customer(t, "ann")
	body := `{"sku":"lamp","quantity":1` + strings.Repeat(" ", 64<<10) + `}`
	s.order(ann, "k", body).check(t, http.StatusRequestEntityTooLarge, "body-too-large", "")
	zipped := s.call("POST", "/v1/orders", "{}", "Authorization", "Bearer "+ann, "Idempotency-Key", "k", "Content-Encoding", "gzip")
	zipped.check(t, http.StatusUnsupportedMediaType, "unsupported-media-type", "")
	if got := zipped.Header.Get("Accept-Encoding"); got != "identity" || !strings.Contains(zipped.text, "gzip") {
		t.Errorf("a compressed body: Accept-Encoding is %q, %s", got, zipped.text)
	}
	s.order(ann, "schlüssel", `{"sku":"lamp","quantity":1}`).check(t, http.StatusBadRequest, "malformed-request", "Idempotency-Key")
}

// A proxy may use the first of two headers, and this service the last.
func TestRepeatedHeadersAreRejected(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	ann, eve := "Bearer "+customer(t, "ann"), "Bearer "+customer(t, "eve")
	for _, test := range []struct {
		name   string
		values []string
		status int
		text   string
	}{
		{"Authorization", []string{ann, eve}, 401, "given more than once"},
		{"Authorization", []string{ann, ann}, 401, "given more than once"},
		{"Authorization", []string{"", ann}, 401, "given more than once"},
		{"Idempotency-Key", []string{"k", "l"}, 400, "given more than once"},
		{"Content-Type", []string{"application/json", "text/plain"}, 400, "given more than once"},
		{"Content-Encoding", []string{"identity", "gzip"}, 415, "gzip"},
		{"Content-Encoding", []string{"", "gzip"}, 415, "gzip"},
		{"Content-Encoding", []string{"Identity"}, 201, ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/orders", strings.NewReader(`{"sku":"lamp","quantity":1}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Authorization": {ann}, "Idempotency-Key": {"k"}, "Content-Type": {"application/json"}}
		r.Header[test.name] = test.values
		got, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(got.Body)
		got.Body.Close()
		if err != nil || got.StatusCode != test.status || !strings.Contains(string(text), test.text) {
			t.Errorf("%s %q: got %d %s, %v; want %d %q", test.name, test.values, got.StatusCode, text, err, test.status, test.text)
		}
	}
}

func TestIncompleteBodyTimesOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	slow := httptest.NewUnstartedServer(s.Config.Handler)
	// Only the body must time out, even on a slow machine.
	slow.Config.ReadHeaderTimeout, slow.Config.ReadTimeout = patience, 200*time.Millisecond
	slow.Start()
	t.Cleanup(slow.Close)
	conn, err := net.Dial("tcp", slow.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /v1/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nIdempotency-Key: k\r\n"+
		"Content-Length: 100\r\n\r\n{\"sku\":", customer(t, "ann"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil || got.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(text), "/errors/request-timeout") {
		t.Errorf("got %d %s, %v", got.StatusCode, text, err)
	}
	checker, err := speccheck.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := checker.Check("POST", "/v1/orders", got.StatusCode, got.Header, text); err != nil {
		t.Error(err)
	}
}

func TestAnswersHaveNoInternalDetails(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	ann := customer(t, "ann")
	path := s.placed(ann, "k0")
	// Without tables, every statement fails with a MySQL error.
	for _, table := range []string{"orders", "stock", "restocks", "late_payments", "payments"} {
		s.exec("RENAME TABLE " + table + " TO gone_" + table)
	}
	admin := []string{"Authorization", "Bearer " + adminToken, "Idempotency-Key", "r"}
	for name, got := range map[string]response{
		"place":   s.order(ann, "k", `{"sku":"lamp","quantity":1}`),
		"get":     s.as(ann, "GET", path, ""),
		"list":    s.as(ann, "GET", "/v1/orders", ""),
		"pay":     s.as(ann, "POST", path+"/payment", `{"reference":"r"}`),
		"cancel":  s.as(ann, "POST", path+"/cancellation", ""),
		"put":     s.putSKU("lamp", thing),
		"restock": s.call("POST", "/v1/admin/skus/lamp/restocks", `{"units":1}`, admin...),
		"sku":     s.call("GET", "/v1/skus/lamp", ""),
		"skus":    s.call("GET", "/v1/skus", ""),
		"late":    s.as(adminToken, "GET", "/v1/admin/late-payments", ""),
		"audit":   s.as(adminToken, "GET", "/v1/admin/audit", ""),
	} {
		if got.StatusCode < 500 {
			t.Errorf("%s without tables: %d %s", name, got.StatusCode, got.text)
		}
		for _, secret := range []string{"sql", "SELECT", "UPDATE", "gone_", "doesn't exist", "127.0.0.1", "goroutine", ".go:", "Error "} {
			if strings.Contains(strings.ToLower(got.text), strings.ToLower(secret)) {
				t.Errorf("%s reveals %q: %s", name, secret, got.text)
			}
		}
	}
	err := fmt.Errorf("%w: %w", order.ErrUnavailable, errors.New("dial tcp 192.0.2.7:2379: connection refused"))
	s.notReady.Store(&err)
	if got := s.call("GET", "/readyz", ""); got.StatusCode != http.StatusServiceUnavailable || strings.Contains(got.text, "192.0.2.7") {
		t.Errorf("/readyz: %d %s", got.StatusCode, got.text)
	}
}

// FuzzOrder sends arbitrary orders. Every answer must satisfy the contract, and none
// may be a 500.
func FuzzOrder(f *testing.F) {
	for _, body := range []string{`{"sku":"lamp","quantity":1}`, `{"sku":"lamp","quantity":1e400}`, `{"sku":"lamp"`, `[`, ``, `{"sku":"\u0000"}`, "\xff"} {
		f.Add("key", "application/json", body)
		f.Add(`"ke\"y"`, "text/plain; charset", body)
	}
	s := newServer(f)
	s.putSKU("lamp", strings.Replace(thing, `"units":4`, `"units":2147483647`, 1)).check(f, http.StatusCreated, "", "")
	token := customer(f, "ann")
	f.Fuzz(func(t *testing.T, key, kind, body string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/orders", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Authorization": {"Bearer " + token}, "Idempotency-Key": {key}, "Content-Type": {kind}}
		got, err := s.Client().Do(r)
		if err != nil {
			return // net/http rejects the header
		}
		defer got.Body.Close()
		if text, err := io.ReadAll(got.Body); err != nil || got.StatusCode == http.StatusInternalServerError {
			t.Errorf("%d %s, %v", got.StatusCode, text, err)
		}
	})
}
