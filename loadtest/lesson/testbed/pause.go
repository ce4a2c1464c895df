package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

// Pause stops a process (SIGSTOP), and returns when no thread of it runs any
// more: until then it goes on answering. It goes on at the play's end at the
// latest.
func (p *Play) Pause(process *sandbox.Process) error {
	if err := process.Signal(sandbox.SIGSTOP); err != nil {
		return err
	}
	p.Cleanup(func() error { return process.Signal(sandbox.SIGCONT) })
	for {
		stopped, err := allStopped(process.Pid())
		if stopped || err != nil {
			return err
		}
		if err := sleep.For(p.ctx, time.Millisecond); err != nil { // the kernel tells only who asks
			return err
		}
	}
}

// allStopped says whether each thread of a process is in the state T.
func allStopped(pid int) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return false, fmt.Errorf("process %d has no threads (%w)", pid, err)
	}
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		// "pid (name) state ...", and a name may hold anything.
		_, state, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
		if !strings.HasPrefix(state, "T") {
			return false, nil
		}
	}
	return true, nil
}
