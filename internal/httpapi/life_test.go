package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"flashsale/internal/stock"
)

// placed places an order of one lamp, and returns its path.
func (s *server) placed(customerToken, key string) string {
	s.t.Helper()
	got := s.order(customerToken, key, `{"sku":"lamp","quantity":1}`)
	got.check(s.t, http.StatusCreated, "", "")
	return got.Header.Get("Location")
}

func (s *server) as(token, method, path, body string) response {
	s.t.Helper()
	return s.call(method, path, body, "Authorization", "Bearer "+token)
}

func (s *server) exec(query string, args ...any) {
	s.t.Helper()
	if _, err := s.db.SQL.ExecContext(s.t.Context(), query, args...); err != nil {
		s.t.Fatal(err)
	}
}

func TestOrderIsPaidOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	ann := customer(t, "ann")
	first := s.order(ann, "k", `{"sku":"lamp","quantity":1}`)
	path := first.Header.Get("Location")

	paid := s.as(ann, "POST", path+"/payment", `{"reference":"pay-1"}`)
	paid.check(t, http.StatusOK, "", "")
	if paid.body["status"] != "paid" || paid.body["payment_reference"] != "pay-1" || paid.body["closed_at"] == nil {
		t.Errorf("paid: %s", paid.text)
	}
	for _, body := range []string{`{"reference":"pay-1"}`, `{}`, ``} {
		again := s.as(ann, "POST", path+"/payment", body)
		again.check(t, http.StatusOK, "", "")
		if again.text != paid.text {
			t.Errorf("paid again with %q: %s, first %s", body, again.text, paid.text)
		}
	}
	s.call("POST", path+"/payment", "", "Authorization", "Bearer "+ann, "Content-Type", "application/x-www-form-urlencoded").
		check(t, http.StatusOK, "", "")
	s.as(ann, "POST", path+"/payment", `{"reference":"pay-2"}`).check(t, http.StatusConflict, "already-paid", "")
	refused := s.as(ann, "POST", path+"/cancellation", "")
	if refused.check(t, http.StatusConflict, "already-paid", ""); strings.Contains(refused.text, "payment") {
		t.Errorf("the answer to a cancellation mentions payments: %s", refused.text)
	}
	// Other notations of the id are not paths of the order.
	id := strings.TrimPrefix(path, "/v1/orders/")
	for _, other := range []string{"{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), "x" + id + "x"} {
		s.as(ann, "GET", "/v1/orders/"+other, "").check(t, http.StatusNotFound, "unknown-order", "")
	}
	s.as(ann, "GET", "/v1/orders/"+strings.ToUpper(id), "").check(t, http.StatusOK, "", "")
	ben := customer(t, "ben")
	s.as(ben, "POST", path+"/payment", `{}`).check(t, http.StatusNotFound, "unknown-order", "")
	s.as(ben, "POST", path+"/cancellation", "").check(t, http.StatusNotFound, "unknown-order", "")
	s.as(ann, "POST", "/v1/orders/7/payment", `{}`).check(t, http.StatusNotFound, "unknown-order", "")
	s.as(ann, "POST", "/v1/orders/7/cancellation", "").check(t, http.StatusNotFound, "unknown-order", "")
	for body, field := range map[string]string{`{"reference":""}`: "reference", `{"reference":"` + strings.Repeat("é", 128) + `"}`: "reference"} {
		s.as(ann, "POST", path+"/payment", body).check(t, http.StatusUnprocessableEntity, "invalid-input", field)
	}
	s.as(ann, "POST", path+"/payment", `{"reference":null}`).check(t, http.StatusBadRequest, "malformed-request", "reference")

	// A replay has the first answer, whatever the order's status is now.
	replay := s.order(ann, "k", `{"sku":"lamp","quantity":1}`)
	replay.check(t, http.StatusCreated, "", "")
	if replay.text != first.text || replay.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the replay of a paid order is %s, want %s", replay.text, first.text)
	}
}

