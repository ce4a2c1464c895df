package soak

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// badRequest is a request with one error, for which it must be refused.
type badRequest struct {
	what     string
	spoil    func(w *world, r *request)
	statuses []int
}

func body(text string) func(*world, *request) {
	return func(w *world, r *request) { r.body = strings.ReplaceAll(text, "SKU", w.sku) }
}

func header(name, value string) func(*world, *request) {
	return func(_ *world, r *request) {
		r.header = map[string]string{"Idempotency-Key": r.header["Idempotency-Key"], name: value}
	}
}

func token(text string) func(*world, *request) {
	return func(_ *world, r *request) { r.token = text }
}

func at(method, path string, more ...func(*world, *request)) func(*world, *request) {
	return func(w *world, r *request) {
		*r = request{method: method, path: strings.ReplaceAll(path, "SKU", w.sku), token: r.token}
		for _, f := range more {
			f(w, r)
		}
	}
}

func asAdmin(w *world, r *request) { r.token = w.adminToken }

// badRequests spoil a valid order.
var badRequests = []badRequest{
	{"no token", token(""), []int{401}},
	{"not a JWT", token("nonsense"), []int{401}},
	{"an unsigned JWT", token("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbm4ifQ."), []int{401}},
	{"a JWT with a wrong signature", token("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4ifQ.qLQvEDGGoVkvNjLhGjh2xnk0GzTp7DdbVyTLXEvRL5o"), []int{401}},
	{"no key", header("Idempotency-Key", ""), []int{400}},
	{"an empty key", header("Idempotency-Key", `""`), []int{400}},
	{"half a key", header("Idempotency-Key", `"half`), []int{400}},
	{"a long key", header("Idempotency-Key", strings.Repeat("k", 256)), []int{400}},
	{"a text body", header("Content-Type", "text/plain"), []int{415}},
	{"an answer in HTML", header("Accept", "text/html"), []int{406}},
	{"half an object", body(`{"sku":"SKU","quantity":`), []int{400}},
	{"an array", body(`[{"sku":"SKU","quantity":1}]`), []int{400}},
	{"null", body(`null`), []int{400}},
	{"two objects", body(`{"sku":"SKU","quantity":1}{}`), []int{400}},
	{"a field twice", body(`{"sku":"SKU","quantity":1,"quantity":1}`), []int{400}},
	{"an unknown field", body(`{"sku":"SKU","quantity":1,"total_cents":1}`), []int{400}},
	{"a negative price in an order", body(`{"sku":"SKU","quantity":1,"price_cents":-1}`), []int{422}},
	{"a wrong type", body(`{"sku":"SKU","quantity":"1"}`), []int{400}},
	{"no SKU", body(`{"quantity":1}`), []int{400, 422}},
	{"no quantity", body(`{"sku":"SKU"}`), []int{400, 422}},
	{"quantity 0", body(`{"sku":"SKU","quantity":0}`), []int{422}},
	{"a negative quantity", body(`{"sku":"SKU","quantity":-1}`), []int{422}},
	{"half a unit", body(`{"sku":"SKU","quantity":0.5}`), []int{422}},
	{"a quantity above 32 bits", body(`{"sku":"SKU","quantity":2147483648}`), []int{422}},
	{"a quantity above all numbers", body(`{"sku":"SKU","quantity":1e400}`), []int{422}},
	{"an invalid name", body(`{"sku":"SKU' OR 1=1 -- ","quantity":1}`), []int{422}},
	{"an unknown SKU in an order", body(`{"sku":"SKU-not","quantity":1}`), []int{404}},
	{"a large body", body(`{"sku":"SKU","quantity":1` + strings.Repeat(" ", 66<<10) + `}`), []int{413}},
	{"garbage", (*world).garble, []int{400, 404, 422}},

	{"an unsupported method", at("DELETE", "/v1/orders"), []int{405}},
	{"an unknown path", at("GET", "/v1/nothing"), []int{404}},
	{"a page of 0", at("GET", "/v1/orders?limit=0"), []int{422}},
	{"a page that is too large", at("GET", "/v1/skus?limit=201"), []int{422}},
	{"an invalid cursor", at("GET", "/v1/skus?cursor=%21%21"), []int{422}},
	{"an invalid id", at("GET", "/v1/orders/1"), []int{404}},
	{"an invalid SKU", at("GET", "/v1/skus/a%20b"), []int{404}},
	{"an unknown SKU", at("GET", "/v1/skus/SKU-not"), []int{404}},
	{"a restock by a customer", at("POST", "/v1/admin/skus/SKU/restocks", header("Idempotency-Key", "k"), body(`{"units":1}`)), []int{403}},
	{"an audit by a customer", at("GET", "/v1/admin/audit"), []int{403}},
	{"an audit without a token", at("GET", "/v1/admin/audit", token("")), []int{401}},
	{"a restock without a key", at("POST", "/v1/admin/skus/SKU/restocks", asAdmin, body(`{"units":1}`)), []int{400}},
	{"a restock of 0 units", at("POST", "/v1/admin/skus/SKU/restocks", asAdmin, header("Idempotency-Key", "k"), body(`{"units":0}`)), []int{422}},
	{"a restock of an unknown SKU", at("POST", "/v1/admin/skus/SKU-not/restocks", asAdmin, header("Idempotency-Key", "k"), body(`{"units":1}`)), []int{404}},
	{"an invalid currency", at("PUT", "/v1/admin/skus/SKU", asAdmin, body(`{"name":"n","price_cents":1,"currency":"eur","units":1}`)), []int{422}},
	{"a currency that no longer exists", at("PUT", "/v1/admin/skus/SKU", asAdmin, body(`{"name":"n","price_cents":1,"currency":"DEM","units":1}`)), []int{422}},
	{"a negative price", at("PUT", "/v1/admin/skus/SKU", asAdmin, body(`{"name":"n","price_cents":-1,"currency":"EUR","units":1}`)), []int{422}},
	{"a sale that ends before it starts", at("PUT", "/v1/admin/skus/SKU", asAdmin, body(`{"name":"n","price_cents":1,"currency":"EUR","units":1,"sale_starts_at":"2030-01-02T00:00:00Z","sale_ends_at":"2030-01-01T00:00:00Z"}`)), []int{422}},
}

// sendBadRequest sends a request that must change nothing.
func (w *world) sendBadRequest() {
	bad := pick(w, badRequests)
	o := w.newOrder()
	o.quantity, o.shown = 1, nil
	r := w.placing(o)
	bad.spoil(w, &r)
	r.name = "bad request"
	if r.header["Idempotency-Key"] == "" {
		delete(r.header, "Idempotency-Key")
	}
	w.expect(r, bad.what, bad.statuses...)
}

// garble makes a random body that is not an order of the world's SKU.
func (w *world) garble(r *request) {
	text := []byte(fmt.Sprintf(`{"sku":"%s-not","quantity":1}`, w.sku))
	for range 1 + w.rng.IntN(4) {
		switch i := w.rng.IntN(len(text)); w.rng.IntN(3) {
		case 0:
			text[i] = byte(w.rng.IntN(256))
		case 1:
			text = slices.Delete(text, i, i+1)
		case 2:
			text = slices.Insert(text, i, text[w.rng.IntN(len(text))])
		}
	}
	// Change the name in case it became that of the SKU after all.
	r.body, r.method = strings.ReplaceAll(string(text), w.sku+`"`, w.sku+`x"`), http.MethodPost
}
