package browser_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"flashsale/internal/sandbox/sandboxtest"
)

// before runs a script in each document of the tab, before the page's own.
func (b *browser) before(script string) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
		return err
	}))
}

// show minimizes the tab's window, or shows it again.
func (b *browser) show(visible bool) {
	b.t.Helper()
	state := cdpbrowser.WindowState("minimized")
	if visible {
		state = "normal"
	}
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		window, err := cdp.Call(ctx, t, cdpbrowser.GetWindowForTarget, cdpbrowser.GetWindowForTargetParams{})
		if err != nil {
			return err
		}
		_, err = cdp.Call(ctx, t, cdpbrowser.SetWindowBounds, cdpbrowser.SetWindowBoundsParams{WindowID: window.WindowID,
			Bounds: &cdpbrowser.Bounds{WindowState: state}})
		return err
	}))
	b.await(fmt.Sprintf("document.hidden === %v", !visible))
}

// close closes the tab as its user does.
func (b *browser) close() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	_ = chromedp.Do(ctx, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, page.Close, cdp.Empty{}) // without an answer: the tab is gone
		return err
	}))
}

// handOver bounds how long tabs take to notice that another one was closed. It is less
// than they would need to notice a silent stream: 15 s without any of the heartbeats, which
// come every 5 s.
const handOver = 10 * time.Second

// TestSevenTabsShareOneStream opens more visible tabs than the connections that a
// browser makes over HTTP/1.1.
func TestSevenTabsShareOneStream(t *testing.T) {
	t.Parallel()
	const noWorker = "delete window.SharedWorker;"
	for _, way := range []struct {
		name, lacks string
		streams     int32
		most        int32 // while one tab after another is hidden, the proxy sees streams that just ended
	}{
		{"a SharedWorker", "", 1, 1},
		{"an elected tab", noWorker, 1, 5},
		{"polls", noWorker + "delete Navigator.prototype.locks;", 0, 0},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			s := startReplica(t)
			s.sell("lamp", "Brass lamp", 100, "")
			var wire lossy
			url := wire.before(t, s).URL
			left := func(n int) string { return shows(card("lamp", ".left"), fmt.Sprintf("%d of 100 left", n)) }
			streams := func(n int32) {
				t.Helper()
				sandboxtest.Eventually(t, fmt.Sprintf("%d open streams", n), func() bool { return wire.streams.Load() == n })
			}
			first := openBrowser(t, strings.TrimPrefix(url, "http://"))
			tabs := []*browser{first}
			for range 6 {
				tabs = append(tabs, first.tab())
			}
			for i, b := range tabs {
				b.before(way.lacks)
				b.enter(url, customer(t, fmt.Sprint("customer", i)))
				b.await(shows("#live", "Live"))
			}
			for i, b := range tabs {
				b.buy("lamp", "1")
				b.await(shows("#orders", "1 × Brass lamp"))
				for _, other := range tabs {
					other.await(left(99 - i))
				}
			}
			streams(way.streams)

			// The first tab is the elected one.
			tabs[0].close()
			closed := time.Now()
			s.order(customer(t, "ben"), "k", `{"sku":"lamp","quantity":1}`)
			for _, b := range tabs[1:] {
				b.await(left(92))
				b.await(shows("#live", "Live"))
			}
			if took := time.Since(closed); took > handOver {
				t.Errorf("the tabs went on %v after one was closed", took)
			}
			streams(way.streams)

			for _, b := range tabs[1:] {
				b.show(false)
			}
			streams(0)
			s.order(customer(t, "ben"), "k2", `{"sku":"lamp","quantity":2}`)
			s.call("PUT", "/v1/admin/skus/lamp", adminToken, "", `{"name":"Iron lamp","price_cents":4999,"currency":"EUR","units":100}`, http.StatusOK)
			for _, b := range tabs[1:] {
				b.show(true)
				b.await(left(90))
				b.await(shows(card("lamp", "h3"), "Iron lamp"))
				b.await(shows("#live", "Live"))
			}
			streams(way.streams)
			if most := wire.mostStreams.Load(); most > way.most {
				t.Errorf("there were %d streams at once, want at most %d", most, way.most)
			}
		})
	}
}

