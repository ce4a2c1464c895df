package client_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryProblemHasAKind compares the kinds with the pages of docs/errors.
func TestEveryProblemHasAKind(t *testing.T) {
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, match := range regexp.MustCompile(`(?m)^\tErr\w+ +Kind = "([a-z-]+)"$`).FindAllSubmatch(source, -1) {
		kinds = append(kinds, string(match[1]))
	}
	pages, err := filepath.Glob("../docs/errors/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	var want []string
	for _, page := range pages {
		want = append(want, strings.TrimSuffix(filepath.Base(page), ".md"))
	}
	slices.Sort(kinds)
	slices.Sort(want)
	if !slices.Equal(kinds, want) {
		t.Errorf("kinds %q, pages %q", kinds, want)
	}
}
