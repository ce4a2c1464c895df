package testbed

import (
	"context"
	"fmt"
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

// Pause stops a process (SIGSTOP). It resumes when the run ends, or earlier.
func (r *Run) Pause(process *sandbox.Process) error {
	r.Cleanup(func() error { return process.Signal(sandbox.SIGCONT) })
	return process.Pause(r.ctx)
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
		all = append(all, s.Audit())
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
