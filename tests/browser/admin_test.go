package browser_test

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// The operator's page, whose provoked errors of the console are those of the browser.

// row is what to find within a row of a section's table.
func row(section, key, part string) string {
	return fmt.Sprintf(`%s tr[data-key=%q] %s`, section, key, part)
}

// opened is what to find within the open dialog.
func opened(part string) string { return "dialog[open] " + part }

const closed = "document.querySelector('dialog[open]') === null"

// operate opens the page of a replica at an address, and signs in.
func operate(t *testing.T, address string, provoked ...string) *browser {
	t.Helper()
	b := openBrowser(t, strings.TrimPrefix(address, "http://"), provoked...)
	b.do(chromedp.EmulateViewport(1180, 900), chromedp.Navigate(address+"/admin"))
	b.signIn(adminToken)
	b.await("!document.querySelector('#work').hidden")
	b.await(shows("#live", "Live"))
	return b
}

func (b *browser) signIn(token string) {
	b.t.Helper()
	b.await(`document.querySelector("#enter")?.hidden === false`)
	b.write("#token", token)
	b.do(chromedp.KeyEvent("\r"))
}

// write replaces what is in a field.
func (b *browser) write(selector, text string) {
	b.t.Helper()
	b.await(fmt.Sprintf("document.querySelector(%q) !== null", selector))
	eval[any](b, fmt.Sprintf("document.querySelector(%q).value = ''", selector))
	b.do(chromedp.Focus(chromedp.CSS(selector)), chromedp.KeyEvent(text))
}

func TestTheOperatorSignsIn(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"), "401 (Unauthorized)", "403 (Forbidden)")
	b.do(chromedp.EmulateViewport(1180, 900), chromedp.Navigate(s.URL+"/admin"))
	b.await(focused("#token"))
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#token-error", "Enter the admin token."))
	b.signIn("wörong")
	b.await(shows("#token-error", "only tokens of printable ASCII characters"))
	b.signIn("wrong")
	b.await(shows("#token-error", "This token is not accepted. The token is neither the admin token nor a JWT. (request "))
	b.await(focused("#token"))
	b.look("admin-wrong-token")
	b.signIn(customer(t, "ann"))
	b.await(shows("#token-error", "The token's scope does not contain admin."))

	b.signIn(adminToken)
	b.await(shows("#skus .status", "4 SKUs"))
	b.await(shows(row("#skus", "lamp", ""), "Brass lamp"))
	if kept := eval[string](b, `JSON.stringify([location.href, history.state, {...localStorage}, {...sessionStorage}, document.cookie, document.documentElement.outerHTML,
		[...document.querySelectorAll("input")].map((input) => input.value)])`); strings.Contains(kept, adminToken) {
		t.Errorf("the page keeps the token: %s", kept)
	}
	if stores := await[int](b, `(async () => (await indexedDB.databases()).length + (await caches.keys()).length)()`); stores > 0 {
		t.Errorf("the page has %d stores", stores)
	}
	b.do(chromedp.Reload())
	b.await(`!document.querySelector("#enter").hidden && document.querySelector("#work").hidden`)
	b.signIn(sandboxtest.Token(t, secret, map[string]any{"sub": "olga", "scope": "admin"}))
	b.await(shows("#skus .status", "4 SKUs"))
	b.press("#leave")
	b.await(`document.querySelector("#enter")?.hidden === false && document.querySelector("#work").hidden && document.querySelectorAll("tbody tr").length === 0`)
}

