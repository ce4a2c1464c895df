package httpapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/time/rate"

	"flashsale/internal/httpapi/spec"
)

// readyTimeout bounds a readiness check. A slower server cannot serve orders.
const readyTimeout = 2 * time.Second

// notReadyPause is the time between two log lines about a server. Anyone may call /readyz,
// as often as they like.
const notReadyPause = 10 * time.Second

// notReady samples log lines, by the name of the server. The zero value is ready to use.
type notReady struct{ samplers sync.Map } // of *rate.Sometimes; there are few names

func (n *notReady) sample(name string, log func()) {
	sampler, _ := n.samplers.LoadOrStore(name, &rate.Sometimes{Interval: notReadyPause})
	sampler.(*rate.Sometimes).Do(log)
}

// Reason is an error that /readyz shows to everyone.
type Reason string

func (r Reason) Error() string { return string(r) }

func (a *api) Healthz(c *gin.Context) { c.JSON(http.StatusOK, spec.Liveness{Status: spec.Alive}) }

// Readyz answers 200 if this replica can take orders, or, for reading, answer reads
// and take payments. It names the failed servers; only the log has their errors.
func (a *api) Readyz(c *gin.Context, params spec.ReadyzParams) {
	check := a.cfg.Ready
	if params.For != nil && *params.For == "reading" && a.cfg.ReadyToRead != nil {
		check = a.cfg.ReadyToRead
	}
	// Finish the check after a disconnect, which must not look like a failed server.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), readyTimeout)
	defer cancel()
	status, answer := http.StatusOK, spec.Readiness{Status: spec.Ready, Checks: map[string]string{}}
	for name, err := range check(ctx) {
		answer.Checks[name] = "ok"
		if err != nil {
			status = http.StatusServiceUnavailable
			answer.Status, answer.Checks[name] = spec.NotReady, "does not answer"
			if reason, ok := errors.AsType[Reason](err); ok {
				answer.Checks[name] = string(reason)
			}
			a.logNotReady(name, err)
		}
	}
	if a.cfg.Notes != nil {
		for name, note := range a.cfg.Notes() {
			answer.Checks[name] = cmp.Or(note, "ok")
		}
	}
	c.JSON(status, answer)
}

// canSell reports, for the metric, whether this replica can take orders.
func (a *api) canSell(ctx context.Context) bool {
	ready := true
	for name, err := range a.cfg.Ready(ctx) {
		if err != nil {
			ready = false
			a.logNotReady(name, err)
		}
	}
	return ready
}

func (a *api) logNotReady(server string, err error) {
	a.notReady.sample(server, func() { a.cfg.Logger.Warn("not ready", "server", server, "error", err) })
}
