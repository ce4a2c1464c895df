// Package tier lets make unit and make test skip single tests. scripts/test lists the
// packages of each.
package tier

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// leftOut is the environment variable by which scripts/test names a file. Each skipped
// test adds a line to it, which is printed at the end.
const leftOut = "FLASHSALE_TEST_LEFT_OUT"

// everything is set by make test-all: only LeaveOut skips a test.
const everything = "FLASHSALE_TEST_EVERYTHING"

// OnlyTestAll skips a test in make unit and make test. It is for a test that needs more
// than Go, MariaDB and etcd, or runs the whole laboratory; needs says what. In every
// other run the test must fail if that is missing.
func OnlyTestAll(tb testing.TB, needs string) {
	tb.Helper()
	if os.Getenv(leftOut) != "" && os.Getenv(everything) == "" {
		LeaveOut(tb, needs)
	}
}

// LeaveOut skips a test that cannot run with the servers that the environment names, or
// with this machine's kernel and rights. In a run of scripts/test it is listed at the end.
func LeaveOut(tb testing.TB, needs string) {
	tb.Helper()
	if err := record(tb.Name(), needs); err != nil {
		tb.Fatal(err)
	}
	tb.Skip("needs " + needs) //nolint:forbidigo // listed at the end of the run
}

// LeaveOutPackage lists a whole package as LeaveOut does, and returns the exit status
// of its tests.
func LeaveOutPackage(needs string) int {
	if err := record("the whole package", needs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// record adds a line to the file that scripts/test names. It writes the line
// at once, since packages are tested in parallel.
func record(name, needs string) error {
	path := os.Getenv(leftOut)
	if path == "" {
		return nil
	}
	folder, err := os.Getwd() // that of the package
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", leftOut, err)
	}
	_, err = fmt.Fprintf(file, "%s %s: %s\n", folder, name, needs)
	return errors.Join(err, file.Close())
}
