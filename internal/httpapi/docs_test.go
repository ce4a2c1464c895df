package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"flashsale/internal/httpapi"
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
	s := newStreams(t, func(*httpapi.Config) {})
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

func TestPagesAreCachedAndLoadFromNowhereElse(t *testing.T) {
	t.Parallel()
	s := newStreams(t, func(*httpapi.Config) {})
	for path, want := range map[string]struct{ kind, caching string }{
		"/":                      {"text/html; charset=utf-8", "no-cache"},
		"/docs":                  {"text/html; charset=utf-8", "no-cache"},
		"/openapi.yaml":          {"application/yaml", "no-cache"},
		"/assets/storefront.js":  {"text/javascript; charset=utf-8", "no-cache"},
		"/assets/storefront.css": {"text/css; charset=utf-8", "no-cache"},
		"/assets/icon.svg":       {"image/svg+xml", "no-cache"},
		swaggerUI + "-bundle.js": {"text/javascript; charset=utf-8", "public, max-age=31536000, immutable"},
		swaggerUI + ".css":       {"text/css; charset=utf-8", "public, max-age=31536000, immutable"},
	} {
		for _, encoding := range []string{"gzip", "identity"} {
			got := s.call("GET", path, "", "Accept-Encoding", encoding)
			got.check(t, 200, "", "")
			policy := got.Header.Get("Content-Security-Policy")
			if got.Header.Get("Content-Type") != want.kind || got.Header.Get("Cache-Control") != want.caching ||
				!strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
				t.Errorf("%s: headers %v", path, got.Header)
			}
			if encoding == "identity" && got.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s is packed for a caller who cannot unpack it", path)
			}
			again := s.call("GET", path, "", "Accept-Encoding", encoding, "If-None-Match", got.Header.Get("ETag"))
			if again.StatusCode != http.StatusNotModified || again.text != "" {
				t.Errorf("%s with its ETag: %d, %d bytes", path, again.StatusCode, len(again.text))
			}
		}
	}
	if got := s.call("GET", "/openapi.yaml", ""); got.text != string(spec.YAML) {
		t.Error("/openapi.yaml is not the contract")
	}
	response, err := s.Client().Get(s.URL + swaggerUI + "-bundle.js") // asks for gzip, and unpacks
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(text), "SwaggerUIBundle") {
		t.Errorf("the viewer has %d bytes, error %v", len(text), err)
	}
}

const swaggerUI = "/assets/swagger-ui-5.35.0/swagger-ui"
