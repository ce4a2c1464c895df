package order_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

// A test that has never failed may test nothing. This file breaks the safety of
// orders in one place at a time, and checks that a test fails.

// mutant is a change of the code, and the test that must fail.
type mutant struct {
	name string
	// edits holds by file an old text, which must occur once, and a new one.
	edits map[string][2]string
	pkg   string
	test  string
}

const takeFile, claimFile, routeFile, sellFile = "internal/stock/take.go", "internal/stock/claim.go", "internal/order/route.go", "internal/order/sell.go"

// noFence and noSeq remove a condition of the batch's UPDATE.
var (
	noFence = [2]string{`{"fence", func(s *Stock) int64 { return int64(s.Fence) }, "=", int64(t.Claim.Token)},`, ``}
	noSeq   = [2]string{`{"seq", func(s *Stock) int64 { return int64(s.Seq) }, "=", int64(t.Row.Seq)},`, ``}
)

var mutants = []mutant{
	{
		"the write does not compare the fence",
		map[string][2]string{takeFile: noFence},
		"./internal/stock", "TestStaleHolderUnderEachFence",
	},
	{
		"the write does not compare seq",
		map[string][2]string{takeFile: noSeq},
		"./internal/order", "TestRefusalAfterALostCommitStands",
	},
	{
		"a tenure begins without a claim",
		map[string][2]string{
			takeFile:  noFence,
			claimFile: {"if c.Fence == strategy.FenceClaim {\n\t\tquery =", "if c.Fence == \"never\" {\n\t\tquery ="},
		},
		"./internal/stock", "TestStaleHolderUnderEachFence",
	},
	{
		"an order is sent again under another key",
		map[string][2]string{routeFile: {`ds.cfg.Metrics.Moved.Inc()`, `ds.cfg.Metrics.Moved.Inc(); r.Key += "again"; r.id = newID()`}},
		"./internal/order", "TestLinkThatEndsInEachState",
	},
	{
		"orders are answered before their commit",
		map[string][2]string{sellFile: {`t.cfg.At(BeforeCommit)`, `for i, b := range d.accepted { t.placed(b, d.orders[i]) }; t.cfg.At(BeforeCommit)`}},
		"./internal/order", "TestStaleHolderIsFenced",
	},
}

func TestEachMutantIsCaught(t *testing.T) {
	t.Parallel()
	tier.OnlyTestAll(t, "a test program built for each mutant")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-overlay", m.overlay(t, root), "-run", "^"+m.test+"$", m.pkg)
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: "+m.test) {
				t.Errorf("%s does not fail: %v\n%s", m.test, err, out)
			}
		})
	}
}

// overlay writes the changed files, and the list of the files that they replace.
func (m *mutant) overlay(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for path, edit := range m.edits {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), edit[0]); n != 1 {
			t.Fatalf("%q occurs %d times in %s, want once", edit[0], n, path)
		}
		changed := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(changed, []byte(strings.Replace(string(text), edit[0], edit[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, path)] = changed
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}
