package sandboxtest_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../../.."

// packages returns the packages of a tier, sorted.
func packages(t *testing.T, tier string) []string {
	t.Helper()
	return run(t, "scripts/test", tier, "--list")
}

// run returns the lines that a program prints.
func run(t *testing.T, program string, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = root
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// slow are the packages that no test of make unit may import: sandbox starts servers,
// and the other takes long to build, with the clients of all lock servers.
var slow = []string{"flashsale/internal/sandbox", "flashsale/internal/backend"}

func TestUnitTierNeedsNoServer(t *testing.T) {
	// For each package: its test program and everything linked into it.
	const format = `{{if and (eq .Name "main") (not .ForTest)}}{{.ImportPath}}{{range .Deps}},{{.}}{{end}}{{end}}`
	var want []string
	for _, line := range run(t, "go", "list", "-test", "-f", format, "./...") {
		program, linked, _ := strings.Cut(line, ",")
		name, isTest := strings.CutSuffix(program, ".test")
		if isTest && !slices.ContainsFunc(strings.Split(linked, ","), isSlow) {
			want = append(want, "."+strings.TrimPrefix(name, "flashsale"))
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, packages(t, "unit")); diff != "" {
		t.Errorf("scripts/test does not list the packages that need no server (-want +got):\n%s", diff)
	}
}

// isSlow ignores the test that go list appends to a package compiled for it.
func isSlow(linked string) bool {
	name, _, _ := strings.Cut(linked, " ")
	return slices.Contains(slow, name)
}

func TestEachTierContainsTheOneBefore(t *testing.T) {
	unit, product, all := packages(t, "unit"), packages(t, "product"), packages(t, "all")
	for _, lower := range unit {
		if !slices.Contains(product, lower) {
			t.Errorf("%s is in unit but not in product", lower)
		}
	}
	for _, lower := range product {
		if !slices.Contains(all, lower) {
			t.Errorf("%s is in product but not in all", lower)
		}
	}
}
