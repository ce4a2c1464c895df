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

// docs/strategies.md is what the code says: `go generate ./loadtest` makes it so.
func TestPageOfStrategiesIsWhatTheCodeSays(t *testing.T) {
	want, err := strategiesPage(docsHandover, docsZombies)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../docs/strategies.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/strategies.md is not what the code says; run `go generate ./loadtest`:\n%s", diff)
	}
}

// The page stands without the zombies' figures, but not with broken ones.
func TestPageOfStrategiesWithoutZombies(t *testing.T) {
	page, err := strategiesPage(docsHandover, filepath.Join(t.TempDir(), "none.json"))
	if err != nil || strings.Contains(page, "two holders") {
		t.Errorf("without the file: %v, %s", err, page)
	}
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := strategiesPage(docsHandover, broken); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("with a broken file: %v", err)
	}
}

// A strategy takes fences exactly where its lock declares a token.
func TestRegistryAgreesWithTheLocks(t *testing.T) {
	for _, s := range strategy.All() {
		if c, ok := backend.Capabilities(s); ok && c.Token != s.Token {
			t.Errorf("%s: the registry says token %v, its lock %v", s.Name, s.Token, c.Token)
		} else if ok == (s.Lock == strategy.NoLock) {
			t.Errorf("%s: its lock %q is not built in", s.Name, s.Lock)
		}
	}
}
