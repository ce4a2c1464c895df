package browser_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestPricesHaveTheDigitsOfISO4217: Chromium's own digits differ for the first five.
func TestPricesHaveTheDigitsOfISO4217(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	prices := map[string]string{"RSD": "49.00", "ALL": "49.00", "LAK": "49.00", "MGA": "49.00", "IQD": "4.900",
		"EUR": "49.00", "KWD": "4.900", "JPY": "4,900", "CLF": "0.4900"}
	for currency := range prices {
		s.call("PUT", "/v1/admin/skus/c-"+currency, adminToken, "", fmt.Sprintf(`{"name":%q,"price_cents":4900,"currency":%q,"units":5}`, currency, currency), http.StatusCreated)
		s.order(customer(t, "ann"), currency, fmt.Sprintf(`{"sku":"c-%s","quantity":1}`, currency))
	}
	b.enter(s.URL, customer(t, "ann"))
	for currency, want := range prices {
		b.await(shows("#orders", "1 × "+currency))
		digits := func(text string) string { return strings.Trim(text, "€¥ \u00a0ABCDEFGHIJKLMNOPQRSTUVWXYZ") }
		if got := digits(b.text(card("c-"+currency, ".price"))); got != want {
			t.Errorf("a price of 4900 in %s: %q, want %q", currency, got, want)
		}
		sum := eval[string](b, fmt.Sprintf(`[...document.querySelectorAll("#orders li")].find((li) => li.innerText.includes("1 × %s")).querySelector(".sum").innerText`, currency))
		if got := digits(sum); got != want {
			t.Errorf("an order of 4900 in %s: %q, want %q", currency, got, want)
		}
	}
	b.picture("currencies")
}

// TestTheShopLoadsManySKUsByPages bounds the requests of a page with 1,500 SKUs.
func TestTheShopLoadsManySKUsByPages(t *testing.T) {
	t.Parallel()
	const skus, pages = 1500, 8
	s := startReplica(t)
	put := func(price, until int, status int) {
		var all sync.WaitGroup
		for worker := range 8 {
			all.Go(func() {
				for i := worker; i < until; i += 8 {
					s.call("PUT", fmt.Sprintf("/v1/admin/skus/p%04d", i), adminToken, "",
						fmt.Sprintf(`{"name":"Item %04d","price_cents":%d,"currency":"EUR","units":100}`, i, price), status)
				}
			})
		}
		all.Wait()
	}
	put(4999, skus, http.StatusCreated)
	var wire lossy
	url := wire.before(t, s).URL
	b := openBrowser(t, strings.TrimPrefix(url, "http://"))
	b.do(chromedp.EmulateViewport(1180, 900))
	b.enter(url, customer(t, "ann"))
	b.await(fmt.Sprintf("document.querySelectorAll('#skus > li').length === %d", skus))
	b.await(shows("#live", "Live"))
	s.order(customer(t, "ben"), "k", `{"sku":"p1499","quantity":1}`)
	b.await(shows(card("p1499", ".left"), "99 of 100 left"))
	if lists, single := wire.lists.Load(), wire.single.Load(); lists > 2*pages || single > 0 {
		t.Errorf("the page loaded %d lists and %d single SKUs", lists, single)
	}
	if !eval[bool](b, "[...document.querySelectorAll('#skus > li')].every((li, i, all) => !i || all[i - 1].dataset.sku < li.dataset.sku)") {
		t.Error("the SKUs are not sorted")
	}
	// Many changes at once load lists, not each SKU.
	wire.lists.Store(0)
	began := time.Now()
	put(5999, 500, http.StatusOK)
	s.sell("new", "A new item", 10, "")
	b.await(shows(card("p0499", ".price"), "59.99"))
	b.await(shows(card("new", "h3"), "A new item"))
	// The page waits 0.6 s on average, then loads all pages, or up to 5 single SKUs. A slow
	// machine needs more time for the changes, in which the page loads more often.
	lists, single, took := wire.lists.Load(), wire.single.Load(), time.Since(began)
	loads := max(20, 5+2*int32(took.Seconds()))
	t.Logf("500 changes in %v: %d lists, %d single SKUs", took, lists, single)
	if lists > loads*pages || single > loads*5 {
		t.Errorf("the page loaded %d lists and %d single SKUs after 500 changes in %v", lists, single, took)
	}
	b.buy("p1499", "1")
	b.await(shows("#orders", "1 × Item 1499"))
}

// buysAndPays buys a lamp, pays it, buys another and cancels it.
func (b *browser) buysAndPays() {
	b.t.Helper()
	b.buy("lamp", "2")
	b.await(shows("#messages", "Reserved for you: 2 × Brass lamp"))
	b.press("#orders li:first-child .pay")
	b.await(shows("#orders li:first-child", "Paid"))
	b.buy("lamp", "1")
	b.await(shows("#orders li:first-child", "1 × Brass lamp"))
	b.press("#orders li:first-child .cancel")
	b.await(shows("#orders li:first-child", "Cancelled"))
	b.await(shows(card("lamp", ".left"), "8 of 10 left"))
}

