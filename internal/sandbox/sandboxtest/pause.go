package sandboxtest

import (
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

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
