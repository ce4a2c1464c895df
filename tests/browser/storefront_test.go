package browser_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"flashsale/internal/sandbox/sandboxtest"
)

// card is what to find within a SKU's card.
func card(sku, part string) string { return fmt.Sprintf(`#skus [data-sku="%s"] %s`, sku, part) }

// shows is an expression that holds when the text is in the element.
func shows(selector, text string) string {
	return fmt.Sprintf("(document.querySelector(%q)?.innerText ?? '').includes(%q)", selector, text)
}

// press presses a button of a SKU's card, or an order's row.
func (b *browser) press(selector string) {
	b.t.Helper()
	b.await(fmt.Sprintf("document.querySelector(%q)?.disabled === false", selector))
	b.do(chromedp.Click(chromedp.CSS(selector)))
}

// buy orders so many units.
func (b *browser) buy(sku, quantity string) {
	b.t.Helper()
	b.do(chromedp.SetValue(chromedp.CSS(card(sku, "input")), quantity))
	b.press(card(sku, "form button"))
}

// enter follows a link that signs a customer in, and agrees.
func (b *browser) enter(url, token string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url + "/#token=" + token))
	b.press("#become")
}

// shop is a replica with some SKUs on sale, and a browser that ann uses there.
func shop(t *testing.T, provoked ...string) (*server, *browser) {
	t.Helper()
	s := startReplica(t, "--payment-window=5m")
	s.fill()
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"), provoked...)
	b.do(chromedp.EmulateViewport(1180, 900))
	return s, b
}

// fill puts SKUs on sale.
func (s *server) fill() {
	s.t.Helper()
	soon := time.Now().Add(36 * time.Hour).UTC().Format(time.RFC3339)
	later := time.Now().Add(72 * time.Hour).UTC().Format(time.RFC3339)
	s.sell("lamp", "Brass lamp", 10, fmt.Sprintf(`,"per_customer_limit":4,"sale_ends_at":%q`, soon))
	s.sell("chair", "Oak chair", 3, "")
	s.sell("radio", "Transistor radio", 40, fmt.Sprintf(`,"sale_starts_at":%q,"sale_ends_at":%q`, soon, later))
	s.sell("radio-now", "Valve radio", 40, "")
}

// TestTheStorefrontOrdersAtThePriceThatItShows: the order was made up before the
// price was changed, and had no answer.
func TestTheStorefrontOrdersAtThePriceThatItShows(t *testing.T) {
	t.Parallel()
	s, b := shop(t, "409 (Conflict)")
	b.enter(s.URL, customer(t, "ann"))
	b.await(shows(card("chair", ".left"), "3 of 3 left"))
	const old = `{"chair":{"key":"k","quantity":1,"price_cents":1,"currency":"EUR"}}`
	eval[bool](b, fmt.Sprintf("sessionStorage.setItem('unsure', %q) === undefined", old))
	b.do(chromedp.Reload())
	b.await(shows(card("chair", "form button"), "Try again"))
	b.press(card("chair", "form button"))
	b.await(shows("#messages", "The price has changed, and nothing was ordered"))
	b.buy("chair", "1")
	b.await(shows("#messages", "Reserved for you: 1 × Oak chair"))
}

