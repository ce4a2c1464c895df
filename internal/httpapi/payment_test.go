package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"

	"flashsale/internal/httpapi"
	"flashsale/internal/limit"
)

// scoped is a token with a scope.
func scoped(t testing.TB, sub, scope string) string {
	return token(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": sub, "scope": scope})
}

func paymentService(cfg *httpapi.Config) { cfg.PaymentService = true }

// One reference paid three orders, two of them another customer's.
func TestReferenceOfAnotherOrderIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	ann, ben := customer(t, "ann"), customer(t, "ben")
	paths := []string{s.placed(ann, "k"), s.placed(ben, "k1"), s.placed(ben, "k2")}
	s.as(ann, "POST", paths[0]+"/payment", `{"reference":"pay-1"}`).check(t, http.StatusOK, "", "")
	for _, path := range paths[1:] {
		refused := s.as(ben, "POST", path+"/payment", `{"reference":"pay-1"}`)
		refused.check(t, http.StatusConflict, "payment-reference-used", "")
		if strings.Contains(refused.text, "ann") || strings.Contains(refused.text, strings.TrimPrefix(paths[0], "/v1/orders/")) {
			t.Errorf("the answer tells whose reference it is: %s", refused.text)
		}
		if got := s.as(ben, "GET", path, ""); got.body["status"] != "reserved" {
			t.Errorf("got %s, want it reserved", got.text)
		}
	}
	s.as(ann, "POST", paths[0]+"/payment", `{"reference":"pay-1"}`).check(t, http.StatusOK, "", "")
}

// With --payments service, customers cannot confirm their own payments.
func TestOnlyThePaymentServiceConfirms(t *testing.T) {
	t.Parallel()
	s := newServerWith(t, paymentService)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	ann, service := customer(t, "ann"), scoped(t, "", "orders payment")
	first := s.order(ann, "k", `{"sku":"lamp","quantity":1}`)
	path, total := first.Header.Get("Location"), int(first.body["total_cents"].(float64))
	body := fmt.Sprintf(`{"reference":"pay-1","amount_cents":%d,"currency":"EUR"}`, total)

	s.as(ann, "POST", path+"/payment", body).check(t, http.StatusForbidden, "forbidden", "")
	s.as(scoped(t, "ann", "admin"), "POST", path+"/payment", body).check(t, http.StatusForbidden, "forbidden", "")
	s.as(adminToken, "POST", path+"/payment", body).check(t, http.StatusUnauthorized, "unauthorized", "")
	for field, less := range map[string]string{"reference": `{"amount_cents":1,"currency":"EUR"}`, "amount_cents": `{"reference":"p","currency":"EUR"}`,
		"currency": `{"reference":"p","amount_cents":1}`} {
		s.as(service, "POST", path+"/payment", less).check(t, http.StatusUnprocessableEntity, "invalid-input", field)
	}
	for _, wrong := range []string{strings.Replace(body, "EUR", "USD", 1), strings.Replace(body, fmt.Sprint(total), "1", 1)} {
		refused := s.as(service, "POST", path+"/payment", wrong)
		refused.check(t, http.StatusConflict, "payment-mismatch", "")
		if detail := refused.body["detail"].(string); !strings.Contains(detail, fmt.Sprintf("%d EUR", total)) {
			t.Errorf("the detail does not have the order's amount: %s", detail)
		}
	}
	if got := s.as(service, "GET", path, ""); got.Status != "200 OK" || got.body["status"] != "reserved" {
		t.Errorf("the payment service reads %s, want the reserved order", got.text)
	}
	s.as(customer(t, "ben"), "GET", path, "").check(t, http.StatusNotFound, "unknown-order", "")
	s.as(service, "POST", path+"/cancellation", "").check(t, http.StatusUnauthorized, "unauthorized", "") // has no sub
	s.as(service, "GET", "/v1/admin/late-payments", "").check(t, http.StatusForbidden, "forbidden", "")
	paid := s.as(service, "POST", path+"/payment", body)
	paid.check(t, http.StatusOK, "", "")
	if again := s.as(service, "POST", path+"/payment", body); again.text != paid.text || paid.body["status"] != "paid" {
		t.Errorf("paid as %s, then %s", paid.text, again.text)
	}
	if got := s.as(ann, "GET", path, ""); got.body["payment_reference"] != "pay-1" {
		t.Errorf("the customer reads %s", got.text)
	}
	if page := s.call("GET", "/", "").text; !strings.Contains(page, `<html lang="en" data-payments="service">`) {
		t.Error("the shop's page does not know who confirms payments")
	}
}