func TestTheOperatorCreatesAndChangesASKU(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	b := operate(t, s.URL, "422 (Unprocessable", "400 (Bad Request)", "412 (Precondition")
	b.await(shows(row("#skus", "radio", ""), "starts "))
	b.look("admin")
	b.image("admin", 1000)

	b.press("#create")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#sku-dialog-sku", "must start with a letter or digit"))
	b.write(opened("[name=sku]"), "späti")
	b.write(opened("[name=currency]"), "eur")
	b.write(opened("[name=price_cents]"), "49.5")
	b.write(opened("[name=units]"), "many")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#sku-dialog-units", "must be a whole number"))
	b.write(opened("[name=units]"), "-1")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#sku-dialog-price_cents", "must be a whole number"))
	b.write(opened("[name=name]"), "x")
	b.write(opened("[name=price_cents]"), "1")
	b.write(opened("[name=currency]"), "EUR")
	b.write(opened("[name=units]"), "1")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#sku-dialog-sku", "letters, digits"))
	b.write(opened("[name=sku]"), "sofa")
	b.write(opened("[name=name]"), "")
	b.write(opened("[name=currency]"), "eur")
	b.write(opened("[name=price_cents]"), "49.5")
	b.write(opened("[name=units]"), "-1")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#sku-dialog-name", "must have 1 to 255 characters"))
	b.await(shows("#sku-dialog-price_cents", "must be a whole number"))
	b.await(shows("#sku-dialog-currency", "ISO 4217"))
	b.await(focused("[name=name]"))
	b.look("admin-invalid")
	b.write(opened("[name=name]"), "Red sofa")
	b.write(opened("[name=units]"), "5")
	b.write(opened("[name=price_cents]"), "123456")
	b.write(opened("[name=currency]"), "RSD")
	b.await(shows(opened("output"), "1,234.56"))
	b.write(opened("[name=per_customer_limit]"), "2")
	eval[any](b, `document.querySelector("[name=sale_ends_at]").value = "2001-02-03T04:05:06"; document.querySelector("[name=sale_starts_at]").value = "2002-01-01T00:00:00"`)
	b.press(opened("button:not([type])"))
	b.await(shows("#sku-dialog-sale_ends_at", "must be after sale_starts_at"))
	eval[any](b, `document.querySelector("[name=sale_starts_at]").value = "2000-01-01T00:00:00"`)
	b.press(opened("button:not([type])"))
	b.await(closed)
	b.await(shows("#messages", "Saved sofa."))
	b.await(shows(row("#skus", "sofa", ""), "over since"))
	b.await(shows(row("#skus", "sofa", ""), "1,234.56"))

	// One that exists is not overwritten.
	b.press("#create")
	for name, text := range map[string]string{"sku": "chair", "name": "Pine chair", "price_cents": "1", "currency": "EUR", "units": "1"} {
		b.write(opened("[name="+name+"]"), text)
	}
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#sku-dialog-sku", "exists already, with other values"))
	b.press(opened("[name=cancel]"))

	// Somebody else changes a SKU under the open dialog.
	b.press(row("#skus", "lamp", "button"))
	b.await(shows("#sku-dialog-title", "Change lamp"))
	s.call("PUT", "/v1/admin/skus/lamp", adminToken, "", `{"name":"Steel lamp","price_cents":5999,"currency":"EUR","units":10}`, http.StatusOK)
	b.write(opened("[name=name]"), "Copper lamp")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows(opened(".error[role=alert]"), "Somebody has changed lamp since you opened it. Nothing of yours was saved."))
	b.await(shows("#sku-dialog-name", "was changed to Steel lamp"))
	b.await(shows("#sku-dialog-price_cents", "was changed to 5999 (€59.99)"))
	b.await(shows("#sku-dialog-per_customer_limit", "was changed to empty"))
	b.look("admin-changed-meanwhile")
	if name := s.sku("lamp").Name; name != "Steel lamp" {
		t.Errorf("the other change was lost: the name is %q", name)
	}
	b.press(opened("[name=theirs]"))
	b.await(`document.querySelector("dialog[open] [name=name]").value === "Steel lamp"`)
	b.write(opened("[name=name]"), "Copper lamp")
	b.do(chromedp.KeyEvent("\r"))
	b.await(closed)
	b.await(shows(row("#skus", "lamp", ""), "Copper lamp"))
	if got := s.sku("lamp"); got.Name != "Copper lamp" || got.PriceCents != 5999 || got.PerCustomerLimit != nil || got.SaleEndsAt != nil {
		t.Errorf("saved %+v", got)
	}
	// Without a change of them, times keep their fractions of a second.
	const precise = "2040-01-02T03:04:05.678901Z"
	s.call("PUT", "/v1/admin/skus/lamp", adminToken, "", fmt.Sprintf(`{"name":"Lamp","price_cents":5999,"currency":"EUR","units":10,"sale_ends_at":%q}`, precise), http.StatusOK)
	b.await(shows(row("#skus", "lamp", ""), "ends "))
	b.press(row("#skus", "lamp", "button"))
	b.await(shows("#sku-dialog-title", "Change lamp"))
	b.write(opened("[name=name]"), "Best lamp")
	b.do(chromedp.KeyEvent("\r"))
	b.await(closed)
	if got := s.sku("lamp"); got.Name != "Best lamp" || got.SaleEndsAt == nil || *got.SaleEndsAt != precise {
		t.Errorf("saved %+v, %v", got, got.SaleEndsAt)
	}
}