func TestTheStorefrontSellsLive(t *testing.T) {
	t.Parallel()
	s, b := shop(t, "409 (Conflict)", "401 (Unauthorized)")
	b.do(chromedp.Navigate(s.URL + "/"))
	b.await(shows("#live", "Live"))
	b.await(shows(card("lamp", ".left"), "10 of 10 left"))
	b.await(shows(card("radio", ".when"), "Starts in 1 d 11:"))
	if !eval[bool](b, "document.querySelector('#mine').hidden") {
		t.Error("a stranger is shown orders")
	}
	b.look("stranger")
	b.enter(s.URL, customer(t, "ann"))
	b.await(shows("#who", "ann"))
	if got := eval[string](b, "location.href"); got != s.URL+"/" {
		t.Errorf("the token stays in the address: %s", got)
	}

	b.buy("lamp", "3")
	b.await(shows("#messages", "Reserved for you: 3 × Brass lamp. Pay within 0"))
	b.await(shows("#orders", "3 × Brass lamp"))
	b.await(shows("#orders", "149.97"))
	b.await(shows(card("lamp", ".left"), "7 of 10 left"))

	// Another customer buys elsewhere, and it is seen here.
	ben := customer(t, "ben")
	s.order(ben, "k", `{"sku":"lamp","quantity":4}`)
	b.await(shows(card("lamp", ".left"), "3 of 10 left"))
	eval[any](b, "document.querySelector('#messages button').click()")
	b.image("storefront", 720)

	b.buy("lamp", "2")
	b.await(shows("#messages", "more than one customer may have"))
	b.buy("chair", "4")
	b.await(shows("#messages", "A smaller quantity may still succeed"))
	b.picture("storefront")
	s.order(ben, "k2", `{"sku":"chair","quantity":3}`)
	b.await(shows(card("chair", ".left"), "Sold out"))
	if !eval[bool](b, fmt.Sprintf("document.querySelector(%q).disabled", card("chair", "button"))) {
		t.Error("what is sold out can be bought")
	}
	b.look("sold-out")
	if got := eval[string](b, "document.querySelector('#messages').getAttribute('aria-live')"); got != "polite" {
		t.Errorf("messages are not read out: aria-live is %q", got)
	}
	b.do(chromedp.EmulateViewport(390, 844))
	if wide := eval[float64](b, "document.documentElement.scrollWidth"); wide > 390 {
		t.Errorf("a telephone of 390 pixels has to be scrolled sideways: %v", wide)
	}
	b.picture("storefront-mobile")
	b.do(chromedp.EmulateViewport(1180, 900))

	// The newest order is the first, its units go back when it is cancelled, and
	// what is paid stays.
	b.buy("lamp", "1")
	b.await(shows("#orders li:first-child", "1 × Brass lamp"))
	b.press("#orders li:first-child .cancel")
	b.await(shows("#orders li:first-child", "Cancelled"))
	b.await(shows(card("lamp", ".left"), "3 of 10 left"))
	b.press("#orders li:last-child .pay")
	b.await(shows("#messages", "Paid. Thank you."))
	b.await(shows("#orders li:last-child", "Paid"))
	b.look("orders")
	if eval[bool](b, "[...document.querySelectorAll('#orders .row')].some((row) => !row.hidden)") {
		t.Error("what has come to its end can be paid or cancelled")
	}

	// They are there when the page is loaded again; and gone for somebody else.
	b.do(chromedp.Reload())
	b.await("document.querySelectorAll('#orders li').length === 2")
	b.press("#leave")
	b.await("document.querySelectorAll('#orders li').length === 0 && !document.querySelector('#enter').hidden")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), ben+"\r"))
	b.await(shows("#who", "ben"))
	b.await("document.querySelectorAll('#orders li').length === 2")
	b.press("#leave")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), "nonsense\r"))
	b.await(shows("#messages", "Your token is not valid"))
	b.await("!document.querySelector('#enter').hidden")
	b.look("bad-token")
}

// A page of somebody else can link to the shop with a token of its own, also in a new tab.
// The customer decides: no order is placed with that token before.
func TestALinkCannotChangeTheCustomer(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	ann, mallory := customer(t, "ann"), customer(t, "mallory")
	asking := `document.querySelector("#switch").open`
	signedOut := `!document.querySelector("#enter").hidden && document.querySelector("#who").hidden`
	follow := func(b *browser, token string) {
		t.Helper()
		b.do(chromedp.Navigate(s.URL + "/#token=" + token))
		b.await(shows("#live", "Live"))
		if got := eval[string](b, "location.href"); got != s.URL+"/" {
			t.Errorf("the token stays in the address: %s", got)
		}
	}
	orders := func(token string) int {
		t.Helper()
		return strings.Count(string(s.call("GET", "/v1/orders", token, "", "", http.StatusOK)), `"id"`)
	}
	follow(b, ann)
	b.await(asking)
	b.await(shows("#switch", "Sign in as ann?"))
	b.look("sign-in")
	b.press("#become")
	b.await(shows("#who", "ann"))
	follow(b, ann) // the same session: nothing to ask
	b.buy("lamp", "1")
	b.await(shows("#orders", "1 × Brass lamp"))
	if eval[bool](b, asking) {
		t.Error("the page asks about the customer's own token")
	}

	// A new tab has no session that a token would replace.
	tab := b.tab()
	follow(tab, mallory)
	tab.await(asking)
	tab.await(shows("#switch", "The link that you have followed would sign you in as mallory"))
	if strings.Contains(tab.text("#switch"), "You are signed in") {
		t.Error("the page says that a new tab has a session")
	}
	tab.press("#stay")
	tab.await("!" + asking)
	tab.await(signedOut)
	tab.do(chromedp.Reload())
	tab.await(shows("#live", "Live"))
	tab.await(signedOut)
	tab.close()

	// By a link in this tab, and by a new load of the page.
	follow(b, mallory)
	b.await(asking)
	b.await(shows("#switch", "You are signed in as ann. The link that you have followed would sign you in as mallory"))
	b.look("switch")
	b.press("#stay")
	b.await("!" + asking)
	b.do(chromedp.Navigate("about:blank"))
	follow(b, mallory)
	b.await(asking)
	eval[any](b, fmt.Sprintf("location.hash = 'token=%s'", customer(t, "trent"))) // it does not change the question
	b.await("location.hash === ''")
	b.await(shows("#switch", "sign you in as mallory"))
	b.do(chromedp.KeyEvent(kb.Escape))
	b.await("!" + asking)
	b.await(shows("#who", "ann"))
	b.buy("chair", "1")
	b.await(shows("#orders li:first-child", "1 × Oak chair"))
	if got, want := [2]int{orders(ann), orders(mallory)}, [2]int{2, 0}; got != want {
		t.Errorf("ann and mallory have %v orders, want %v", got, want)
	}

	follow(b, mallory)
	b.await(asking)
	b.press("#become")
	b.await(shows("#who", "mallory"))
	b.await("document.querySelectorAll('#orders li').length === 0")
	b.buy("chair", "1")
	b.await(shows("#orders", "1 × Oak chair"))
	if got, want := [2]int{orders(ann), orders(mallory)}, [2]int{2, 1}; got != want {
		t.Errorf("ann and mallory have %v orders, want %v", got, want)
	}
}