func TestAnEmptyShopFills(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"))
	b.do(chromedp.Navigate(s.URL))
	b.await(shows("#live", "Live"))
	b.await(shows("#empty", "Nothing is on sale yet."))
	b.look("empty")
	s.fill()
	b.await(shows(card("lamp", ".left"), "10 of 10 left"))
	b.await("document.querySelector('#empty').hidden")
}

func TestAnOlderBrowserBuys(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	b.before("delete AbortSignal.timeout; delete AbortSignal.any; delete window.SharedWorker; delete Navigator.prototype.locks; delete window.BroadcastChannel;")
	b.enter(s.URL, customer(t, "ann"))
	b.await(shows("#live", "Live"))
	b.buysAndPays()
}

// TestABrowserWithoutStorageBuys forbids sites to store anything.
func TestABrowserWithoutStorageBuys(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "Default"), 0o700); err != nil {
		t.Fatal(err)
	}
	settings := `{"profile":{"default_content_setting_values":{"cookies":2}}}`
	if err := os.WriteFile(filepath.Join(folder, "Default", "Preferences"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	b := openProfile(t, folder, strings.TrimPrefix(s.URL, "http://"))
	b.do(chromedp.Navigate(s.URL))
	b.await(shows("#live", "Live"))
	if !eval[bool](b, "(() => { try { return !sessionStorage } catch { return true } })()") {
		t.Fatal("the browser has a storage")
	}
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), customer(t, "ann")+"\r"))
	b.await(shows("#who", "ann"))
	b.buysAndPays()
}

// TestAReloadKeepsAnOrderUnderWay reloads the page before an order is answered.
func TestAReloadKeepsAnOrderUnderWay(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	var wire lossy
	url := wire.before(t, s).URL
	b := openBrowser(t, strings.TrimPrefix(url, "http://"), "/v1/orders")
	b.enter(url, customer(t, "ann"))
	b.await(shows("#live", "Live"))
	wire.hold.Lock()
	release := sync.OnceFunc(wire.hold.Unlock)
	defer release()
	b.buy("lamp", "2")
	b.await(shows(card("lamp", "form button"), "Ordering"))
	b.await(shows(card("lamp", ".left"), "8 of 10 left"))
	b.do(chromedp.Reload())
	release()
	b.await(shows(card("lamp", ".limit"), "Your order of 2 has no answer yet."))
	b.await(shows("#orders", "2 × Brass lamp"))
	b.press(card("lamp", "form button"))
	b.await(shows("#messages", "Reserved for you: 2 × Brass lamp"))
	var orders struct{ Items []any }
	text := s.call("GET", "/v1/orders", customer(t, "ann"), "", "", http.StatusOK)
	if err := json.Unmarshal(text, &orders); err != nil || len(orders.Items) != 1 {
		t.Errorf("there are %d orders, want 1: %s, %v", len(orders.Items), text, err)
	}
}

// tabTo presses Tab until the element has the focus.
func (b *browser) tabTo(selector string) {
	b.t.Helper()
	for range 60 {
		b.do(chromedp.KeyEvent("\t"))
		if eval[bool](b, fmt.Sprintf("document.activeElement.matches(%q)", selector)) {
			if eval[string](b, "getComputedStyle(document.activeElement).outlineStyle") == "none" {
				b.t.Errorf("%s shows no focus", selector)
			}
			return
		}
	}
	b.t.Fatalf("the key Tab does not reach %s", selector)
}

// focused is an expression that holds when the element has the focus.
func focused(selector string) string {
	return fmt.Sprintf("document.activeElement.matches(%q)", selector)
}

func TestTheKeyboardSuffices(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	b.do(chromedp.Navigate(s.URL))
	b.await(shows("#live", "Live"))
	b.do(chromedp.KeyEvent("\t"))
	b.await(focused(".skip"))
	b.picture("skip-link")
	b.do(chromedp.KeyEvent("\r"))
	b.await(focused("#sale"))
	b.do(chromedp.Reload())
	b.await(shows("#live", "Live"))
	b.tabTo("#token")
	b.do(chromedp.KeyEvent(customer(t, "ann") + "\r"))
	b.await(shows("#who", "ann"))

	// An order by Enter in the quantity. The focus stays.
	b.tabTo(card("lamp", "input"))
	b.do(chromedp.KeyEvent("\b2\r"))
	b.await(shows("#orders", "2 × Brass lamp"))
	b.await(focused(card("lamp", "input")))
	// Another by the button, which is sold out then: the card has the focus.
	b.tabTo(card("chair", "input"))
	b.do(chromedp.KeyEvent("\b2\t"))
	b.await(focused(card("chair", "button")))
	b.do(chromedp.KeyEvent(" "))
	b.await(shows("#orders", "2 × Oak chair"))
	b.await(focused(card("chair", "button")))
	s.order(customer(t, "ben"), "k", `{"sku":"chair","quantity":1}`)
	b.await(shows(card("chair", ".left"), "Sold out"))
	b.await(focused(`#skus [data-sku="chair"]`))
	b.look("sold-out-keyboard")
	b.tabTo("#orders li:first-child .pay")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#orders li:first-child", "Paid"))
	b.await(focused("#orders li:first-child"))
	b.tabTo("#orders li:last-child .cancel")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#orders li:last-child", "Cancelled"))
	b.await(focused("#orders li:last-child"))
}

