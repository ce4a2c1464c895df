package sandboxtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BuildChanged builds the program of that name from the tree as it would be with
// further or other files, by their paths in the module. It is for tests that run
// two versions side by side; it returns the program's path, in a folder of the
// test's own.
func BuildChanged(tb testing.TB, name string, files map[string]string) string {
	tb.Helper()
	root, err := moduleRoot()
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, text := range files {
		copied := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		overlay.Replace[filepath.Join(root, path)] = copied
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		tb.Fatal(err)
	}
	listed, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, name)
	if err := os.WriteFile(listed, list, 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-overlay", listed, "-o", program, programs[name].pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build a changed %s: %v\n%s", name, err, out)
	}
	return program
}
