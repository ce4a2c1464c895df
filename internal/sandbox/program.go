package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// source says how to install a program: our script, and Debian's packages.
type source struct{ script, packages string }

func (s source) missing(program string, err error) error {
	return &MissingError{Program: program, Do: "run `" + s.script + "` or `apt-get install " + s.packages + "`", err: err}
}

// ownDatabase completes what to do about a missing database.
const ownDatabase = ", or use a MySQL server of your own with --mysql-dsn, or docker compose"

// MissingError says that a server's program is not installed.
type MissingError struct {
	Program string
	Do      string // how to install it
	err     error
}

func (e *MissingError) Error() string { return e.Program + " is not installed: " + e.Do }

// Unwrap usually returns exec.ErrNotFound.
func (e *MissingError) Unwrap() error { return e.err }

// findProgram also searches the administrators' folders, which the PATH of other
// users often lacks.
func findProgram(name string, from source) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, lookErr := exec.LookPath(filepath.Join(dir, name)); lookErr == nil {
			return path, nil
		}
	}
	return "", from.missing(name, err)
}

// cacheFolder is where the scripts put a program that they have downloaded or built.
func cacheFolder(name string) (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "flashsale", name), err
}

// runToItsEnd runs a program and its children until it exits or ctx ends. It keeps
// its thread: the kernel kills the program when the thread that started it ends.
func runToItsEnd(ctx context.Context, name string, argv []string, temp string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// A database that starts empties its folder for temporary tables. In a shared
	// folder it would remove those of another one that is being installed.
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.SysProcAttr = ChildAttr()
	cmd.Cancel = func() error { return killGroup(cmd.Process) }
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil { // says nothing about what it tried
			return fmt.Errorf("%w: %s, whose output ends:\n%s", context.Cause(ctx), name, lastLines(string(out), tailLines))
		}
		return fmt.Errorf("%s: %w; its output ends:\n%s", name, err, lastLines(string(out), tailLines))
	}
	return nil
}

// superuser is the user that a database's --user must name if this process runs as
// root. It is "" for another user, as whom the database runs by itself.
func superuser() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return ""
}

// lastLines returns at most the last n lines of text, indented.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-n):], "\n    ")
}
