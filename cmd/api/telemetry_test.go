package main

import (
	"net/http"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
)

// Profiles are on their own port alone, and the command line, where somebody may
// have put a secret, is on none.
func TestProfilesAreServedOnTheirOwnPort(t *testing.T) {
	t.Parallel()
	addr := sandboxtest.ReservePort(t)
	cfg := replicaConfig(newDSN(t), "a", "conditional")
	cfg.Args = append(cfg.Args, "--pprof-addr="+addr)
	c := start(t, cfg)
	for url, want := range map[string]int{
		"http://" + addr + "/debug/pprof/":                  http.StatusOK,
		"http://" + addr + "/debug/pprof/heap?debug=1":      http.StatusOK,
		"http://" + addr + "/debug/pprof/profile?seconds=1": http.StatusOK,
		"http://" + addr + "/debug/pprof/cmdline":           http.StatusNotFound,
		"http://" + addr + "/v1/skus":                       http.StatusNotFound,
		c.URL + "/debug/pprof/":                             http.StatusNotFound,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("GET %s: got %s, want %d", url, response.Status, want)
		}
	}
}
