package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/backend"
	"flashsale/internal/strategy"
)

// `go generate ./loadtest` writes docs/strategies.md.
func TestPageOfStrategiesIsUpToDate(t *testing.T) {
	want, err := strategiesPage(docsHandover, docsZombies)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../docs/strategies.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/strategies.md is out of date; run `go generate ./loadtest`:\n%s", diff)
	}
}

// The figures of the zombies may be missing, but not broken.
func TestPageOfStrategiesWithoutZombies(t *testing.T) {
	page, err := strategiesPage(docsHandover, filepath.Join(t.TempDir(), "none.json"))
	if err != nil || strings.Contains(page, "two holders") {
		t.Errorf("without the file: got %v, %s", err, page)
	}
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := strategiesPage(docsHandover, broken); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("with a broken file: got %v, want an error with its name", err)
	}
}

// A strategy has fences if and only if its lock has a token.
func TestRegistryAgreesWithTheLocks(t *testing.T) {
	for _, s := range strategy.All() {
		if c, ok := backend.Capabilities(s); ok && c.Token != s.Token {
			t.Errorf("%s: the registry says token %v, the lock says %v", s.Name, s.Token, c.Token)
		} else if ok == (s.Lock == strategy.NoLock) {
			t.Errorf("%s: lock %q is not built in", s.Name, s.Lock)
		}
	}
}
