package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthIsTheReplicasReadiness(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/readyz":
			_, _ = io.WriteString(w, `{"status":"ready"}`)
		case "/draining":
			http.Error(w, `{"status":"not ready"}`, http.StatusServiceUnavailable)
		case "/mute":
			<-release
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	for _, test := range []struct{ url, want string }{
		{server.URL + "/readyz", ""},
		{server.URL + "/draining", "503 Service Unavailable"},
		{server.URL + "/mute", "deadline exceeded"},
		{"http://127.0.0.1:1/readyz", "connection refused"},
		{"http://a b/", "--health-url"},
	} {
		args := []string{"health", "--health-url=" + test.url, "--health-timeout=30s"}
		if strings.HasSuffix(test.url, "/mute") { // all others answer
			args = append(args, "--health-timeout=300ms")
		}
		err := run(context.Background(), args, io.Discard, io.Discard)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("health of %s: %v, want an error with %q", test.url, err, test.want)
		}
	}
}
