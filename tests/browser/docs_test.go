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
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(s.URL+"/docs"), chromedp.WaitVisible(chromedp.CSS(".opblock")))
	b.await("document.querySelectorAll('.opblock').length >= 15")
	text := strings.Join(strings.Fields(b.text("#docs")), " ")
	for _, summary := range summaries(t) {
		if !strings.Contains(text, strings.Join(strings.Fields(summary), " ")) {
			t.Errorf("the page does not show %q", summary)
		}
	}
	// One opened shows its answers, which are behind references.
	b.do(chromedp.Click(chromedp.CSS("#operations-Orders-placeOrder .opblock-summary-control")), chromedp.WaitVisible(chromedp.CSS("#operations-Orders-placeOrder .responses-table")))
	if text := b.text("#operations-Orders-placeOrder"); !strings.Contains(text, "Idempotency-Key") || !strings.Contains(text, "idempotency-key-reused") {
		t.Errorf("the operation shows %s", text)
	}
	b.picture("docs")
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