func TestTheOperatorWithdrawsASKU(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	b := operate(t, s.URL, "422 (Unprocessable")
	b.press("#create")
	for name, text := range map[string]string{"sku": "drop", "name": "Secret drop", "price_cents": "1", "currency": "EUR", "units": "5"} {
		b.write(opened("[name="+name+"]"), text)
	}
	eval[any](b, `document.querySelector("[name=visible_from]").value = "2099-01-02T00:00:00"; document.querySelector("[name=sale_starts_at]").value = "2099-01-01T00:00:00"`)
	b.press(opened("button:not([type])"))
	b.await(shows("#sku-dialog-visible_from", "must not be after sale_starts_at"))
	eval[any](b, `document.querySelector("[name=sale_starts_at]").value = "2099-01-02T00:00:00"`)
	b.press(opened("button:not([type])"))
	b.await(shows(row("#skus", "drop", ""), "hidden until"))
	b.press(row("#skus", "drop", "button")) // it can be changed while it is hidden
	b.await(shows("#sku-dialog-title", "Change drop"))
	b.write(opened("[name=name]"), "Best drop")
	b.do(chromedp.KeyEvent(""))
	b.await(shows(row("#skus", "drop", ""), "Best drop"))

	withdraw := row("#skus", "lamp", "button:nth-of-type(3)")
	b.press(withdraw)
	b.await(shows("#withdraw-dialog", "Withdraw lamp?"))
	b.look("admin-withdraw")
	b.press(opened("[name=cancel]"))
	b.await(closed)
	s.call("GET", "/v1/skus/lamp", "", "", "", http.StatusOK)
	b.press(withdraw)
	b.press(opened("button:not([type])"))
	b.await(shows("#messages", "Withdrew lamp."))
	b.await(shows(row("#skus", "lamp", ""), "withdrawn since"))
	b.await(fmt.Sprintf("[...document.querySelectorAll(%q)].every((button) => button.hidden)", row("#skus", "lamp", "button")))
	b.look("admin-withdrawn")
	s.call("GET", "/v1/skus/lamp", "", "", "", http.StatusNotFound)
	// Another administrator withdraws the chair.
	s.call("DELETE", "/v1/admin/skus/chair", adminToken, "", "", http.StatusNoContent)
	b.await(shows(row("#skus", "chair", ""), "withdrawn since"))
}

type sku struct {
	Name             string
	PriceCents       int64 `json:"price_cents"`
	Units, Available int64
	PerCustomerLimit *int    `json:"per_customer_limit"`
	SaleEndsAt       *string `json:"sale_ends_at"`
}

func (s *server) sku(name string) (got sku) {
	s.t.Helper()
	if err := json.Unmarshal(s.call("GET", "/v1/skus/"+name, "", "", "", http.StatusOK), &got); err != nil {
		s.t.Fatal(err)
	}
	return got
}

// sellOn orders a stool again and again, so that the seller keeps its lock, until it is stopped.
func (s *server) sellOn() (stop func()) {
	s.t.Helper()
	s.sell("stool", "Pine stool", 1_000_000, "")
	ann, stopped := customer(s.t, "ann"), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stopped:
				return
			case <-time.After(50 * time.Millisecond):
				s.order(ann, fmt.Sprint("stool", i), `{"sku":"stool","quantity":1}`)
			}
		}
	})
	return func() {
		close(stopped)
		all.Wait()
	}
}

