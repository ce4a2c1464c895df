package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/guard"
	"flashsale/internal/strategy"
)

// docs/strategies.md is what the code says: `go generate ./loadtest` makes it so.
func TestPageOfStrategiesIsWhatTheCodeSays(t *testing.T) {
	want, err := strategiesPage(handoverFile)
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

// A strategy takes fences exactly where its lock declares a token.
func TestRegistryAgreesWithTheLocks(t *testing.T) {
	for _, s := range strategy.All() {
		if c, ok := guard.Capabilities(s); ok && c.Token != s.Token {
			t.Errorf("%s: the registry says token %v, its lock %v", s.Name, s.Token, c.Token)
		} else if ok == (s.Lock == strategy.NoLock) {
			t.Errorf("%s: its lock %q is not built in", s.Name, s.Lock)
		}
	}
}
