// Package leaks finds goroutines that tests leave behind, on machines that are busy, too.
package leaks

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// endsWithin is how long goroutines may take to end. goleak alone waits for less than half a
// second; on a busy machine those of a closed connection may not have run once by then.
const endsWithin = 5 * time.Second

// None fails the test if it leaves goroutines behind, other than those that the options
// name. It waits for those that are about to end.
func None(tb testing.TB, ignored ...goleak.Option) {
	tb.Helper()
	if err := find(endsWithin, ignored...); err != nil {
		tb.Error(err)
	}
}

// Main runs the tests of a package, and fails if they leave goroutines behind. A
// TestMain calls it. It does not return.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := find(endsWithin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// find asks goleak again and again until it finds nothing, and returns what is found at
// the end.
func find(within time.Duration, ignored ...goleak.Option) error {
	for deadline := time.Now().Add(within); ; {
		err := goleak.Find(ignored...)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
