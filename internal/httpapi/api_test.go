package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/httpapi"
	"flashsale/internal/httpapi/spec/speccheck"
	"flashsale/internal/limit"
	"flashsale/internal/order"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) { sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers) }

const (
	secret     = "a secret of 32 bytes for the tests"
	adminToken = "an admin token of 32 bytes for the tests"
)

var databases atomic.Int32

type server struct {
	*httptest.Server
	t  testing.TB
	db *stock.DB
	// process is set if the server is a replica in a process of its own.
	process *sandbox.Process
	// notReady is the error of the readiness check.
	notReady atomic.Pointer[error]
}

// newServer serves the API on a new database, with the conditional strategy, which
// needs only MySQL.
func newServer(t testing.TB) *server {
	t.Helper()
	return newServerWith(t, func(*httpapi.Config) {})
}

// newServerWith is newServer with a changed configuration.
func newServerWith(t testing.TB, change func(*httpapi.Config)) *server {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("api%d", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	db, err := stock.Open(dsn, 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	conditional, err := strategy.Find("conditional")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	s := &server{t: t, db: db}
	cfg := httpapi.Config{
		Orders: order.New(order.Config{DB: db, Strategy: conditional, Fence: strategy.FenceOff, PaymentWindow: time.Minute,
			RequestTimeout: patience, Logger: logger}),
		Catalog: stock.Catalog{DB: db}, Stock: db, RequestTimeout: patience, Replica: "replica-1", JWTSecret: []byte(secret), AdminToken: adminToken,
		Registry: prometheus.NewRegistry(), Logger: logger, Limits: new(limit.Limits),
		ReadyToRead: func(context.Context) map[string]error { return map[string]error{"mysql": nil} },
		Ready: func(context.Context) map[string]error {
			if err := s.notReady.Load(); err != nil {
				return map[string]error{"mysql": *err}
			}
			return map[string]error{"mysql": nil}
		},
	}
	change(&cfg)
	handler, err := httpapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(handler)
	// In every test, all answers must satisfy the contract.
	s.Client().Transport = &speccheck.Transport{Base: s.Client().Transport, Report: func(err error) { t.Error(err) }}
	t.Cleanup(s.Close)
	return s
}

func token(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	text, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func customer(t testing.TB, name string) string {
	t.Helper()
	return token(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": name})
}

type response struct {
	*http.Response
	body map[string]any
	text string
}

// call sends a request. Headers are pairs of name and value.
func (s *server) call(method, path, body string, headers ...string) response {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	got, err := s.Client().Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = got.Body.Close() }()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	r := response{Response: got, text: string(text)}
	if strings.Contains(got.Header.Get("Content-Type"), "json") && method != http.MethodHead {
		if err := json.NewDecoder(bytes.NewReader(text)).Decode(&r.body); err != nil {
			s.t.Fatalf("%s %s answered %q: %v", method, path, text, err)
		}
	}
	return r
}

const thing = `{"name":"A thing","price_cents":999,"currency":"EUR","units":4}`

func (s *server) putSKU(sku, body string) response {
	s.t.Helper()
	return s.call("PUT", "/v1/admin/skus/"+sku, body, "Authorization", "Bearer "+adminToken)
}

func (s *server) order(customerToken, key, body string) response {
	s.t.Helper()
	return s.call("POST", "/v1/orders", body, "Authorization", "Bearer "+customerToken, "Idempotency-Key", key)
}

func (r response) check(t testing.TB, status int, slug, field string) {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("got status %d with %s, want %d", r.StatusCode, r.text, status)
	}
	if slug == "" {
		return
	}
	if got := r.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("got Content-Type %q", got)
	}
	if got := r.body["type"]; got != "/errors/"+slug {
		t.Errorf("got type %v, want /errors/%s", got, slug)
	}
	if got := r.body["status"]; got != float64(status) {
		t.Errorf("got status %v in the body, want %d", got, status)
	}
	if title, _ := r.body["title"].(string); title == "" {
		t.Error("the problem has no title")
	}
	if field == "" {
		return
	}
	list, _ := r.body["errors"].([]any)
	for _, e := range list {
		if e.(map[string]any)["field"] == field {
			return
		}
	}
	t.Errorf("no error names field %q: %s", field, r.text)
}

func TestPlacingOrders(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp-1", thing).check(t, http.StatusCreated, "", "")
	ann := customer(t, "ann")

	first := s.order(ann, `"key 1"`, `{"sku":"lamp-1","quantity":3}`)
	first.check(t, http.StatusCreated, "", "")
	for field, want := range map[string]any{"sku": "lamp-1", "quantity": 3.0, "status": "reserved", "total_cents": 2997.0, "currency": "EUR"} {
		if got := first.body[field]; got != want {
			t.Errorf("%s is %v, want %v", field, got, want)
		}
	}
	if got := first.Header.Get("X-Replica"); got != "replica-1" {
		t.Errorf("X-Replica is %q", got)
	}
	path := first.Header.Get("Location")
	if path != fmt.Sprint("/v1/orders/", first.body["id"]) {
		t.Errorf("Location is %q for order %v", path, first.body["id"])
	}
	read := s.call("GET", path, "", "Authorization", "Bearer "+ann)
	read.check(t, http.StatusOK, "", "")
	if read.text != first.text {
		t.Errorf("read %s, want the answer %s", read.text, first.text)
	}
	s.call("GET", path, "", "Authorization", "Bearer "+customer(t, "ben")).check(t, http.StatusNotFound, "unknown-order", "")

	// A quoted key and a bare one are equal.
	again := s.order(ann, "key 1", `{ "quantity": 3.0, "sku": "lamp-1" }`)
	again.check(t, http.StatusCreated, "", "")
	if again.text != first.text || again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the replay is %s with header %q, want %s and true", again.text, again.Header.Get("Idempotent-Replayed"), first.text)
	}
	s.order(ann, "key 1", `{"sku":"lamp-1","quantity":1}`).check(t, http.StatusUnprocessableEntity, "idempotency-key-reused", "")
	s.order(customer(t, "ben"), "k", `{"sku":"lamp-1","quantity":2}`).check(t, http.StatusConflict, "insufficient-stock", "")
	s.order(customer(t, "ben"), "k", `{"sku":"lamp-1","quantity":1}`).check(t, http.StatusCreated, "", "")
	s.order(customer(t, "cat"), "k", `{"sku":"lamp-1","quantity":1}`).check(t, http.StatusConflict, "sold-out", "")
	s.order(ann, "k2", `{"sku":"lamp-2","quantity":1}`).check(t, http.StatusNotFound, "unknown-sku", "")

	audit := s.call("GET", "/v1/admin/audit", "", "Authorization", "Bearer "+adminToken)
	audit.check(t, http.StatusOK, "", "")
	if audit.body["ok"] != true {
		t.Errorf("audit: %s", audit.text)
	}
}

