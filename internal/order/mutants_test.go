package order_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/mutant"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// A test that has never failed may test nothing. Each mutant breaks the service in one
// place, and a test must fail.
func TestEachMutantIsCaught(t *testing.T) {
	t.Parallel()
	tier.OnlyTestAll(t, "a test program built for each mutant")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutant.All {
		t.Run(m.Name, func(t *testing.T) {
			overlay, err := m.Overlay(root, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-timeout=2m", "-overlay", overlay, "-run", "^"+m.Test+"$", m.Package)
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: "+m.Test) {
				t.Errorf("%s does not fail: %v\n%s", m.Test, err, out)
			}
		})
	}
}
