package sandboxtest

import (
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// patience bounds every wait for something that must happen. It is long because a
// busy machine under the race detector is slow.
const patience = 2 * time.Minute

// Eventually polls until reached returns true. It fails the test if that takes too
// long. what completes the message "waited for ...".
func Eventually(tb testing.TB, what string, reached func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited for %s, not reached within %s", what, patience)
		}
	}
}

// Await waits until event is closed or receives a value. It fails the test if that
// takes too long. what completes the message "waited for ...".
func Await(tb testing.TB, event <-chan struct{}, what string) {
	tb.Helper()
	select {
	case <-event:
	case <-time.After(patience):
		tb.Fatalf("waited for %s, not reached within %s", what, patience)
	}
}

// Pause stops a server's process. It returns once all threads are stopped: until then
// the server may still answer.
func Pause(tb testing.TB, p *sandbox.Process) {
	tb.Helper()
	if p.Shared() {
		tier.LeaveOut(tb, ownServers)
	}
	if err := p.Pause(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// Resume continues a paused process.
func Resume(tb testing.TB, p *sandbox.Process) {
	tb.Helper()
	if err := p.Signal(sandbox.SIGCONT); err != nil {
		tb.Fatal(err)
	}
}
