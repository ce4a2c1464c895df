package sandboxtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// program is one that tests run.
type program struct {
	pkg string // in this module
	// race: built with the race detector where the test is. The others are
	// servers, or too slow with it.
	race bool
}

var programs = map[string]program{
	"api":      {pkg: "./cmd/api", race: true},
	"loadtest": {pkg: "./loadtest"},
	"etcdnode": {pkg: "./internal/sandbox/sandboxtest/etcdnode"},
}

// Build builds the program of that name ("api", "loadtest" or "etcdnode") from
// the tree as it is, and returns its absolute path: in the module's bin, or in
// bin/race for an api built with the race detector, as the test itself is.
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
	built   = map[string]string{} // by name: nothing changes while a test runs
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
	// The flags are the Makefile's, so that neither builds what the other has.
	args := []string{"build", "-trimpath", "-buildvcs=false"}
	cgo := "CGO_ENABLED=0"
	if p.race && raceEnabled {
		bin = filepath.Join(bin, "race")
		args = append(args, "-race")
		cgo = "CGO_ENABLED=1" // the race detector needs it
	}
	path := filepath.Join(bin, name)
	unlock, err := lockFolder(bin)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer unlock()
	cmd := exec.Command("go", append(args, "-o", path, p.pkg)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	built[name] = path
	return path, nil
}

// lockFolder makes the folder and waits for its lock: go test runs packages side
// by side, and one must not replace a program while another starts it.
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
	return func() { _ = lock.Close() }, nil // closing gives the lock back
}

// moduleRoot is the folder upwards of the module flashsale: tests run in the folder
// of their package, which may be in a module within it.
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
			return "", errors.New("not within the module flashsale")
		}
		dir = parent
	}
}
