package sandboxtest

import (
	"testing"

	"flashsale/internal/sandbox"
)

// Processes are the processes of one server. They implement the faults of locktest.Server.
type Processes []*sandbox.Process

// Pause pauses all processes.
func (ps Processes) Pause(tb testing.TB) {
	tb.Helper()
	for _, p := range ps {
		Pause(tb, p)
	}
}

// Resume continues all paused processes.
func (ps Processes) Resume(tb testing.TB) {
	tb.Helper()
	for _, p := range ps {
		Resume(tb, p)
	}
}

// Kill ends all processes as a crash does.
func (ps Processes) Kill(testing.TB) {
	for _, p := range ps {
		p.Kill()
	}
}

// Restart kills all processes and starts them again. It returns when they are ready.
func (ps Processes) Restart(tb testing.TB) {
	tb.Helper()
	ps.Kill(tb)
	for _, p := range ps {
		if err := p.Restart(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
}
