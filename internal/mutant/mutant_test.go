package mutant_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// The end of the context ends a test that hangs, and the programs that it runs.
func TestRunTestLeavesNoProcess(t *testing.T) {
	t.Parallel()
	pids, started := filepath.Join(t.TempDir(), "pids"), "func TestJitteredIsWithinHalfOfItsDuration(t *testing.T) {\n"
	hangs := mutant.Mutant{
		Name: "hangs", Test: "TestJitteredIsWithinHalfOfItsDuration", Package: "./internal/sleep",
		Edits: []mutant.Edit{
			{File: "internal/sleep/sleep_test.go", Old: "import (\n", New: "import (\n\"os\"\n\"os/exec\"\n"},
			{File: "internal/sleep/sleep_test.go", Old: started, New: started +
				`cmd := exec.Command("sh", "-c", "echo $PPID $$ > ` + pids + `.new; mv ` + pids + `.new ` + pids + `; sleep 60; :")
				cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
				if err := cmd.Run(); err != nil { t.Fatal(err) }
			`},
		},
	}
	// Long enough to compile everything, which a cold cache needs.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var running []byte
	var ended time.Time
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for ctx.Err() == nil && len(running) == 0 {
			running, _ = os.ReadFile(pids)
			time.Sleep(10 * time.Millisecond)
		}
		ended = time.Now()
		cancel()
	})
	failed, output, err := mutant.RunTest(ctx, root(t), t.TempDir(), &hangs)
	cancel()
	watcher.Wait()
	if took := time.Since(ended); !errors.Is(err, context.Canceled) || failed || took > 10*time.Second {
		t.Errorf("got %t, %v, %s after the end of the context:\n%s", failed, err, took, output)
	}
	for _, pid := range strings.Fields(string(running)) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		for deadline := time.Now().Add(5 * time.Second); err == nil && !strings.Contains(string(stat), ") Z ") && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
			stat, err = os.ReadFile("/proc/" + pid + "/stat")
		}
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("a process runs after the end of the context: %s", stat)
		}
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