// TestAStreamForEachTabBlocksOrders shows why: with all connections taken by streams, an
// order waits for one.
func TestAStreamForEachTabBlocksOrders(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	var wire lossy
	url := wire.before(t, s).URL
	tabs := []*browser{openBrowser(t, strings.TrimPrefix(url, "http://"))}
	for range 5 {
		tabs = append(tabs, tabs[0].tab())
	}
	for _, b := range tabs {
		b.before("delete window.SharedWorker; LockManager.prototype.request = async (name, options, f) => f();")
		b.enter(url, customer(t, "ann"))
		b.await(shows("#live", "Live"))
		b.await(shows("#who", "ann"))
	}
	tabs[2].buy("lamp", "1")
	time.Sleep(3 * time.Second)
	if n := wire.orders.Load(); n != 0 {
		t.Errorf("%d orders came through beside 6 streams", n)
	}
	tabs[0].close()
	tabs[2].await(shows("#messages", "Reserved for you: 1 × Brass lamp"))
}

// TestTabsReplaceTheirWorker ends the worker, as a browser that is short of memory does.
func TestTabsReplaceTheirWorker(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	b.do(chromedp.Navigate(s.URL))
	b.await(shows("#live", "Live"))
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		targets, err := chromedp.Targets(b.ctx)
		for _, info := range targets {
			if info.Type == "shared_worker" {
				_, err = cdp.Call(ctx, chromedp.FromContext(b.ctx).Browser, target.CloseTarget, target.CloseTargetParams{TargetID: info.TargetID})
			}
		}
		return err
	}))
	s.order(customer(t, "ben"), "k", `{"sku":"lamp","quantity":1}`)
	time.Sleep(patience) // the page's own
	b.await(shows(card("lamp", ".left"), "9 of 10 left"))
}

// TestATabOpenedInTheBackground changes a SKU between the tab's load and its first stream.
func TestATabOpenedInTheBackground(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	b.show(false)
	b.do(chromedp.Navigate(s.URL))
	b.await(shows(card("chair", "h3"), "Oak chair"))
	s.call("PUT", "/v1/admin/skus/chair", adminToken, "", `{"name":"Ash chair","price_cents":4999,"currency":"EUR","units":3}`, http.StatusOK)
	b.show(true)
	b.await(shows(card("chair", "h3"), "Ash chair"))
	b.await(shows("#live", "Live"))
}

// TestTheShopNoticesASilentStream stops a stream without closing its connection.
func TestTheShopNoticesASilentStream(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	s.fill()
	link := sandboxtest.NewLink(t, strings.TrimPrefix(s.URL, "http://"))
	b := openBrowser(t, link.Addr)
	b.do(chromedp.Navigate("http://" + link.Addr))
	b.await(shows("#live", "Live"))
	release := link.Hold()
	s.order(customer(t, "ben"), "k", `{"sku":"lamp","quantity":1}`)
	b.await(shows("#live", "Reconnecting"))
	b.look("reconnecting")
	release()
	b.await(shows("#live", "Live"))
	b.await(shows(card("lamp", ".left"), "9 of 10 left"))
}

// TestTheShopOutlivesARestart kills the replica under an open page, and orders before
// it runs again.
func TestTheShopOutlivesARestart(t *testing.T) {
	t.Parallel()
	s, b := shop(t, "ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY")
	b.enter(s.URL, customer(t, "ann"))
	b.await(shows("#live", "Live"))
	s.Kill()
	b.await(shows("#live", "Reconnecting"))
	b.buy("lamp", "2")
	b.await(shows(card("lamp", "form button"), "Ordering"))
	b.look("ordering")
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.await(shows("#messages", "Reserved for you: 2 × Brass lamp"))
	b.await(shows("#live", "Live"))
	b.await(shows(card("lamp", ".left"), "8 of 10 left"))
	// The page follows the stock again.
	s.order(customer(t, "ben"), "k", `{"sku":"lamp","quantity":1}`)
	b.await(shows(card("lamp", ".left"), "7 of 10 left"))
}
