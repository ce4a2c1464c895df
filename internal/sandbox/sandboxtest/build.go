package sandboxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// program is a program of this module that tests run.
type program struct {
	pkg string
	// race builds it with the race detector if the test is. For the others that would
	// be too slow.
	race bool
}

var programs = map[string]program{
	"api":      {pkg: "./cmd/api", race: true},
	"loadtest": {pkg: "./loadtest"},
	"etcdnode": {pkg: "./internal/sandbox/sandboxtest/etcdnode"},
}

// Build builds a program ("api", "loadtest" or "etcdnode") from the current tree and
// returns its absolute path, in the module's bin. An api for a test with the race
// detector is in bin/race and has the race detector, too.
func Build(tb testing.TB, name string) string {
	tb.Helper()
	path, err := build(name)
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

var (
	buildMu sync.Mutex
	built   = map[string]string{} // paths by name
)

func build(name string) (string, error) {
	buildMu.Lock()
	defer buildMu.Unlock()
	if path := built[name]; path != "" {
		return path, nil
	}
	p, ok := programs[name]
	if !ok {
		return "", fmt.Errorf("build %q: no such program", name)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	bin := filepath.Join(root, "bin")
	race := p.race && raceEnabled
	if race {
		bin = filepath.Join(bin, "race")
	}
	unlock, err := lockFolder(bin)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer unlock()
	path := filepath.Join(bin, name)
	if err := goBuild(root, p.pkg, path, race); err != nil {
		return "", err
	}
	built[name] = path
	return path, nil
}

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

// goBuild builds a package of the module. Its flags are the Makefile's, so that both
// produce the same programs.
func goBuild(root, pkg, path string, race bool, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false"}, flags...)
	cgo := "CGO_ENABLED=0"
	if race {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1" // the race detector needs it
	}
	cmd := exec.Command("go", append(args, "-o", path, pkg)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// lockFolder creates the folder and waits for its lock: go test runs packages in
// parallel, and one must not replace a program while another starts it.
func lockFolder(path string) (unlock func(), err error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, ".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return func() { _ = lock.Close() }, nil // closing releases the lock
}

// moduleRoot finds the folder of the module flashsale above the working directory,
// which is that of the tested package and may be in a nested module.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module flashsale\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("the working directory is not in the module flashsale")
		}
		dir = parent
	}
}
