package browser_test

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"flashsale/internal/httpapi/spec"
)

// summaries are those of all operations of the contract.
func summaries(t *testing.T) (all []string) {
	t.Helper()
	for line := range strings.Lines(string(spec.YAML)) {
		if text, ok := strings.CutPrefix(line, "      summary: "); ok {
			all = append(all, strings.TrimSpace(text))
		}
	}
	if len(all) < 15 {
		t.Fatalf("found %d operations", len(all))
	}
	return all
}

func TestTheDocumentCanBeReadInABrowser(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"))
	b.do(chromedp.EmulateViewport(360, 740), chromedp.Navigate(s.URL+"/docs"))
	b.look("docs-narrow")
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(s.URL+"/docs"))
	b.look("docs")
	b.image("docs", 1000)
	text := strings.Join(strings.Fields(b.text("main")), " ")
	for _, summary := range summaries(t) {
		if !strings.Contains(text, strings.Join(strings.Fields(summary), " ")) {
			t.Errorf("the page does not show %q", summary)
		}
	}
	b.do(chromedp.Click(chromedp.CSS("nav a[href='#placeOrder']")))
	b.await("Math.abs(document.querySelector('#placeOrder').getBoundingClientRect().top) < 60")
	b.picture("docs-call")
	b.do(chromedp.Click(chromedp.CSS("#placeOrder a[href='/errors/idempotency-key-reused']")))
	b.await("location.pathname === '/errors/idempotency-key-reused'")
}

func TestThePagesOfErrorsCanBeRead(t *testing.T) {
	t.Parallel()
	s := startReplica(t)
	b := openBrowser(t, strings.TrimPrefix(s.URL, "http://"))
	b.do(chromedp.EmulateViewport(360, 740), chromedp.Navigate(s.URL+"/errors"))
	b.look("errors")
	b.do(chromedp.Navigate(s.URL + "/errors/sold-out"))
	b.look("error")
}
