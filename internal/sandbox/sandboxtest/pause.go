package sandboxtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		tb.Fatal(err)
	}
	for !stopped(p.Pid()) {
		time.Sleep(time.Millisecond)
	}
}

// Resume continues a paused process.
func Resume(tb testing.TB, p *sandbox.Process) {
	tb.Helper()
	if err := p.Signal(syscall.SIGCONT); err != nil {
		tb.Fatal(err)
	}
}

// stopped reports whether all threads of a process are stopped.
func stopped(pid int) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		// The format is "pid (name) state ..."; the name may contain any character.
		if _, rest, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return len(files) > 0
}