func TestSKUs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, sku := range []string{"b", "a", "C", "d.e_f-0"} {
		s.putSKU(sku, thing).check(t, http.StatusCreated, "", "")
	}
	changed := s.putSKU("a", `{"name":"Another","price_cents":1000,"currency":"USD","units":9,"per_customer_limit":2,"hold_policy":"strict",
		"sale_starts_at":"2030-01-01T00:00:00Z","sale_ends_at":"2030-01-02T00:00:00+01:00"}`)
	changed.check(t, http.StatusOK, "", "")
	if changed.Header.Get("Warning") == "" {
		t.Error("units were ignored without a warning")
	}
	got := s.call("GET", "/v1/skus/a", "")
	got.check(t, http.StatusOK, "", "")
	want := `{"sku":"a","name":"Another","price_cents":1000,"currency":"USD","units":4,"available":4,"per_customer_limit":2,` +
		`"hold_policy":"strict","sale_starts_at":"2030-01-01T00:00:00Z","sale_ends_at":"2030-01-01T23:00:00Z","visible_from":null}`
	if got.text != want {
		t.Errorf("got  %s\nwant %s", got.text, want)
	}
	s.call("GET", "/v1/skus/A", "").check(t, http.StatusNotFound, "unknown-sku", "")

	var seen []string
	path := "/v1/skus?limit=3"
	for pages := 0; path != ""; pages++ {
		page := s.call("GET", path, "")
		page.check(t, http.StatusOK, "", "")
		for _, item := range page.body["items"].([]any) {
			seen = append(seen, item.(map[string]any)["sku"].(string))
		}
		path = ""
		if next, ok := page.body["next_cursor"].(string); ok {
			path = "/v1/skus?limit=3&cursor=" + next
		}
	}
	if got, want := strings.Join(seen, " "), "C a b d.e_f-0"; got != want {
		t.Errorf("listed %q, want %q", got, want)
	}
}

