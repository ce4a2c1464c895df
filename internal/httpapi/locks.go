package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/lock"
)

// Locks tells who holds which SKU's lock, over all replicas.
type Locks interface {
	Inspect(ctx context.Context) ([]lock.Info, error)
	Revoke(ctx context.Context, sku string) error
}

var kindLocksHidden = kind{slug: "locks-not-shown", status: http.StatusNotImplemented, title: "Locks are not shown",
	detail: "This service's strategy takes no lock, or one whose server does not tell who holds it. See its table of strategies."}

// lockResponse is one lock that is held. What its server does not tell is "", 0,
// null or no one.
type lockResponse struct {
	SKU     string     `json:"sku"`
	Holder  string     `json:"holder"`
	Replica string     `json:"replica"`
	Token   lock.Token `json:"token"`
	Since   *time.Time `json:"since"`
	Queue   []string   `json:"queue"`
}

// PresentLocks is how locks are shown, here and by the tools.
func PresentLocks(all []lock.Info) map[string]any {
	list := make([]lockResponse, len(all))
	for i, held := range all {
		list[i] = lockResponse{SKU: held.Name, Holder: held.Holder, Replica: held.Replica, Token: held.Token, Queue: held.Queue}
		if !held.Since.IsZero() {
			since := held.Since.UTC()
			list[i].Since = &since
		}
		if held.Queue == nil {
			list[i].Queue = []string{}
		}
	}
	return map[string]any{"locks": list}
}

// listLocks shows the locks that are held now, by any replica.
func (a *api) listLocks(c *gin.Context) {
	if a.cfg.Locks == nil {
		a.fail(c, kindLocksHidden.problem(""))
		return
	}
	all, err := a.cfg.Locks.Inspect(c.Request.Context())
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	c.JSON(http.StatusOK, PresentLocks(all))
}

// revokeLock ends the grant of a SKU's lock, whoever has it. The holder may hear
// of it late: only a fence keeps it from writing.
func (a *api) revokeLock(c *gin.Context) {
	sku := c.Param("sku")
	switch {
	case a.cfg.Locks == nil:
		a.fail(c, kindLocksHidden.problem(""))
		return
	case !skuPattern.MatchString(sku):
		a.fail(c, kindNotHeld.problem(""))
		return
	}
	switch err := a.cfg.Locks.Revoke(c.Request.Context(), sku); {
	case errors.Is(err, lock.ErrNotHeld):
		a.fail(c, kindNotHeld.problem(""))
	case err != nil:
		a.cfg.Logger.Warn("revoke a lock", "sku", sku, "error", err)
		a.fail(c, kindRevokeUnknown.problem(""))
	default:
		a.cfg.Logger.Warn("an administrator revoked a lock", "sku", sku)
		c.Status(http.StatusNoContent)
	}
}

var kindRevokeUnknown = kind{slug: "outcome-unknown", status: http.StatusGatewayTimeout, title: "The outcome is not known",
	detail: "The grant may have ended. Look who holds the lock before you ask again: by then it may be another."}

var kindNotHeld = kind{slug: "lock-not-held", status: http.StatusNotFound, title: "Nobody holds this SKU's lock"}
