package httpapi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"flashsale/internal/sandbox"
)

// card is what to find within a SKU's card.
func card(sku, part string) string { return fmt.Sprintf(`#skus [data-sku="%s"] %s`, sku, part) }

// shows is an expression that holds when the text is in the element.
func shows(selector, text string) string {
	return fmt.Sprintf("(document.querySelector(%q)?.innerText ?? '').includes(%q)", selector, text)
}

func (s *server) sell(sku, name string, units int, more string) {
	s.t.Helper()
	body := fmt.Sprintf(`{"name":%q,"price_cents":4999,"currency":"EUR","units":%d%s}`, name, units, more)
	if got := s.putSKU(sku, body); got.StatusCode != 201 {
		s.t.Fatalf("put %s: %s", sku, got.text)
	}
}

// shop is a replica with some SKUs on sale, and a browser that ann uses there.
func shop(t *testing.T, provoked ...string) (*server, *browser) {
	t.Helper()
	s := startReplicas(t, 1, func(cfg *sandbox.ReplicaConfig) { cfg.Args = append(cfg.Args, "--payment-window=5m") })[0]
	soon := time.Now().Add(36 * time.Hour).UTC().Format(time.RFC3339)
	later := time.Now().Add(72 * time.Hour).UTC().Format(time.RFC3339)
	s.sell("lamp", "Brass lamp", 10, fmt.Sprintf(`,"per_customer_limit":4,"sale_ends_at":%q`, soon))
	s.sell("chair", "Oak chair", 3, "")
	s.sell("radio", "Valve radio", 40, fmt.Sprintf(`,"sale_starts_at":%q,"sale_ends_at":%q`, soon, later))
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"), provoked...)
	b.do(chromedp.EmulateViewport(1180, 760))
	return s, b
}

func TestTheStorefrontSellsLive(t *testing.T) {
	t.Parallel()
	s, b := shop(t, "409 (Conflict)", "/v1/orders?limit=50")
	b.do(chromedp.Navigate(s.URL + "/"))
	b.await(shows("#live", "Live"))
	b.await(shows(card("lamp", ".left"), "10 of 10 left"))
	b.await(shows(card("radio", ".when"), "Starts in 1 d 11:"))
	if !eval[bool](b, "document.querySelector('#mine').hidden") {
		t.Error("a stranger is shown orders")
	}
	b.do(chromedp.Navigate(s.URL + "/#token=" + customer(t, "ann")))
	b.await(shows("#who", "ann"))
	if got := eval[string](b, "location.href"); got != s.URL+"/" {
		t.Errorf("the token stays in the address: %s", got)
	}

	buy := func(sku, quantity string) {
		t.Helper()
		b.do(chromedp.SetValue(chromedp.CSS(card(sku, "input")), quantity), chromedp.Click(chromedp.CSS(card(sku, "button"))))
	}
	buy("lamp", "3")
	b.await(shows("#messages", "Reserved for you: 3 × Brass lamp. Pay within 0"))
	b.await(shows("#orders", "3 × Brass lamp"))
	b.await(shows("#orders", "149.97"))
	b.await(shows(card("lamp", ".left"), "7 of 10 left"))

	// Another customer buys elsewhere, and it is seen here.
	ben := customer(t, "ben")
	s.order(ben, "k", `{"sku":"lamp","quantity":4}`).check(t, 201, "", "")
	b.await(shows(card("lamp", ".left"), "3 of 10 left"))

	buy("lamp", "2")
	b.await(shows("#messages", "more than one customer may have"))
	buy("chair", "4")
	b.await(shows("#messages", "A smaller quantity may still succeed"))
	b.picture("storefront")
	s.order(ben, "k2", `{"sku":"chair","quantity":3}`).check(t, 201, "", "")
	b.await(shows(card("chair", ".left"), "Sold out"))
	if !eval[bool](b, fmt.Sprintf("document.querySelector(%q).disabled", card("chair", "button"))) {
		t.Error("what is sold out can be bought")
	}
	if got := eval[string](b, "document.querySelector('#messages').getAttribute('aria-live')"); got != "polite" {
		t.Errorf("messages are not read out: aria-live is %q", got)
	}
	b.do(chromedp.EmulateViewport(390, 844))
	if wide := eval[float64](b, "document.documentElement.scrollWidth"); wide > 390 {
		t.Errorf("a telephone of 390 pixels has to be scrolled sideways: %v", wide)
	}
	b.picture("storefront-mobile")
}
