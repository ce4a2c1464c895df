package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flashsale/internal/sleep"
)

// Pause stops the child (SIGSTOP) until it gets SIGCONT. It returns once all threads are
// stopped: until then the child may still answer.
func (p *Process) Pause(ctx context.Context) error {
	if err := p.Signal(SIGSTOP); err != nil {
		return err
	}
	for !stopped(p.Pid()) {
		if err := sleep.For(ctx, time.Millisecond); err != nil { // the kernel sends no event
			return fmt.Errorf("pause %s: %w", p.cfg.Name, err)
		}
	}
	return nil
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
		if _, state, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " "); !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return len(files) > 0
}
