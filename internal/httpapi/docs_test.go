package httpapi_test

import (
	"html"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"flashsale/internal/httpapi/spec"
)

func TestPagesAreCachedAndLoadOwnFilesOnly(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for path, want := range map[string]struct{ kind, caching string }{
		"/":                        {"text/html; charset=utf-8", "no-cache"},
		"/admin":                   {"text/html; charset=utf-8", "no-cache"},
		"/assets/admin.js":         {"text/javascript; charset=utf-8", "no-cache"},
		"/docs":                    {"text/html; charset=utf-8", "no-cache"},
		"/openapi.yaml":            {"application/yaml", "no-cache"},
		"/assets/storefront.js":    {"text/javascript; charset=utf-8", "no-cache"},
		"/assets/stream-worker.js": {"text/javascript; charset=utf-8", "no-cache"},
		"/assets/look.css":         {"text/css; charset=utf-8", "no-cache"},
		"/assets/storefront.css":   {"text/css; charset=utf-8", "no-cache"},
		"/assets/icon.svg":         {"image/svg+xml", "no-cache"},
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
				t.Errorf("%s is compressed without Accept-Encoding: gzip", path)
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
}

// Each example of /docs is a call that succeeds, when it has a token of the right kind.
func TestExamplesOfTheDocumentWork(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, sku := range []string{"lamp", "old"} {
		s.putSKU(sku, thing).check(t, 201, "", "")
	}
	page := s.call("GET", "/docs", "").text
	unknown := map[string]string{ // what there is not on a new server
		"getOrder": "404", "payOrder": "404", "cancelOrder": "404", "listLocks": "501", "revokeLock": "501",
	}
	calls := regexp.MustCompile(`(?s)<article class="card" id="(\w+)".*?<span class="pill">(.*?)</span>.*?<pre>(.*?)</pre>`).FindAllStringSubmatch(page, -1)
	if len(calls) < 15 {
		t.Fatalf("found %d calls in %s", len(calls), page)
	}
	for _, call := range calls {
		token := customer(t, "ann")
		if call[2] == "administrators" {
			token = adminToken
		}
		line := html.UnescapeString(call[3])
		if strings.Contains(line, " -N") {
			continue // an event stream does not end
		}
		if call[1] == "withdrawSKU" {
			line = strings.Replace(line, "/lamp", "/old", 1) // the calls after it need the lamp
		}
		curl := exec.CommandContext(t.Context(), "sh", "-c", line+" -s -o /dev/null -w '%{http_code}'")
		curl.Env = []string{"PATH=" + os.Getenv("PATH"), "URL=" + s.URL, "TOKEN=" + token}
		got, err := curl.Output()
		if want := unknown[call[1]]; err != nil || want != "" && string(got) != want || want == "" && got[0] != '2' {
			t.Errorf("%s: %s: %s, error %v", call[1], line, got, err)
		}
	}
}

// The page links each problem's slug to its page, and no link of the page leads nowhere.
func TestLinksOfTheDocumentLeadSomewhere(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	page := s.call("GET", "/docs", "").text
	targets := regexp.MustCompile(`href="([^"]+)"`).FindAllStringSubmatch(page, -1)
	if !strings.Contains(page, `<a href="/errors/sold-out"><code>sold-out</code></a>`) || len(targets) < 50 {
		t.Errorf("the page links no problems: %d links", len(targets))
	}
	for _, target := range targets {
		if id, here := strings.CutPrefix(target[1], "#"); here {
			if !strings.Contains(page, ` id="`+id+`"`) {
				t.Errorf("no element has the id %s", id)
			}
		} else if got := s.call("GET", target[1], ""); got.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", target[1], got.StatusCode)
		}
	}
}