func TestInvalidInputIsRejected(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	ann := customer(t, "ann")
	long := strings.Repeat("k", 256)
	orders := []struct {
		name, key, body string
		status          int
		slug, field     string
	}{
		{"not JSON", "k", `order please`, 400, "malformed-request", ""},
		{"incomplete JSON", "k", `{"sku":"lamp","quantity":1`, 400, "malformed-request", ""},
		{"empty", "k", ``, 400, "malformed-request", ""},
		{"an array", "k", `[]`, 400, "malformed-request", "(body)"},
		{"null", "k", `null`, 400, "malformed-request", "(body)"},
		{"sku null", "k", `{"sku":null,"quantity":1}`, 400, "malformed-request", "sku"},
		{"unknown field", "k", `{"sku":"lamp","quantity":1,"price":0}`, 400, "malformed-request", "price"},
		{"upper case field", "k", `{"SKU":"lamp","quantity":1}`, 400, "malformed-request", "SKU"},
		{"duplicate field", "k", `{"sku":"lamp","quantity":1,"quantity":2}`, 400, "malformed-request", "quantity"},
		{"trailing data", "k", `{"sku":"lamp","quantity":1}{}`, 400, "malformed-request", ""},
		{"quantity a string", "k", `{"sku":"lamp","quantity":"1"}`, 400, "malformed-request", "quantity"},
		{"quantity null", "k", `{"sku":"lamp","quantity":null}`, 400, "malformed-request", "quantity"},
		{"sku a number", "k", `{"sku":1,"quantity":1}`, 400, "malformed-request", "sku"},
		{"invalid UTF-8", "k", "{\"sku\":\"\xff\",\"quantity\":1}", 400, "malformed-request", ""},
		{"quantity 0", "k", `{"sku":"lamp","quantity":0}`, 422, "invalid-input", "quantity"},
		{"quantity negative", "k", `{"sku":"lamp","quantity":-1}`, 422, "invalid-input", "quantity"},
		{"quantity 1.5", "k", `{"sku":"lamp","quantity":1.5}`, 422, "invalid-input", "quantity"},
		{"quantity over int32", "k", `{"sku":"lamp","quantity":2147483648}`, 422, "invalid-input", "quantity"},
		{"quantity over int64", "k", `{"sku":"lamp","quantity":92233720368547758080}`, 422, "invalid-input", "quantity"},
		{"quantity over float64", "k", `{"sku":"lamp","quantity":1e999}`, 422, "invalid-input", "quantity"},
		{"quantity missing", "k", `{"sku":"lamp"}`, 422, "invalid-input", "quantity"},
		{"sku missing", "k", `{"quantity":1}`, 422, "invalid-input", "sku"},
		{"sku empty", "k", `{"sku":"","quantity":1}`, 422, "invalid-input", "sku"},
		{"sku outside the pattern", "k", `{"sku":"../lamp","quantity":1}`, 422, "invalid-input", "sku"},
		{"sku with a line break", "k", `{"sku":"lamp\n","quantity":1}`, 422, "invalid-input", "sku"},
		{"sku too long", "k", `{"sku":"` + strings.Repeat("s", 65) + `","quantity":1}`, 422, "invalid-input", "sku"},
		{"key empty", "", `{"sku":"lamp","quantity":1}`, 400, "malformed-request", "Idempotency-Key"},
		{"key quoted and empty", `""`, `{"sku":"lamp","quantity":1}`, 400, "malformed-request", "Idempotency-Key"},
		{"key half quoted", `"k`, `{"sku":"lamp","quantity":1}`, 400, "malformed-request", "Idempotency-Key"},
		{"key too long", long, `{"sku":"lamp","quantity":1}`, 400, "malformed-request", "Idempotency-Key"},
		{"body too large", "k", `{"sku":"` + strings.Repeat("s", 70_000) + `"}`, 413, "body-too-large", ""},
	}
	for _, test := range orders {
		t.Run("order/"+test.name, func(t *testing.T) {
			s.order(ann, test.key, test.body).check(t, test.status, test.slug, test.field)
		})
	}
	skus := []struct {
		name, sku, body string
		status          int
		field           string
	}{
		{"outside the pattern", "-lamp", thing, 422, "sku"},
		{"no name", "lamp", `{"price_cents":1,"currency":"EUR","units":1}`, 422, "name"},
		{"price negative", "lamp", `{"name":"n","price_cents":-1,"currency":"EUR","units":1}`, 422, "price_cents"},
		{"lower case currency", "lamp", `{"name":"n","price_cents":1,"currency":"eur","units":1}`, 422, "currency"},
		{"units missing", "lamp", `{"name":"n","price_cents":1,"currency":"EUR"}`, 422, "units"},
		{"units negative", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":-4}`, 422, "units"},
		{"limit 0", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":1,"per_customer_limit":0}`, 422, "per_customer_limit"},
		{"strict without a limit", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":1,"hold_policy":"strict"}`, 422, "hold_policy"},
		{"another hold policy", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":1,"per_customer_limit":1,"hold_policy":"Strict"}`, 422, "hold_policy"},
		{"a date instead of a time", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":1,"sale_starts_at":"2030-01-01"}`, 422, "sale_starts_at"},
		{"a time after the year 9999", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":1,"sale_ends_at":"9999-12-31T23:59:59-05:00"}`, 422, "sale_ends_at"},
		{"a price whose total exceeds int64", "lamp", `{"name":"n","price_cents":4294967299,"currency":"EUR","units":1}`, 422, "price_cents"},
		{"ends before it starts", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":1,
			"sale_starts_at":"2030-01-02T00:00:00Z","sale_ends_at":"2030-01-01T00:00:00Z"}`, 422, "sale_ends_at"},
		{"starts before it is announced", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":1,
			"visible_from":"2030-01-02T00:00:00Z","sale_starts_at":"2030-01-01T00:00:00Z"}`, 422, "visible_from"},
		{"ends when it is announced", "lamp", `{"name":"n","price_cents":1,"currency":"EUR","units":1,
			"visible_from":"2030-01-02T00:00:00Z","sale_ends_at":"2030-01-02T00:00:00Z"}`, 422, "visible_from"},
	}
	for _, test := range skus {
		t.Run("sku/"+test.name, func(t *testing.T) {
			s.putSKU(test.sku, test.body).check(t, test.status, "invalid-input", test.field)
		})
	}
	for path, field := range map[string]string{"limit=0": "limit", "limit=201": "limit", "limit=x": "limit", "limit=%zz": "(query)", "limit=1;limit=2": "(query)", "cursor=!": "cursor", "cursor=IA": "cursor"} {
		s.call("GET", "/v1/skus?"+path, "").check(t, 422, "invalid-input", field)
	}
	if got := s.call("GET", "/v1/skus/lamp", "").body["available"]; got != 4.0 {
		t.Errorf("%v available after invalid input only, want 4", got)
	}
}

func TestUnknownRoutes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ann := customer(t, "ann")
	s.call("GET", "/nothing", "").check(t, 404, "not-found", "")
	s.call("GET", "/v1/skus/no*such", "").check(t, 404, "unknown-sku", "")
	s.call("GET", "/v1/orders/1", "", "Authorization", "Bearer "+ann).check(t, 404, "unknown-order", "")
	// An escaped slash is part of a name, so that proxies and this service agree
	// on the route.
	s.call("GET", "/v1/skus/lamp%2Fevents", "").check(t, 404, "unknown-sku", "")
	s.putSKU("a%2Fb", thing).check(t, 422, "invalid-input", "sku")
	s.putSKU("%6camp", thing).check(t, 201, "", "")
	if got := s.call("GET", "/v1/skus/l%61mp", ""); got.body["sku"] != "lamp" {
		t.Errorf("an escaped name: %s", got.text)
	}
	s.call("GET", "/v1/skus/lamp%2F%2Fevents", "").check(t, 404, "unknown-sku", "")
	for _, unknown := range []string{"GET /v1/skus//events", "POST /v1/orders//payment", "POST /v1/orders//cancellation", "POST /v1/admin/skus//restocks",
		"PATCH /v1/orders//payment", "GET //", "GET /v1//skus"} {
		method, path, _ := strings.Cut(unknown, " ")
		s.call(method, path, "").check(t, 404, "not-found", "")
	}
	for wrong, want := range map[string]string{"DELETE /v1/orders": "GET, POST, HEAD", "PATCH /v1/skus/events": "GET, HEAD",
		"PATCH /v1/events": "GET", "HEAD /v1/events": "GET", "PATCH /v1/skus/a%2Fb/events": "GET", "HEAD /v1/skus/lamp/events": "GET"} {
		method, path, _ := strings.Cut(wrong, " ")
		got := s.call(method, path, "")
		if allow := got.Header.Get("Allow"); got.StatusCode != http.StatusMethodNotAllowed || allow != want {
			t.Errorf("%s: %d with Allow %q, want 405 with %q", wrong, got.StatusCode, allow, want)
		}
	}
	s.call("DELETE", "/v1/orders", "").check(t, 405, "method-not-allowed", "")
	s.call("POST", "/v1/orders", "sku=lamp", "Authorization", "Bearer "+ann, "Idempotency-Key", "k",
		"Content-Type", "application/x-www-form-urlencoded").check(t, 415, "unsupported-media-type", "")
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	hs256 := jwt.SigningMethodHS256
	sub := jwt.MapClaims{"sub": "ann"}
	with := func(name string, value any) jwt.MapClaims { return jwt.MapClaims{"sub": "ann", name: value} }
	good := customer(t, "ann")
	headers := map[string]string{
		"none":              "",
		"no scheme":         good,
		"basic":             "Basic " + good,
		"empty":             "Bearer ",
		"not a token":       "Bearer nonsense",
		"cut short":         "Bearer " + good[:len(good)-2],
		"other secret":      "Bearer " + token(t, hs256, []byte("another secret"), sub),
		"other algorithm":   "Bearer " + token(t, jwt.SigningMethodHS512, []byte(secret), sub),
		"no algorithm":      "Bearer " + token(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, sub),
		"expired":           "Bearer " + token(t, hs256, []byte(secret), with("exp", time.Now().Add(-time.Hour).Unix())),
		"not valid yet":     "Bearer " + token(t, hs256, []byte(secret), with("nbf", time.Now().Add(time.Hour).Unix())),
		"no subject":        "Bearer " + token(t, hs256, []byte(secret), jwt.MapClaims{}),
		"subject too long":  "Bearer " + customer(t, strings.Repeat("a", 256)),
		"subject no string": "Bearer " + token(t, hs256, []byte(secret), jwt.MapClaims{"sub": 7}),
	}
	for name, header := range headers {
		t.Run(name, func(t *testing.T) {
			got := s.call("POST", "/v1/orders", `{"sku":"lamp","quantity":1}`, "Authorization", header, "Idempotency-Key", "k")
			got.check(t, 401, "unauthorized", "")
			want := `Bearer realm="flashsale"`
			if detail := fmt.Sprint(got.body["detail"]); !strings.HasPrefix(detail, "The Authorization header") { // the request has a token
				want += `, error="invalid_token", error_description="` + detail + `"`
			}
			if challenge := got.Header.Get("WWW-Authenticate"); challenge != want {
				t.Errorf("WWW-Authenticate is %s, want %s", challenge, want)
			}
		})
	}
	admin := func(text string) response {
		return s.call("GET", "/v1/admin/audit", "", "Authorization", "Bearer "+text)
	}
	admin(adminToken).check(t, 200, "", "")
	admin(token(t, hs256, []byte(secret), with("scope", "read admin"))).check(t, 200, "", "")
	admin(token(t, hs256, []byte(secret), with("scope", []string{"openid", "admin"}))).check(t, 200, "", "")
	for _, scope := range []string{"notes:\u00a0admin", "notes:\tadmin", "notes:\nadmin", "notes:\u2003admin", "notes:\u0085admin", "admin\x00", "Admin"} {
		admin(token(t, hs256, []byte(secret), with("scope", scope))).check(t, 403, "forbidden", "")
	}
	admin(good).check(t, 403, "forbidden", "")
	// A customer's call must not confirm a guess of the admin token: guesses are counted
	// in administrators' calls only.
	list := func(token string) string {
		got := s.call("GET", "/v1/orders", "", "Authorization", "Bearer "+token)
		got.check(t, 401, "unauthorized", "")
		return got.text
	}
	if right, wrong := list(adminToken), list(adminToken+"x"); right != wrong {
		t.Errorf("a customer's call answers the admin token with %s, and another text with %s", right, wrong)
	}
	wrong := admin(adminToken + "x")
	if wrong.check(t, 401, "unauthorized", ""); !strings.Contains(wrong.text, "neither the admin token nor a JWT") {
		t.Errorf("another admin token: %s", wrong.text)
	}
	s.call("PUT", "/v1/admin/skus/lamp", thing).check(t, 401, "unauthorized", "")
}

// A client that disconnects must not look like a server that does not answer.
func TestReadinessCheckFinishesAfterDisconnect(t *testing.T) {
	t.Parallel()
	caller, leave := context.WithCancel(t.Context())
	s := newServerWith(t, func(cfg *httpapi.Config) {
		cfg.Ready = func(ctx context.Context) map[string]error {
			leave()
			return map[string]error{"mysql": ctx.Err()}
		}
	})
	answer := httptest.NewRecorder()
	s.Config.Handler.ServeHTTP(answer, httptest.NewRequestWithContext(caller, http.MethodGet, "/readyz", http.NoBody))
	if answer.Code != http.StatusOK {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}

// Anyone may call /readyz as often as they like: the log must not fill the disk.
func TestReadinessCallsDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	j := new(journal)
	s := newServerWith(t, func(cfg *httpapi.Config) {
		cfg.Logger = slog.New(slog.NewJSONHandler(j, nil))
		cfg.Ready = func(context.Context) map[string]error {
			return map[string]error{"mysql": errors.New("down"), "etcd": errors.New("down, too"), "replica": nil}
		}
	})
	for range 100 {
		s.call("GET", "/readyz", "").check(t, 503, "", "")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, server := range []string{"mysql", "etcd"} {
		if n := strings.Count(j.buf.String(), fmt.Sprintf(`"msg":"not ready","server":%q`, server)); n < 1 || n > 3 {
			t.Errorf("%d lines about %s, want one in 10 s", n, server)
		}
	}
}

func TestHealthReadinessAndMetrics(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.call("GET", "/readyz", "").check(t, 200, "", "")
	err := errors.New("dial tcp 192.0.2.1:3306: connection refused")
	s.notReady.Store(&err)
	got := s.call("GET", "/readyz", "")
	got.check(t, 503, "", "")
	if !strings.Contains(got.text, "mysql") || strings.Contains(got.text, "192.0.2.1") {
		t.Errorf("/readyz should name the server but not its address: %s", got.text)
	}
	s.call("GET", "/readyz?for=selling", "").check(t, 503, "", "")
	s.call("GET", "/readyz?for=reading", "").check(t, 200, "", "")
	s.call("GET", "/readyz?for=buying", "").check(t, 422, "invalid-input", "")
	s.call("GET", "/healthz", "").check(t, 200, "", "")
	text := s.call("GET", "/metrics", "").text
	for _, want := range []string{`flashsale_http_requests_total{method="GET",route="/readyz",status="503"} 2`, "flashsale_http_request_seconds_bucket"} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

// The alert needs the metric where nobody asks whether the replica can sell: Kubernetes
// asks for reading only.
func TestMetricsSayWhetherTheReplicaCanSell(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	await := func(want string) {
		t.Helper()
		sandboxtest.Eventually(t, want, func() bool { return strings.Contains(s.call("GET", "/metrics", "").text, "\n"+want+"\n") })
	}
	await("flashsale_ready 1")
	err := errors.New("etcdserver: no leader")
	s.notReady.Store(&err)
	s.call("GET", "/readyz?for=reading", "").check(t, 200, "", "")
	await("flashsale_ready 0")
	s.notReady.Store(nil)
	await("flashsale_ready 1")
}

// If the database does not answer, calls get 503 without details.
func TestDeadDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, got := range []response{
		s.order(customer(t, "ann"), "k", `{"sku":"lamp","quantity":1}`),
		s.call("GET", "/v1/skus/lamp", ""),
		s.putSKU("lamp", thing),
		s.call("GET", "/v1/orders/00000000-0000-7000-8000-000000000000", "", "Authorization", "Bearer "+customer(t, "ann")),
		s.call("GET", "/v1/admin/audit", "", "Authorization", "Bearer "+adminToken),
	} {
		got.check(t, 503, "unavailable", "")
		if got.Header.Get("Retry-After") == "" || strings.Contains(got.text, "sql") {
			t.Errorf("got Retry-After %q and %s", got.Header.Get("Retry-After"), got.text)
		}
	}
}
