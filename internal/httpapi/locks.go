package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/lock"
)

// Locks tells who holds which SKU's lock, over all replicas.
type Locks interface {
	Inspect(ctx context.Context) ([]lock.Info, error)
	Revoke(ctx context.Context, sku string) error
}

// PresentLocks is how locks are shown, here and by the tools. What a lock's server
// does not tell is "", 0, null or no one. forwarded are the orders under way to
// other replicas, by their addresses.
func PresentLocks(all []lock.Info, forwarded map[string]int) spec.LockList {
	list := make([]spec.Lock, len(all))
	for i, held := range all {
		list[i] = spec.Lock{SKU: held.Name, Holder: held.Holder, Replica: held.Replica, Token: int64(held.Token), Queue: held.Queue,
			Address: held.Addr, Forwarded: forwarded[held.Addr]}
		if !held.Since.IsZero() {
			since := held.Since.UTC()
			list[i].Since = &since
		}
		if held.Queue == nil {
			list[i].Queue = []string{}
		}
	}
	return spec.LockList{Locks: list}
}

// ListLocks shows the locks that are held now, by any replica.
func (a *api) ListLocks(c *gin.Context) {
	if a.cfg.Locks == nil {
		a.fail(c, kindLocksHidden.problem(""))
		return
	}
	ctx, cancel := a.bounded(c)
	defer cancel()
	all, err := a.cfg.Locks.Inspect(ctx)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	c.JSON(http.StatusOK, PresentLocks(all, a.cfg.Orders.Forwarded()))
}

// RevokeLock ends the grant of a SKU's lock, whoever has it. The holder may hear
// of it late: only a fence keeps it from writing.
func (a *api) RevokeLock(c *gin.Context, sku spec.SKUInPath) {
	switch {
	case a.cfg.Locks == nil:
		a.fail(c, kindLocksHidden.problem(""))
		return
	case a.skuName(sku) != "":
		a.fail(c, kindNotHeld.problem(""))
		return
	}
	ctx, cancel := a.bounded(c)
	defer cancel()
	switch err := a.cfg.Locks.Revoke(ctx, sku); {
	case errors.Is(err, lock.ErrNotHeld):
		a.fail(c, kindNotHeld.problem(""))
	case err != nil:
		a.cfg.Logger.Warn("revoke a lock", "sku", sku, "error", err)
		a.fail(c, kindUnknown.problem("The grant may have ended. Look who holds the lock before you ask again: by then it may be another."))
	default:
		a.cfg.Logger.Warn("an administrator revoked a lock", "sku", sku)
		c.Status(http.StatusNoContent)
	}
}
