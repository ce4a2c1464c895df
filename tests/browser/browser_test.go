// Package browser_test uses the pages as a customer does, in Chromium.
package browser_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a tab of a headless Chromium, with what went wrong in it.
type browser struct {
	t    *testing.T
	host string
	ctx  context.Context

	mu    sync.Mutex
	wrong []string // errors of the console, and requests to other hosts
	asked int      // requests
	// provoked are parts of the errors that the test itself causes.
	provoked []string
}

// openBrowser starts a browser that ends with the test. The test fails if
// anything goes wrong in it: an error or a warning in its console, or a request
// to another host than that one.
func openBrowser(t *testing.T, host string, provoked ...string) *browser {
	t.Helper()
	return openProfile(t, t.TempDir(), host, provoked...)
}

// openProfile starts a browser with the settings in a folder.
func openProfile(t *testing.T, folder, host string, provoked ...string) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: install Debian's package chromium (scripts/setup --chromium)", err)
	}
	flags := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(folder), chromedp.Flag("disable-background-networking", true), chromedp.Flag("lang", "en-GB"))
	// Chromium sometimes crashes while it starts, on a busy machine. That says nothing
	// about the pages.
	for attempt := 1; ; attempt++ {
		allocated, free := chromedp.NewExecAllocator(context.Background(), flags...)
		t.Cleanup(free)
		b, err := openTab(allocated, t, host, provoked...)
		if err == nil {
			return b
		}
		if attempt == 3 {
			t.Fatal(err)
		}
		t.Logf("it is started again after: %v", err)
	}
}

// tab opens another tab of the same browser.
func (b *browser) tab() *browser {
	b.t.Helper()
	tab, err := openTab(b.ctx, b.t, b.host, b.provoked...)
	if err != nil {
		b.t.Fatal(err)
	}
	return tab
}

// openTab opens a tab of a browser, which it starts if it is not running.
func openTab(within context.Context, t *testing.T, host string, provoked ...string) (*browser, error) {
	t.Helper()
	b := &browser{t: t, host: host, provoked: provoked}
	var end context.CancelFunc
	b.ctx, end = chromedp.NewContext(within)
	t.Cleanup(end)
	err := chromedp.Listen(b.ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.note(fmt.Sprint("exception: ", exceptionText(e.ExceptionDetails)))
		case *log.EventEntryAdded:
			if e.Entry.Level == "error" || e.Entry.Level == "warning" {
				b.note(fmt.Sprint(e.Entry.Level, ": ", e.Entry.Text, " ", e.Entry.URL))
			}
		case *network.EventRequestWillBeSent:
			b.mu.Lock()
			b.asked++
			b.mu.Unlock()
			if u, err := url.Parse(e.Request.URL); err != nil || u.Host != host && u.Scheme != "data" {
				b.note("a request to another host: " + e.Request.URL)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, text := range b.wrong {
			t.Error(text)
		}
		if b.asked == 0 {
			t.Error("no request of the page was seen")
		}
	})
	return b, nil
}

// networkChanged is the error of requests under way when any network of the machine
// changes, as other tests' do.
const networkChanged = "ERR_NETWORK_CHANGED"

func (b *browser) note(text string) {
	for _, part := range slices.Concat(b.provoked, []string{networkChanged}) {
		if strings.Contains(text, part) {
			return
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, text)
}

// do runs steps, within patience.
func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	err := chromedp.Do(ctx, steps...)
	for err != nil && strings.Contains(err.Error(), networkChanged) {
		err = chromedp.Do(ctx, steps...)
	}
	if err != nil {
		b.t.Errorf("%v\nthe page says: %.3000s", err, b.text("body"))
		b.picture("failed-" + b.t.Name())
		b.t.FailNow()
	}
}

// await waits until an expression of JavaScript holds.
func (b *browser) await(holds string) {
	b.t.Helper()
	for began := time.Now(); !eval[bool](b, holds); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			b.t.Errorf("waited in vain for %s\nthe page says: %.3000s", holds, b.text("body"))
			b.picture("failed-" + b.t.Name())
			b.t.FailNow()
		}
	}
}

// text is what the first such element shows.
func (b *browser) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	got, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return got
}

// picture writes the whole page as it looks into the folder FLASHSALE_PICTURES, for
// whoever works on the pages, if that is set.
func (b *browser) picture(name string) {
	folder := os.Getenv("FLASHSALE_PICTURES")
	if folder == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".png"), png, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func exceptionText(details *runtime.ExceptionDetails) string {
	if details.Exception != nil && details.Exception.Description != "" {
		return details.Exception.Description
	}
	return details.Text
}
