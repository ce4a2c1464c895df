// Package mutant breaks the service in one place at a time, so that tests and fault runs
// can show that they would notice. A mutant is a change of the source that exists only in
// an overlay of go build: the product never contains it.
//
// Each mutant starts, and sells correctly while nothing fails and nobody sends the calls
// that its comment names.
package mutant

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Mutant is a change of the source.
type Mutant struct {
	// Name identifies it in commands and reports: lower-case words with hyphens.
	Name string
	// About says what it breaks, in one sentence.
	About string
	Edits []Edit
	// Scenarios are the fault scenarios that must find a violation; one of them is enough.
	// Without any, another mechanism hides the fault from a whole service, or it needs an
	// interleaving that only the test reaches.
	Scenarios []string
	// Test is a test of Package that must fail.
	Test, Package string
}

// Edit replaces a text of a file.
type Edit struct {
	// File is a path in the module, or, after "GOROOT/", in the standard library.
	File string
	// Old occurs exactly once in the file, after the edits before this one.
	Old, New string
}

// Names returns the names of All.
func Names() []string {
	names := make([]string, len(All))
	for i := range All {
		names[i] = All[i].Name
	}
	return names
}

// Find returns the mutants with these names, or all for no name.
func Find(names []string) (found []Mutant, err error) {
	if len(names) == 0 {
		return All, nil
	}
	for _, name := range names {
		i := slices.Index(Names(), name)
		if i < 0 {
			return nil, fmt.Errorf("unknown mutant %q: must be one of %s", name, strings.Join(Names(), ", "))
		}
		found = append(found, All[i])
	}
	return found, nil
}

// Overlay writes the changed files into the folder dir, and the file for the flag
// -overlay of go build, whose path it returns. root is the module's folder, an absolute
// path. It fails if an edit does not fit the source.
func (m *Mutant) Overlay(root, dir string) (overlayFile string, err error) {
	texts := map[string]string{} // by path
	for _, e := range m.Edits {
		path, err := e.path(root)
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		text, ok := texts[path]
		if !ok {
			read, err := os.ReadFile(path)
			if err != nil {
				return "", fmt.Errorf("mutant %s: %w", m.Name, err)
			}
			text = string(read)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return "", fmt.Errorf("mutant %s: %q occurs %d times in %s, want once", m.Name, e.Old, n, e.File)
		}
		texts[path] = strings.Replace(text, e.Old, e.New, 1)
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	for path, text := range texts {
		changed := filepath.Join(dir, fmt.Sprintf("%d-%s", len(overlay.Replace), filepath.Base(path)))
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[path] = changed
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	overlayFile = filepath.Join(dir, "overlay.json")
	return overlayFile, os.WriteFile(overlayFile, list, 0o600)
}

const inGoRoot = "GOROOT/"

func (e *Edit) path(root string) (string, error) {
	file, std := strings.CutPrefix(e.File, inGoRoot)
	if !std {
		return filepath.Join(root, file), nil
	}
	// Not runtime.GOROOT, which is empty in a program that was built with -trimpath.
	cmd := exec.Command("go", "env", "GOROOT") //nolint:noctx // prints a variable
	cmd.Dir = root
	goRoot, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(goRoot)), "src", file), nil
}

// Build builds a package of the module, such as "./cmd/api", with the mutant's change. It
// returns the path of the program, which it writes into the folder dir together with the
// overlay. The flags are the Makefile's.
func Build(ctx context.Context, root, dir string, m *Mutant, pkg string) (program string, err error) {
	overlay, err := m.Overlay(root, dir)
	if err != nil {
		return "", err
	}
	program = filepath.Join(dir, filepath.Base(pkg))
	cmd := command(ctx, root, "build", "-trimpath", "-buildvcs=false", "-overlay", overlay, "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s with mutant %s: %w\n%s", pkg, m.Name, err, out)
	}
	return program, nil
}

// RunTest runs the mutant's test with its change, and reports whether it failed, as it
// must. dir is for the overlay, env more variables for the test. Without go vet, which
// would take as long as the test.
func RunTest(ctx context.Context, root, dir string, m *Mutant, env ...string) (failed bool, output string, err error) {
	overlay, err := m.Overlay(root, dir)
	if err != nil {
		return false, "", err
	}
	cmd := command(ctx, root, "test", "-count=1", "-vet=off", "-timeout=2m", "-overlay", overlay, "-run", "^"+m.Test+"$", m.Package)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return err != nil && strings.Contains(string(out), "--- FAIL: "+m.Test), string(out), ctx.Err()
}

// command returns a command of go. The end of ctx also kills the programs that it runs:
// a test would run on, and its output would keep the command from ending.
func command(ctx context.Context, root string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.WaitDelay = time.Second
	killWithChildren(cmd)
	return cmd
}
