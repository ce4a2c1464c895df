package sandboxtest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// BuildChanged builds a program from the current tree with files added or replaced,
// by their paths in the module, and returns its path in a temporary folder. It is for
// tests that run two versions side by side.
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
	if err := goBuild(root, programs[name].pkg, program, false, "-overlay", listed); err != nil {
		tb.Fatal(err)
	}
	return program
}
