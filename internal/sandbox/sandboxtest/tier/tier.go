// Package tier lets the smaller runs of the tests, make unit and make test, skip
// single tests. scripts/test says which packages each run has.
package tier

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// leftOut is the environment variable that the smaller runs set. It names a file:
// each test that is skipped adds a line, and the run prints them at its end.
const leftOut = "FLASHSALE_TEST_LEFT_OUT"

// OnlyTestAll skips a test in the smaller runs. It is for a test that needs more
// than Go, MariaDB and etcd, or plays the whole laboratory; needs says what. In
// every other run the test goes on, and has to fail if what it needs is missing.
func OnlyTestAll(tb testing.TB, needs string) {
	tb.Helper()
	path := os.Getenv(leftOut)
	if path == "" {
		return
	}
	if err := writeDown(path, tb.Name(), needs); err != nil {
		tb.Fatalf("%s: %v", leftOut, err)
	}
	tb.Skipf("needs %s: make test-all runs it", needs) //nolint:forbidigo // the run lists it at its end
}

// writeDown adds the line in one write, since packages are tested side by side.
func writeDown(path, name, needs string) error {
	folder, err := os.Getwd() // the package's
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s %s: %s\n", folder, name, needs)
	return errors.Join(err, file.Close())
}