func TestTheOperatorSeesWhoSells(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	other := sandboxtest.StartReplica(t, sandbox.ReplicaConfig{Replica: "replica-2", MySQLDSN: s.dsn, EtcdEndpoints: servers.EtcdEndpoints(),
		AdminToken: adminToken, JWTSecret: secret})
	b := operate(t, other.URL, "a request to another host: "+s.URL) // which is opened afterwards
	b.await(shows("#sellers .status", "No lock is held"))
	defer s.sellOn()()
	b.await(shows(row("#sellers", "stool", ""), "replica-1"))
	b.await(shows("#replica .status", "replica-2, started "))
	(&server{Replica: other, t: t}).order(customer(t, "ben"), "k", `{"sku":"stool","quantity":1}`)
	b.await(shows(row("#replica", "Orders forwarded to sellers", ""), "1"))
	// Reads are counted when they begin: one that is under way may end long after that.
	b.before(`window.reads = 0; { const send = fetch; window.fetch = (path, ...more) => { reads += path === "/metrics"; return send(path, ...more); }; }`)
	b.do(chromedp.Navigate(s.URL + "/admin"))
	b.signIn(adminToken)
	b.await(shows("#replica .status", "replica-1, started "))
	b.await(`Number(document.querySelector('#replica tr[data-key="Orders placed"] td:last-child')?.innerText) > 0`)
	b.look("admin-sellers")
	token := b.text(row("#sellers", "stool", "td:nth-child(3)"))

	b.press(row("#sellers", "stool", "button"))
	b.await(shows("#revoke-dialog-title", "Revoke the lock of stool, held by replica-1 with token "+token+"?"))
	b.look("admin-revoke")
	b.do(chromedp.KeyEvent("\x1b"))
	b.await(closed)
	// The page reads on, only while its tab is visible.
	before := eval[int](b, "reads")
	b.await(fmt.Sprintf("reads >= %d", before+2))
	b.show(false)
	before = eval[int](b, "reads")
	time.Sleep(5 * time.Second)
	if now := eval[int](b, "reads"); now > before {
		t.Errorf("a hidden tab read the metrics %d times", now-before)
	}
	b.show(true)
	b.await(shows(row("#sellers", "stool", ""), token))
	b.press(row("#sellers", "stool", "button"))
	b.press(opened("button:not([type])"))
	b.await(closed)
	b.await(shows("#messages", "Revoked the lock of stool."))
	// The next order takes the lock again, with a larger token.
	b.await(fmt.Sprintf("Number(document.querySelector(%q)?.innerText) > %s", row("#sellers", "stool", "td:nth-child(3)"), token))
}

func TestLocksThatCannotBeListedAreExplained(t *testing.T) {
	t.Parallel()
	s := startReplica(t, "--strategy=conditional")
	s.fill()
	b := operate(t, s.URL, "501 (Not Implemented)")
	b.await(shows("#sellers .status", "The service's strategy uses no lock, or its lock server does not report holders."))
	b.look("admin-no-locks")
}

func TestTheOperatorAuditsAndFindsLatePayments(t *testing.T) {
	t.Parallel()
	s := startReplica(t, "--payment-window=10s") // the page draws the order before it expires
	s.fill()
	b := operate(t, s.URL)
	b.await(shows("#late .status", "There are none."))
	b.press("#run-audit")
	b.await(shows("#audit .status", "Every invariant holds: 4 SKUs, checked in "))

	ann := customer(t, "ann")
	var order struct{ ID string }
	if err := json.Unmarshal(s.call("POST", "/v1/orders", ann, "k", `{"sku":"lamp","quantity":2}`, http.StatusCreated), &order); err != nil {
		t.Fatal(err)
	}
	b.await(shows(row("#skus", "lamp", ".live"), "8"))
	b.await(shows(row("#skus", "lamp", ".live"), "10"))
	s.call("POST", "/v1/orders/"+order.ID+"/payment", ann, "", `{"reference":"pay-0815"}`, http.StatusConflict)
	b.press("#read-late")
	b.await(shows("#late table", "pay-0815"))
	b.await(shows("#late table", order.ID))

	db, err := sql.Open("mysql", s.dsn) // package sandbox imports the driver
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), "UPDATE stock SET available = available - 1 WHERE sku = 'radio'"); err != nil {
		t.Fatal(err)
	}
	b.press("#run-audit")
	b.await(shows("#audit .status", "1 violation: 4 SKUs, checked in "))
	b.await(shows("#violations tbody tr:first-child", "40 units, but 39 available + 0 reserved + 0 paid"))
	b.await(shows("#balances tbody tr:first-child", "radio"))
	b.look("admin-violation")
}

