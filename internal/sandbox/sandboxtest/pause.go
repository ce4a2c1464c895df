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
)

// Pause stops a server's process, and returns when no thread of it runs any more:
// until then it goes on answering.
func Pause(tb testing.TB, p *sandbox.Process) {
	tb.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		tb.Fatal(err)
	}
	for !stopped(p.Pid()) {
		time.Sleep(time.Millisecond)
	}
}

// Resume lets a paused process go on.
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
		// pid (name) state ...: the name may hold anything.
		if _, rest, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return len(files) > 0
}