func TestLatePaymentsAreStoredForARefund(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	ann := customer(t, "ann")
	var paths []string
	for i := range 3 {
		paths = append(paths, s.placed(ann, fmt.Sprint("k", i)))
	}
	cancelled := s.as(ann, "POST", paths[0]+"/cancellation", "")
	cancelled.check(t, http.StatusOK, "", "")
	if again := s.as(ann, "POST", paths[0]+"/cancellation", ""); again.text != cancelled.text {
		t.Errorf("cancelled again: %s, first %s", again.text, cancelled.text)
	}
	s.as(ann, "POST", paths[0]+"/payment", `{"reference":"a"}`).check(t, http.StatusConflict, "order-cancelled", "")
	s.exec("UPDATE orders SET expires_at = NOW(6) - INTERVAL 1 SECOND")
	s.as(ann, "POST", paths[1]+"/payment", `{"reference":"b"}`).check(t, http.StatusConflict, "payment-window-over", "")
	s.as(ann, "POST", paths[2]+"/payment", `{"reference":"c"}`).check(t, http.StatusConflict, "payment-window-over", "")
	s.as(ann, "POST", paths[2]+"/payment", ``).check(t, http.StatusConflict, "payment-window-over", "")

	var seen []string
	for path := "/v1/admin/late-payments?limit=2"; path != ""; {
		page := s.as(adminToken, "GET", path, "")
		page.check(t, http.StatusOK, "", "")
		for _, item := range page.body["items"].([]any) {
			late := item.(map[string]any)
			seen = append(seen, fmt.Sprint(late["reference"], late["customer"], "/v1/orders/", late["order_id"]))
		}
		path = ""
		if next, ok := page.body["next_cursor"].(string); ok {
			path = "/v1/admin/late-payments?limit=2&cursor=" + next
		}
	}
	want := []string{"aann/v1/orders/", "bann/v1/orders/", "cann/v1/orders/"}
	for i := range want {
		want[i] = fmt.Sprint(want[i][:4], paths[i])
	}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("late payments are %q, want %q", seen, want)
	}
	s.as(ann, "GET", "/v1/admin/late-payments", "").check(t, http.StatusForbidden, "forbidden", "")
}