func TestTheOperatorSees1500SKUsByPages(t *testing.T) {
	t.Parallel()
	const skus = 1500
	s := startReplica(t)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := worker; i < skus; i += 8 {
				s.sell(fmt.Sprintf("p%04d", i), fmt.Sprintf("Item %04d", i), 100, "")
			}
		})
	}
	all.Wait()
	var wire lossy
	b := operate(t, wire.before(t, s).URL)
	b.await(shows("#skus .status", "1,500 SKUs"))
	b.await(shows("#skus .pager", "1 to 50 of 1,500"))
	if lists, single := wire.lists.Load(), wire.single.Load(); lists > 16 || single > 0 {
		t.Errorf("the page loaded %d lists and %d single SKUs", lists, single)
	}
	b.press("#skus .pager button:last-child")
	b.await(shows("#skus .pager", "51 to 100 of 1,500"))
	b.await(shows("#skus tbody tr:first-child", "Item 0050"))
	s.order(customer(t, "ben"), "k", `{"sku":"p0050","quantity":1}`)
	b.await(shows(row("#skus", "p0050", ".live"), "99"))
	b.look("admin-many")
	b.write("#filter", "item 149")
	b.await(shows("#skus .status", "10 of 1,500 SKUs"))
	b.await(shows("#skus tbody tr:last-child", "p1499"))
	b.press("#run-audit")
	b.await(shows("#audit .status", "Every invariant holds: 1,500 SKUs"))
	b.await(shows("#audit .pager:last-child", "1 to 50 of 1,500"))
}

func TestTheKeyboardSufficesForTheOperator(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"))
	b.do(chromedp.EmulateViewport(1180, 900), chromedp.Navigate(s.URL+"/admin"))
	b.await(focused("#token"))
	b.do(chromedp.KeyEvent(adminToken + "\r"))
	b.await(shows("#skus .status", "4 SKUs"))
	b.await(focused("#main"))
	b.tabTo("#create")
	b.do(chromedp.KeyEvent("\r"))
	b.await(focused("[name=sku]"))
	b.do(chromedp.KeyEvent("sofa\tRed sofa\t500\tEUR\t3\r"))
	b.await(closed)
	b.await(focused("#create"))
	b.await(shows(row("#skus", "sofa", ""), "Red sofa"))
	b.tabTo(row("#skus", "sofa", "button:nth-of-type(2)"))
	b.do(chromedp.KeyEvent(" "))
	b.await(focused(opened("[name=units]")))
	b.do(chromedp.KeyEvent("4\r"))
	b.await(closed)
	b.await(focused(row("#skus", "sofa", "button:nth-of-type(2)")))
	b.await(shows(row("#skus", "sofa", ".live"), "7"))
	defer s.sellOn()()
	b.await(shows(row("#sellers", "stool", ""), "replica-1"))
	b.tabTo(row("#sellers", "stool", "button"))
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#revoke-dialog-title", "Revoke the lock of stool"))
	b.tabTo(opened("[name=cancel]"))
	b.do(chromedp.KeyEvent("\r"))
	b.await(focused(row("#sellers", "stool", "button")))
	b.tabTo("#run-audit")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#audit .status", "Every invariant holds"))
	b.await(focused("#run-audit"))
	b.tabTo("#read-late")
	b.do(chromedp.KeyEvent("\r"))
	b.await(focused("#read-late"))
}

// TestTheOperatorsPageFitsASmallPhone looks at the longest texts at a width of 360 pixels.
func TestTheOperatorsPageFitsASmallPhone(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	long := strings.Repeat("Hyperbolisch", 6)
	s.call("PUT", "/v1/admin/skus/"+long[:64], adminToken, "", fmt.Sprintf(`{"name":%q,"price_cents":4294967298,"currency":"LAK","units":2147483647}`, long), http.StatusCreated)
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"))
	b.do(chromedp.EmulateViewport(360, 740), chromedp.Navigate(s.URL+"/admin"))
	b.await(focused("#token"))
	b.look("admin-narrow-stranger")
	b.signIn(adminToken)
	defer s.sellOn()()
	b.await(shows(row("#sellers", "stool", ""), "replica-1"))
	b.await(shows("#replica .status", "replica-1, started "))
	b.press("#run-audit")
	b.await(shows("#audit .status", "Every invariant holds"))
	b.look("admin-narrow")
	b.press(row("#skus", long[:64], "button"))
	b.await(shows("#sku-dialog-title", "Change"))
	b.look("admin-narrow-change")
}