// Cancel-and-order loops and invented late payments of a customer have limits. Another
// customer, and a payment service, do not notice them.
func TestLoopsOfACustomerAreLimited(t *testing.T) {
	t.Parallel()
	limits := new(limit.Limits)
	for _, kind := range []limit.Kind{limit.Cancellations, limit.LatePayments} {
		limits.Set(kind, limit.Limit{Requests: 3, Window: 24 * time.Hour})
	}
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.Limits = limits })
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	ann, ben := customer(t, "ann"), customer(t, "ben")
	path := ""
	for i := range 5 {
		path = s.placed(ann, fmt.Sprint("k", i))
		got := s.as(ann, "POST", path+"/cancellation", "")
		if i < 3 {
			got.check(t, http.StatusOK, "", "")
			continue
		}
		got.check(t, http.StatusTooManyRequests, "too-many-requests", "")
		if got.Header.Get("Retry-After") == "" || !strings.Contains(got.Header.Get("RateLimit-Policy"), `"cancellations";q=3`) {
			t.Errorf("the headers are %v", got.Header)
		}
	}
	s.exec("UPDATE orders SET expires_at = NOW(6) - INTERVAL 1 SECOND WHERE status = 'reserved'")
	for i := range 5 {
		got := s.as(ann, "POST", path+"/payment", fmt.Sprintf(`{"reference":"late-%d"}`, i))
		if i < 3 {
			got.check(t, http.StatusConflict, "payment-window-over", "")
		} else {
			got.check(t, http.StatusTooManyRequests, "too-many-requests", "")
		}
	}
	// What is stored is answered as before.
	s.as(ann, "POST", path+"/payment", `{"reference":"late-0"}`).check(t, http.StatusConflict, "payment-window-over", "")
	if late := s.as(adminToken, "GET", "/v1/admin/late-payments", "").body["items"].([]any); len(late) != 3 {
		t.Errorf("stored %v, want three", late)
	}
	his := s.placed(ben, "k")
	s.as(ben, "POST", his+"/cancellation", "").check(t, http.StatusOK, "", "")
	s.as(ben, "POST", his+"/payment", `{"reference":"late-4"}`).check(t, http.StatusConflict, "order-cancelled", "")

	real := newServerWith(t, func(cfg *httpapi.Config) { cfg.Limits, cfg.PaymentService = limits, true })
	real.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	path = real.placed(ann, "k")
	real.exec("UPDATE orders SET expires_at = NOW(6) - INTERVAL 1 SECOND")
	for i := range 5 {
		body := fmt.Sprintf(`{"reference":"late-%d","amount_cents":999,"currency":"EUR"}`, i)
		real.as(scoped(t, "pay", "payment"), "POST", path+"/payment", body).check(t, http.StatusConflict, "payment-window-over", "")
	}
}

// Each payment, whoever sends it, is answered as a small model says.
func TestPaymentsAreAsModelled(t *testing.T) {
	t.Parallel()
	for _, service := range []bool{false, true} {
		s := newServerWith(t, func(cfg *httpapi.Config) { cfg.PaymentService = service })
		s.putSKU("lamp", strings.Replace(thing, `"units":4`, `"units":1000000`, 1)).check(t, http.StatusCreated, "", "")
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			owners, paidBy, usedFor := []string{"ann", "ann", "ben"}, map[int]string{}, map[string]int{}
			var paths []string
			for i, owner := range owners {
				paths = append(paths, s.placed(customer(t, owner), fmt.Sprint("k", round, "-", i)))
			}
			for range rapid.IntRange(1, 8).Draw(rt, "calls") {
				o := rapid.IntRange(0, len(owners)-1).Draw(rt, "order")
				sub := rapid.SampledFrom([]string{"ann", "ben"}).Draw(rt, "sub")
				scope := rapid.SampledFrom([]string{"", "payment", "admin", "admin payment", "payments"}).Draw(rt, "scope")
				reference := fmt.Sprint(round, rapid.SampledFrom([]string{"p", "q", "r"}).Draw(rt, "reference"))
				amount := rapid.SampledFrom([]int{999, 998}).Draw(rt, "amount")
				currency := rapid.SampledFrom([]string{"EUR", "EUR", "USD"}).Draw(rt, "currency")

				its, used := usedFor[reference]
				want := ""
				switch {
				case service && !slices.Contains(strings.Fields(scope), "payment"):
					want = "forbidden"
				case used && its != o:
					want = "payment-reference-used"
				case !service && sub != owners[o]:
					want = "unknown-order"
				case amount != 999 || currency != "EUR":
					want, usedFor[reference] = "payment-mismatch", o
				case paidBy[o] != "" && paidBy[o] != reference:
					want, usedFor[reference] = "already-paid", o
				default:
					paidBy[o], usedFor[reference] = reference, o
				}
				got := s.as(scoped(t, sub, scope), "POST", paths[o]+"/payment",
					fmt.Sprintf(`{"reference":%q,"amount_cents":%d,"currency":%q}`, reference, amount, currency))
				slug, _ := got.body["type"].(string)
				if strings.TrimPrefix(slug, "/errors/") != want || want == "" && got.body["payment_reference"] != reference {
					rt.Fatalf("service %v, %s with scope %q pays the order of %s with %s, %d %s: got %s, want %q",
						service, sub, scope, owners[o], reference, amount, currency, got.text, want)
				}
			}
			for i, owner := range owners {
				got := s.as(customer(t, owner), "GET", paths[i], "")
				if by, _ := got.body["payment_reference"].(string); by != paidBy[i] {
					rt.Fatalf("order %d is paid by %q, want %q", i, by, paidBy[i])
				}
			}
		})
		if got := s.as(adminToken, "GET", "/v1/admin/audit", ""); got.body["ok"] != true {
			t.Errorf("the audit found %s", got.text)
		}
	}
}