// TestTheShopFitsASmallPhone looks at the longest texts at a width of 360 pixels.
func TestTheShopFitsASmallPhone(t *testing.T) {
	t.Parallel()
	s, b := shop(t, "409 (Conflict)")
	long := strings.Repeat("Hyperbolisch", 6)
	s.call("PUT", "/v1/admin/skus/"+long[:64], adminToken, "", fmt.Sprintf(`{"name":%q,"price_cents":4294967298,"currency":"LAK","units":2147483647}`, long), http.StatusCreated)
	b.do(chromedp.EmulateViewport(360, 740), chromedp.Navigate(s.URL))
	b.await(shows("#live", "Live"))
	b.look("narrow-stranger")
	b.enter(s.URL, customer(t, strings.Repeat("ann-of-green-gables", 4)))
	b.await(shows("#who", "ann"))
	b.buy(long[:64], "2147483647")
	b.await(shows("#messages", "Reserved"))
	b.buy("chair", "4")
	b.await(shows("#messages", "A smaller quantity may still succeed"))
	b.look("narrow")
}

func TestTheShopPaintsFromFewBytes(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	for i := range 200 {
		s.sell(fmt.Sprintf("p%04d", i), fmt.Sprintf("Item %04d", i), 100, "")
	}
	var wire lossy
	url := wire.before(t, s).URL
	b := openBrowser(t, strings.TrimPrefix(url, "http://"))
	b.do(chromedp.Navigate(url))
	b.await("document.querySelectorAll('#skus > li').length === 200")
	painted := wire.sent.Load()
	b.await(shows("#live", "Live"))
	b.await("document.querySelector('#skus:not(.stale)') !== null")
	t.Logf("%d bytes to the first paint of 200 SKUs, %d bytes when the page is live", painted, wire.sent.Load())
	if wire.sent.Load() > 100_000 {
		t.Errorf("the page took %d bytes, want at most 100,000", wire.sent.Load())
	}
}

// TestTheShopDrawsEverySecond changes the stock of 200 SKUs 60 times a second. The page has
// three tries: a busy machine may stop any program for a second.
func TestTheShopDrawsEverySecond(t *testing.T) {
	t.Parallel()
	const skus, tries = 200, 3
	s := startReplica(t)
	for i := range skus {
		s.sell(fmt.Sprintf("p%04d", i), fmt.Sprintf("Item %04d", i), 100, "")
	}
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"))
	var late []string
	for try := range tries {
		if late = b.secondsLate(s, skus, try); len(late) == 0 {
			return
		}
		t.Log(late)
	}
	t.Errorf("the page was late in each of %d tries, in the last one in %q", tries, late)
}

// secondsLate opens the shop, orders for some seconds, and returns those in which the page
// drew no change, or no frame for a second.
func (b *browser) secondsLate(s *server, skus, try int) (late []string) {
	b.t.Helper()
	const rate, seconds = 60, 5
	b.do(chromedp.EmulateViewport(1180, 900), chromedp.Navigate(s.URL))
	b.await(shows("#live", "Live"))
	// drawn has the changed cards and the longest time between two frames, of each second.
	eval[any](b, `window.drawn = []; {
		const second = () => drawn[Math.floor((performance.now() - began) / 1000)] ??= { changes: 0, gap: 0 };
		const began = performance.now();
		let last = began;
		new MutationObserver((all) => second().changes += all.length).observe(document.querySelector("#skus"), { subtree: true, childList: true });
		const frame = () => {
			second().gap = Math.max(second().gap, performance.now() - last);
			last = performance.now();
			requestAnimationFrame(frame);
		};
		frame();
	}`)
	ben := customer(b.t, "ben")
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	for i := range seconds * rate {
		<-tick.C
		all.Go(func() {
			s.order(ben, fmt.Sprintf("%d-%d", try, i), fmt.Sprintf(`{"sku":"p%04d","quantity":1}`, i%skus))
		})
	}
	all.Wait()
	b.await(shows(card("p0099", ".left"), fmt.Sprintf("%d of 100 left", 98-2*try)))
	drawn := eval[[]struct{ Changes, Gap float64 }](b, "[...drawn].map((second) => second ?? { changes: 0, gap: 1000 })")
	b.t.Log(drawn)
	if len(drawn) < seconds {
		b.t.Fatalf("%d seconds were seen", len(drawn))
	}
	for i, second := range drawn[:seconds] {
		if second.Changes == 0 || second.Gap >= 1000 {
			late = append(late, fmt.Sprintf("second %d: %v changes were drawn, the longest gap between frames was %v ms", i, second.Changes, second.Gap))
		}
	}
	return late
}
