package testbed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

// Until polls f until it returns true. It is for conditions that no server
// reports, such as the expiry of a key.
func (r *Run) Until(what string, f func(ctx context.Context) (bool, error)) {
	// InnoDB rebuilds its list of transactions at most every 100 ms.
	const pause = 110 * time.Millisecond
	for {
		ok, err := f(r.ctx)
		r.Check(err)
		if ok {
			return
		}
		if err := sleep.For(r.ctx, pause); err != nil {
			r.Fail("wait until %s: %w", what, err)
		}
	}
}

// Await returns once c is closed.
func (r *Run) Await(what string, c <-chan struct{}) {
	select {
	case <-c:
	case <-r.ctx.Done():
		r.Fail("wait until %s: %w", what, r.ctx.Err())
	}
}

// Pause stops a process (SIGSTOP) and returns once none of its threads runs: until
// then it still answers. The process resumes when the run ends, or earlier.
func (r *Run) Pause(process *sandbox.Process) error {
	if err := process.Signal(sandbox.SIGSTOP); err != nil {
		return err
	}
	r.Cleanup(func() error { return process.Signal(sandbox.SIGCONT) })
	for {
		stopped, err := allStopped(process.Pid())
		if stopped || err != nil {
			return err
		}
		if err := sleep.For(r.ctx, time.Millisecond); err != nil { // the kernel sends no event
			return err
		}
	}
}

// allStopped reports whether each thread of a process is in the state T.
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
		// "pid (name) state ...", where the name may contain any character.
		_, state, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
		if !strings.HasPrefix(state, "T") {
			return false, nil
		}
	}
	return true, nil
}

// Token names a fencing token for readers: the first one that a run shows is T1.
func (r *Run) Token(token uint64) string {
	if r.tokens[token] == 0 {
		r.tokens[token] = len(r.tokens) + 1
	}
	return fmt.Sprintf("T%d", r.tokens[token])
}

// Audit says whether the invariants hold after a run.
type Audit struct {
	OK bool
	// Text has the figures, and each broken invariant, a line each.
	Text []string
}

// Report adds a check of the script's own to the run's audit.
func (r *Run) Report(ok bool, text ...string) { r.reported = append(r.reported, Audit{ok, text}) }

// audit joins the audits of all shops with what the script reported.
func (r *Run) audit() Audit {
	all := make([]Audit, 0, len(r.shops)+len(r.reported))
	for _, s := range r.shops {
		all = append(all, s.audit())
	}
	joined := Audit{OK: true}
	for _, a := range append(all, r.reported...) {
		joined.OK = joined.OK && a.OK
		joined.Text = append(joined.Text, a.Text...)
	}
	return joined
}

// Units is a number of units, in words.
func Units(n int64) string {
	if n == 1 {
		return "1 unit"
	}
	return fmt.Sprintf("%d units", n)
}