// An open shop shows what is announced and what is withdrawn, without a reload.
func TestTheStorefrontFollowsTheList(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	s.sell("drop", "Secret drop", 5, fmt.Sprintf(`,"visible_from":%q`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	b.enter(s.URL, customer(t, "ann"))
	b.await(shows("#live", "Live"))
	b.await(shows(card("lamp", ".left"), "10 of 10 left"))
	if strings.Contains(b.text("#skus"), "Secret") {
		t.Error("the page shows a SKU before its announcement")
	}
	s.sell("drop", "Secret drop", 5, "", http.StatusOK)
	b.await(shows(card("drop", ".left"), "5 of 5 left"))
	b.buy("drop", "2")
	b.await(shows("#orders", "2 × Secret drop"))
	s.call("DELETE", "/v1/admin/skus/drop", adminToken, "", "", http.StatusNoContent)
	b.await(shows(card("drop", ".left"), "Not on sale"))
	b.await(fmt.Sprintf("document.querySelector(%q).disabled", card("drop", "form button")))
	b.look("withdrawn")
	b.press("#orders .pay") // its orders stay
	b.await(shows("#messages", "Paid. Thank you."))
	b.do(chromedp.Reload())
	b.await(shows(card("lamp", ".left"), "10 of 10 left"))
	b.await(shows("#orders", "Paid"))
	if strings.Contains(b.text("#skus"), "Secret") {
		t.Error("a new page shows a withdrawn SKU")
	}
}

// TestTheStorefrontShowsOlderOrders shows one page of a customer's orders after the
// other, up to the first.
func TestTheStorefrontShowsOlderOrders(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	s.sell("stool", "Pine stool", 1000, "")
	ann := customer(t, "ann")
	for i := range 103 {
		quantity := 2
		if i == 0 {
			quantity = 7
		}
		s.order(ann, fmt.Sprint(i), fmt.Sprintf(`{"sku":"stool","quantity":%d}`, quantity))
	}
	rows := func(n int) string { return fmt.Sprintf("document.querySelectorAll('#orders li').length === %d", n) }
	b.enter(s.URL, ann)
	b.await(rows(50))
	b.await(shows("#older", "Show older orders"))
	b.do(chromedp.ScrollIntoView(chromedp.CSS("#older")))
	b.look("older")
	// What is bought meanwhile is the first, and takes the place of none.
	b.buy("stool", "3")
	b.await(shows("#orders li:first-child", "3 × Pine stool"))
	b.press("#older")
	b.await(rows(101))
	b.press("#older")
	b.await(rows(104))
	b.await("document.querySelector('#older').hidden")
	b.await(shows("#orders li:last-child", "7 × Pine stool"))
	if !eval[bool](b, "[...document.querySelectorAll('#orders li')].every((li, i, all) => !i || all[i - 1].dataset.order > li.dataset.order)") {
		t.Error("the orders are not shown in their order")
	}
	b.press("#orders li:last-child .cancel")
	b.await(shows("#orders li:last-child", "Cancelled"))

	// Another customer has none of them.
	b.press("#leave")
	b.await(rows(0))
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), customer(t, "ben")+"\r"))
	b.await(shows("#who", "ben"))
	b.await(shows("#no-orders", "You have no orders yet."))
	if !eval[bool](b, "document.querySelector('#older').hidden") {
		t.Error("who has no orders is offered older ones")
	}
}

// lossy stands between the browser and a replica. It loses the answers to so many
// orders, and refuses so many before that. It counts what passes.
type lossy struct {
	refuse, lose         atomic.Int32
	hold                 sync.Mutex   // locked: delays the answers to orders
	orders               atomic.Int32 // that came
	lists, single        atomic.Int32 // reads of lists of SKUs and of single SKUs
	streams, mostStreams atomic.Int32 // open now, and at most
	sent                 atomic.Int64 // bytes to the browser, with headers
}

