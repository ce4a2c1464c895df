package browser_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"flashsale/internal/sandbox/sandboxtest"
)

// Where a payment service confirms payments, the shop offers no button to pay, and shows the
// payment once it is confirmed. It says in plain words why a customer can order no more.
func TestTheStorefrontWaitsForThePaymentService(t *testing.T) {
	t.Parallel()
	s := startReplica(t, "--payment-window=5m", "--payments=service", "--max-unpaid=2")
	s.fill()
	s.sell("sneaker", "Canvas sneaker", 10, `,"per_customer_limit":2,"hold_policy":"strict"`)
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"), "409")
	b.do(chromedp.EmulateViewport(1180, 900))
	ann := customer(t, "ann")
	b.enter(s.URL, ann)
	b.await(shows("#live", "Live"))

	b.await(shows(card("sneaker", ".limit"), "At most 2 per customer, cancelled units included"))
	b.buy("sneaker", "2")
	b.await(shows("#orders li:first-child", "2 × Canvas sneaker"))
	b.press("#orders li:first-child .cancel")
	b.await(shows("#orders li:first-child", "Cancelled"))
	b.buy("sneaker", "1")
	b.await(shows("#messages", "Because of your cancelled orders"))

	b.buy("lamp", "1")
	b.await(shows("#orders li:first-child", "1 × Brass lamp"))
	b.buy("chair", "1")
	b.await(shows("#orders li:first-child", "1 × Oak chair"))
	b.buy("radio-now", "1")
	b.await(shows("#messages", "You have too many orders that are not paid"))
	b.await(shows("#orders li:first-child .until", "The shop's payment service confirms the payment"))
	if eval[int](b, `[...document.querySelectorAll("#orders .pay")].filter((e) => e.checkVisibility()).length`) != 0 {
		t.Error("the shop offers to confirm a payment, which only the payment service may")
	}
	s.call("DELETE", "/v1/admin/skus/radio-now", adminToken, "", "", http.StatusNoContent)
	b.await(shows(card("radio-now", ".left"), "Not on sale"))
	b.look("payment-service")

	var list struct {
		Items []struct {
			ID         string
			Status     string
			TotalCents int `json:"total_cents"`
		}
	}
	if err := json.Unmarshal(s.call("GET", "/v1/orders", ann, "", "", http.StatusOK), &list); err != nil {
		t.Fatal(err)
	}
	chair := list.Items[0]
	payment := fmt.Sprintf(`{"reference":"pay-1","amount_cents":%d,"currency":"EUR"}`, chair.TotalCents)
	s.call("POST", "/v1/orders/"+chair.ID+"/payment", ann, "", payment, http.StatusForbidden)
	service := sandboxtest.Token(t, secret, map[string]any{"scope": "payment"})
	s.call("POST", "/v1/orders/"+chair.ID+"/payment", service, "", payment, http.StatusOK)
	b.await(shows("#orders li:first-child .badge", "Paid"))
	b.await(shows("#messages", "Paid. Thank you."))
	b.look("payment-confirmed")
}