func TestOrdersAreListedByCursor(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", strings.Replace(thing, `"units":4`, `"units":10`, 1)).check(t, http.StatusCreated, "", "")
	ann := customer(t, "ann")
	var want []string
	for i := range 5 {
		want = append([]string{s.placed(ann, fmt.Sprint("k", i))}, want...)
	}
	s.placed(customer(t, "ben"), "k")
	var got []string
	pages := 0
	for path := "/v1/orders?limit=2"; path != ""; pages++ {
		page := s.as(ann, "GET", path, "")
		page.check(t, http.StatusOK, "", "")
		for _, item := range page.body["items"].([]any) {
			got = append(got, fmt.Sprint("/v1/orders/", item.(map[string]any)["id"]))
		}
		path = ""
		if next, ok := page.body["next_cursor"].(string); ok {
			path = "/v1/orders?limit=2&cursor=" + next
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || pages != 3 {
		t.Errorf("listed %q on %d pages, want %q on 3", got, pages, want)
	}
	none := s.as(customer(t, "cat"), "GET", "/v1/orders", "")
	if none.check(t, http.StatusOK, "", ""); none.text != `{"items":[],"next_cursor":null}` {
		t.Errorf("a customer without orders sees %s", none.text)
	}
	for query, field := range map[string]string{"limit=0": "limit", "limit=201": "limit", "limit=1e1": "limit", "limit=": "limit", "limit=1&limit=2": "limit",
		"cursor=_": "cursor", "cursor=AAAA": "cursor", "cursor=a&cursor=b": "cursor"} {
		s.as(ann, "GET", "/v1/orders?"+query, "").check(t, http.StatusUnprocessableEntity, "invalid-input", field)
		s.as(adminToken, "GET", "/v1/admin/late-payments?"+query, "").check(t, http.StatusUnprocessableEntity, "invalid-input", field)
	}
}

// New orders must not move those of later pages, and purged ones are left out.
func TestAdministratorsListTheOrdersOfASKU(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, sku := range []string{"lamp", "bed"} {
		s.putSKU(sku, strings.Replace(thing, `"units":4`, `"units":10`, 1)).check(t, http.StatusCreated, "", "")
	}
	var want []string
	place := func(who, key string) string {
		path := s.placed(customer(t, who), key)
		want = append(want, strings.Join([]string{path, who, key}, " "))
		return path
	}
	cancelled := place("ann", "k1")
	s.as(customer(t, "ann"), "POST", cancelled+"/cancellation", "").check(t, http.StatusOK, "", "")
	place("ben", "k1")
	place("ann", "k2")
	s.order(customer(t, "ann"), "bed", `{"sku":"bed","quantity":1}`).check(t, http.StatusCreated, "", "")
	const list = "/v1/admin/orders?sku=lamp&limit=2"
	var got []string
	pages := 0
	for path := list; path != ""; pages++ {
		page := s.as(adminToken, "GET", path, "")
		page.check(t, http.StatusOK, "", "")
		for _, item := range page.body["items"].([]any) {
			o := item.(map[string]any)
			got = append(got, fmt.Sprint("/v1/orders/", o["id"], " ", o["customer"], " ", o["idempotency_key"]))
			status := "reserved"
			if len(got) == 1 {
				status = "cancelled"
			}
			if o["status"] != status || o["sku"] != "lamp" || o["quantity"] != 1.0 {
				t.Errorf("listed %v, want an order of 1 lamp that is %s", o, status)
			}
		}
		path = ""
		if next, ok := page.body["next_cursor"].(string); ok {
			path = list + "&cursor=" + next
			place("cat", fmt.Sprint("k", pages))
		}
	}
	if !slices.Equal(got, want) || pages != 2 {
		t.Errorf("listed on %d pages %q, want %q", pages, got, want)
	}
	s.exec("DELETE FROM orders WHERE idempotency_key = 'k2'") // as a purge does
	if left := s.as(adminToken, "GET", "/v1/admin/orders?sku=lamp", "").body["items"].([]any); len(left) != len(want)-1 {
		t.Errorf("after one was purged, %d orders are listed, want %d", len(left), len(want)-1)
	}
	none := s.as(adminToken, "GET", "/v1/admin/orders?sku=chair", "")
	if none.check(t, http.StatusOK, "", ""); none.text != `{"items":[],"next_cursor":null}` {
		t.Errorf("a SKU that does not exist has %s", none.text)
	}
	for query, field := range map[string]string{"": "sku", "sku=": "sku", "sku=a%20b": "sku", "sku=lamp&sku=bed": "sku", "sku=lamp&cursor=_": "cursor", "sku=lamp&limit=0": "limit"} {
		s.as(adminToken, "GET", "/v1/admin/orders?"+query, "").check(t, http.StatusUnprocessableEntity, "invalid-input", field)
	}
	s.as(customer(t, "ann"), "GET", list, "").check(t, http.StatusForbidden, "forbidden", "")
	s.as("", "GET", list, "").check(t, http.StatusUnauthorized, "unauthorized", "")
}

func TestRestockAddsItsUnitsOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	restock := func(sku, key, body string) response {
		return s.call("POST", "/v1/admin/skus/"+sku+"/restocks", body, "Authorization", "Bearer "+adminToken, "Idempotency-Key", key)
	}
	first := restock("lamp", "r1", `{"units":3}`)
	first.check(t, http.StatusCreated, "", "")
	again := restock("lamp", `"r1"`, `{"units":3e0}`)
	again.check(t, http.StatusCreated, "", "")
	if again.text != first.text || again.Header.Get("Idempotent-Replayed") != "true" || first.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("the replay is %s with %q, the first was %s with %q", again.text, again.Header.Get("Idempotent-Replayed"),
			first.text, first.Header.Get("Idempotent-Replayed"))
	}
	if got := s.call("GET", "/v1/skus/lamp", ""); got.body["units"] != 7.0 || got.body["available"] != 7.0 {
		t.Errorf("after one restock of 3 on 4: %s", got.text)
	}
	restock("lamp", "r1", `{"units":4}`).check(t, http.StatusUnprocessableEntity, "idempotency-key-reused", "")
	restock("sofa", "r2", `{"units":4}`).check(t, http.StatusNotFound, "unknown-sku", "")
	restock("-sofa", "r2", `{"units":4}`).check(t, http.StatusNotFound, "unknown-sku", "")
	restock("lamp", "r3", `{"units":0}`).check(t, http.StatusUnprocessableEntity, "invalid-input", "units")
	s.exec("UPDATE stock SET units = ?, available = ?", int64(stock.MaxUnits), int64(stock.MaxUnits))
	restock("lamp", "r3", `{"units":1}`).check(t, http.StatusUnprocessableEntity, "invalid-input", "units")
	restock("lamp", "r3", `{"units":1,"sku":"lamp"}`).check(t, http.StatusBadRequest, "malformed-request", "sku")
	restock("lamp", "", `{"units":1}`).check(t, http.StatusBadRequest, "malformed-request", "Idempotency-Key")
	s.as(adminToken, "POST", "/v1/admin/skus/lamp/restocks", `{"units":1}`).check(t, http.StatusBadRequest, "malformed-request", "Idempotency-Key")
}
