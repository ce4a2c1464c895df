package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// readyTimeout bounds a readiness check: a server that takes longer to answer
// one small question is not one to serve orders with.
const readyTimeout = 2 * time.Second

// Healthz answers as long as the process does.
func (a *api) Healthz(c *gin.Context) { c.JSON(http.StatusOK, spec.Liveness{Status: spec.Alive}) }

// Readyz answers 200 when every server that orders need would take one; for reading,
// when what is read can be. It names those that do not, and keeps their addresses
// and errors in the log.
func (a *api) Readyz(c *gin.Context, params spec.ReadyzParams) {
	reading := params.For != nil && *params.For == "reading"
	ask := a.cfg.Ready
	if reading && a.cfg.ReadyToRead != nil {
		ask = a.cfg.ReadyToRead
	}
	// A caller that goes away meanwhile says nothing about the servers: the check is
	// finished, for the metric and the log.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), readyTimeout)
	defer cancel()
	status, answer := http.StatusOK, spec.Readiness{Status: spec.Ready, Checks: map[string]string{}}
	for name, err := range ask(ctx) {
		answer.Checks[name] = "ok"
		if err != nil {
			status, answer.Status, answer.Checks[name] = http.StatusServiceUnavailable, spec.NotReady, "does not answer"
			if reason, ok := errors.AsType[Reason](err); ok {
				answer.Checks[name] = string(reason)
			}
			a.cfg.Logger.Warn("not ready", "server", name, "error", err)
		}
	}
	if !reading {
		a.metrics.isReady(status == http.StatusOK)
	}
	if a.cfg.Notes != nil {
		for name, note := range a.cfg.Notes() {
			answer.Checks[name] = cmp.Or(note, "ok")
		}
	}
	c.JSON(status, answer)
}

// Reason is an error of readiness that anybody may read.
type Reason string

func (r Reason) Error() string { return string(r) }

// Audit reads everything: it is bounded by the caller's patience alone.
func (a *api) Audit(c *gin.Context) {
	// A large database takes longer than any other answer may. A connection
	// that knows no deadlines, as in a test, has none to lift.
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Time{})
	report, err := a.cfg.Audit(c.Request.Context())
	if err != nil {
		a.fail(c, fmt.Errorf("%w: %w", order.ErrUnavailable, err))
		return
	}
	c.JSON(http.StatusOK, presentAudit(&report))
}

func presentAudit(report *stock.Report) spec.AuditReport {
	answer := spec.AuditReport{Ok: report.OK, Skus: make([]spec.Balance, len(report.SKUs)), Violations: make([]spec.Violation, len(report.Violations))}
	for i, b := range report.SKUs {
		answer.Skus[i] = spec.Balance{SKU: b.SKU, Units: b.Units, Available: b.Available, Reserved: b.Reserved, Paid: b.Paid,
			Returned: b.Returned, Oversold: b.Oversold, Ok: b.OK}
	}
	for i, v := range report.Violations {
		answer.Violations[i] = spec.Violation{SKU: v.SKU, Invariant: v.Invariant, Detail: v.Detail}
	}
	return answer
}
