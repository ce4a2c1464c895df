package httpapi_test

import (
	"io"
	"net/http"
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
		swaggerUI + "-bundle.js":   {"text/javascript; charset=utf-8", "public, max-age=31536000, immutable"},
		swaggerUI + ".css":         {"text/css; charset=utf-8", "public, max-age=31536000, immutable"},
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
	response, err := s.Client().Get(s.URL + swaggerUI + "-bundle.js") // net/http requests gzip and unzips
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(text), "SwaggerUIBundle") {
		t.Errorf("the viewer has %d bytes, error %v", len(text), err)
	}
}

const swaggerUI = "/assets/swagger-ui-5.35.0/swagger-ui"
