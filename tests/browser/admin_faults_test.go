package browser_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp"
)

// faulty stands between the browser and a replica.
type faulty struct {
	lose  atomic.Int32 // so many answers to changes
	limit atomic.Int32 // so many changes get a 429 after that
	hang  atomic.Bool  // administrators' calls get no answer
	deny  atomic.Bool  // administrators' calls get a 401
	// denyChanges is deny for changes only, and not for what a page reads every 2 s.
	denyChanges atomic.Bool
	sent        atomic.Int32 // changes
}

func (f *faulty) before(t *testing.T, s *server) string {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.hang.Load() && strings.HasPrefix(r.URL.Path, "/v1/admin/") {
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		if r.URL.Path == "/metrics" {
			http.NotFound(w, r)
			return
		}
		if (f.deny.Load() || f.denyChanges.Load() && r.Method != http.MethodGet) && strings.HasPrefix(r.URL.Path, "/v1/admin/") {
			r.Header.Set("Authorization", "Bearer ended")
		}
		if r.Method != http.MethodGet {
			f.sent.Add(1)
			if f.lose.Add(-1) >= 0 {
				proxy.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			if f.limit.Add(-1) >= 0 {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusTooManyRequests)
				_, _ = w.Write([]byte(`{"type":"/errors/too-many-requests","title":"Too many requests","status":429}`))
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.CloseClientConnections)
	return server.URL
}

// TestALostAnswerNeverRestocksTwice loses answers to restocks that were applied.
func TestALostAnswerNeverRestocksTwice(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	var wire faulty
	b := operate(t, wire.before(t, s), "ERR_EMPTY_RESPONSE", "429 (Too Many", "/metrics", "422 (Unprocessable", "412 (Precondition")
	b.await(shows("#replica .status", "Metrics are not served at this address (404)"))
	restock := func(units string) {
		t.Helper()
		b.press(row("#skus", "chair", "button:nth-of-type(2)"))
		if units != "" {
			b.write(opened("[name=units]"), units)
		}
		b.do(chromedp.Focus(chromedp.CSS(opened("[name=units]"))), chromedp.KeyEvent("\r"))
	}
	restock("")
	b.await(shows("#restock-dialog-units", "is missing"))
	b.write(opened("[name=units]"), "0")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#restock-dialog-units", "must be from 1 to"))
	b.write(opened("[name=units]"), "5")
	wire.lose.Store(1)
	b.do(chromedp.KeyEvent("\r"))
	b.await(closed)
	b.await(shows("#messages", "Added 5 units to chair."))
	b.await(shows(row("#skus", "chair", ".live"), "8"))

	// No try has an answer.
	wire.lose.Store(1000)
	restock("7")
	b.await(shows(opened(".error[role=alert]"), "The service does not answer. The request may have been applied."))
	b.await(shows(opened(".hint"), "they are added only once"))
	b.look("admin-no-answer")
	b.do(chromedp.Reload())
	b.signIn(adminToken)
	b.await(shows(row("#skus", "chair", ".live"), "15"))
	// A try is lost, and the next refused before its key is looked up.
	wire.lose.Store(1)
	wire.limit.Store(1)
	restock("")
	b.await(shows(opened(".error[role=alert]"), "Too many requests"))
	b.press(opened("button:not([type])"))
	b.await(closed)
	b.await(shows("#messages", "Added 7 units to chair."))
	// A new restock has a new key. A double press sends it once.
	b.press(row("#skus", "chair", "button:nth-of-type(2)"))
	b.write(opened("[name=units]"), "1")
	sent := wire.sent.Load()
	eval[any](b, `{ const form = document.querySelector("dialog[open] form"); form.requestSubmit(); form.requestSubmit(); }`)
	b.await(closed)
	if again := wire.sent.Load() - sent; again != 1 {
		t.Errorf("a double press sent %d restocks", again)
	}
	b.await(shows(row("#skus", "chair", ".live"), "16"))
	if got := s.sku("chair"); got.Units != 16 || got.Available != 16 {
		t.Errorf("restocks of 5, 7 and 1 made %d units of 3", got.Units)
	}

	// A change whose answer is lost was saved: its second try is a 412.
	b.press(row("#skus", "chair", "button"))
	b.write(opened("[name=name]"), "Elm chair")
	wire.lose.Store(1)
	b.do(chromedp.KeyEvent("\r"))
	b.await(closed)
	b.await(shows("#messages", "Saved chair."))
}

// TestCallsOfTheOperatorAreBounded lets time pass 50 times as fast for a page, from when
// its calls get no answer. Before that, a busy machine may need most of the page's time-outs.
func TestCallsOfTheOperatorAreBounded(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	var wire faulty
	address := wire.before(t, s)
	b := openBrowser(t, strings.TrimPrefix(address, "http://"), "/metrics")
	b.before("{ const slow = setTimeout; window.setTimeout = (act, ms, ...more) => slow(act, window.hurried ? ms / 50 : ms, ...more); }")
	b.do(chromedp.Navigate(address + "/admin"))
	b.signIn(adminToken)
	b.await(shows("#late .status", "There are none."))
	wire.hang.Store(true)
	eval[any](b, "window.hurried = true")
	b.press("#run-audit")
	b.await(shows("#sellers .status", "Out of date: The service does not answer."))
	b.await(shows("#audit .status", "No result after "))
	b.await(shows("#audit .status", "The service does not answer."))
}

// TestAnEndedTokenKeepsWhatWasTyped: the token ends while a dialog is open.
func TestAnEndedTokenKeepsWhatWasTyped(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	var wire faulty
	b := operate(t, wire.before(t, s), "401 (Unauthorized)", "/metrics")
	b.press("#create")
	b.write(opened("[name=sku]"), "lamp")
	b.write(opened("[name=name]"), "Brass lamp")
	wire.deny.Store(true)
	b.await(shows("#token-error", "The token is no longer accepted. Sign in again: what you have typed is kept."))
	b.await("document.querySelector('#work').hidden && " + closed)
	b.look("admin-ended-token")
	wire.deny.Store(false)
	b.signIn(adminToken)
	b.await(`document.querySelector("dialog[open] [name=name]")?.value === "Brass lamp"`)
	b.write(opened("[name=price_cents]"), "4999")
	b.write(opened("[name=currency]"), "EUR")
	b.write(opened("[name=units]"), "10")
	// The next token ends as it is saved. The page must not learn that from one of its reads:
	// if it did so before the key, it would close the dialog, and the key would send the form
	// of the token.
	wire.denyChanges.Store(true)
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows("#token-error", "The token is no longer accepted."))
	wire.denyChanges.Store(false)
	b.signIn(adminToken)
	b.press(opened("button:not([type])"))
	b.await(closed)
	b.await(shows(row("#skus", "lamp", ""), "Brass lamp"))
}
