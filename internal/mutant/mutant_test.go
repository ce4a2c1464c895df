package mutant_test

import (
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"flashsale/internal/mutant"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

func root(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestEditsFitTheSource(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, m := range append([]mutant.Mutant{mutant.Clock}, mutant.All...) {
		if _, err := m.Overlay(root(t), t.TempDir()); err != nil {
			t.Error(err)
		}
		if names[m.Name] || !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(m.Name) {
			t.Errorf("the name %q is taken, or not lower-case words with hyphens", m.Name)
		}
		names[m.Name] = true
	}
}

// TestMutantsCompile compiles the packages that each mutant changes. Their exported names
// stay the same, so that the other packages compile as well.
func TestMutantsCompile(t *testing.T) {
	t.Parallel()
	tier.OnlyTestAll(t, "a run of the compiler for each mutant")
	for _, m := range mutant.All {
		overlay, err := m.Overlay(root(t), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		packages := map[string]bool{"./internal/stock": true} // embeds the migrations
		for _, e := range m.Edits {
			if filepath.Ext(e.File) == ".go" {
				packages["./"+filepath.Dir(e.File)] = true
			}
		}
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-overlay", overlay}, slices.Collect(maps.Keys(packages))...)...)
		cmd.Dir = root(t)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", m.Name, err, out)
		}
	}
}