func (l *lossy) before(t *testing.T, s *server) *httptest.Server {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	proxy.ModifyResponse = func(answer *http.Response) error {
		if answer.Request.Method == http.MethodPost {
			l.hold.Lock()
			defer l.hold.Unlock()
			if l.lose.Add(-1) >= 0 {
				return errors.New("lost")
			}
		}
		return nil
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == "/v1/events":
			now := l.streams.Add(1)
			defer l.streams.Add(-1)
			for most := l.mostStreams.Load(); now > most && !l.mostStreams.CompareAndSwap(most, now); most = l.mostStreams.Load() {
			}
		case path == "/v1/skus" || path == "/v1/admin/skus":
			l.lists.Add(1)
		case strings.HasPrefix(path, "/v1/skus/") || strings.HasPrefix(path, "/v1/admin/skus/"):
			l.single.Add(1)
		}
		if r.Method == http.MethodPost {
			l.orders.Add(1)
			if l.refuse.Add(-1) >= 0 {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = w.Write([]byte(`{"type":"/errors/busy","title":"Busy","status":503}`))
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	server.Listener = metered{server.Listener, &l.sent}
	server.Start()
	t.Cleanup(server.CloseClientConnections)
	return server
}

// metered counts the bytes that its connections send.
type metered struct {
	net.Listener
	sent *atomic.Int64
}

func (m metered) Accept() (net.Conn, error) {
	conn, err := m.Listener.Accept()
	return meteredConn{conn, m.sent}, err
}

type meteredConn struct {
	net.Conn
	sent *atomic.Int64
}

func (m meteredConn) Write(b []byte) (int, error) {
	m.sent.Add(int64(len(b)))
	return m.Conn.Write(b)
}

// TestTheStorefrontAsksAgainUnderTheSameKey loses answers to orders that were made.
func TestTheStorefrontAsksAgainUnderTheSameKey(t *testing.T) {
	t.Parallel()
	// The page waits up to 4 s between its tries, and has to draw the order before it expires.
	s := startReplica(t, "--payment-window=15s")
	s.fill()
	s.sell("constructor", "A kit", 3, "") // a name that every object of JavaScript has
	var wire lossy
	url := wire.before(t, s).URL
	b := openBrowser(t, strings.TrimPrefix(url, "http://"), "/v1/orders")
	b.enter(url, customer(t, "ann"))
	b.await(shows("#who", "ann"))
	b.await(shows("#live", "Live"))
	b.await(shows(card("constructor", "form button"), "Buy"))
	wire.refuse.Store(1)
	wire.lose.Store(2)
	b.buy("radio-now", "2")
	b.await(shows("#orders", "2 × Valve radio"))
	if tries := wire.orders.Load(); tries != 4 {
		t.Errorf("asked %d times, want 4", tries)
	}
	b.await(shows(card("radio-now", ".left"), "38 of 40 left"))
	// What was not paid in time goes back, and the page sees it.
	b.await(shows("#orders", "Expired"))
	b.await(shows(card("radio-now", ".left"), "40 of 40 left"))

	// An order whose answers are all lost can be asked for later, also by a page
	// that was loaded again, and is not made twice.
	wire.lose.Store(1000)
	b.buy("radio-now", "3")
	b.await(shows("#messages", "nothing is done twice"))
	b.do(chromedp.Reload())
	b.await(shows(card("radio-now", ".limit"), "Your order of 3 has no answer yet."))
	b.look("no-answer")
	// Nor is it forgotten when the customer's token ends meanwhile.
	ended := sandboxtest.Token(t, secret, map[string]any{"sub": "ann", "exp": 1})
	b.enter(url, ended)
	b.await("!document.querySelector('#enter').hidden")
	// Nor by a link of somebody else, while nobody is signed in.
	b.do(chromedp.Navigate(url + "/#token=" + customer(t, "mallory")))
	b.await(shows("#switch", "sign you in as mallory"))
	b.await(shows("#switch", "Orders without an answer can then not be retried"))
	b.press("#stay")
	b.await("!document.querySelector('#switch').open")
	b.enter(url, customer(t, "ann"))
	b.await("document.querySelectorAll('#orders li').length === 2")
	b.await(shows(card("radio-now", ".limit"), "Your order of 3 has no answer yet."))
	wire.lose.Store(0)
	b.press(card("radio-now", "form button"))
	b.await("document.querySelectorAll('#orders li').length === 2")
	b.await(shows(card("radio-now", "form button"), "Buy"))
	var orders struct{ Items []any }
	text := s.call("GET", "/v1/orders", customer(t, "ann"), "", "", http.StatusOK)
	if err := json.Unmarshal(text, &orders); err != nil || len(orders.Items) != 2 {
		t.Errorf("there are %d orders, want 2: %s, %v", len(orders.Items), text, err)
	}
}
