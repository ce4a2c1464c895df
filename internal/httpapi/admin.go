package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// Locks inspects and revokes the locks of SKUs, over all replicas.
type Locks interface {
	Inspect(ctx context.Context) ([]lock.Info, error)
	Revoke(ctx context.Context, sku string) error
}

// PresentLocks returns locks as answers and tools show them. What the lock server
// does not report is "", 0, null or an empty list. forwarded is the number of
// orders in flight to each replica's address.
func PresentLocks(all []lock.Info, forwarded map[string]int) spec.LockList {
	return spec.LockList{Locks: presentAll(all, func(held *lock.Info) spec.Lock {
		shown := spec.Lock{SKU: held.Name, Holder: held.Holder, Replica: held.Replica, Token: int64(held.Token),
			Queue: append([]string{}, held.Queue...), Address: held.Addr, Forwarded: forwarded[held.Addr]}
		if !held.Since.IsZero() {
			shown.Since = new(held.Since.UTC())
		}
		return shown
	})}
}

func (a *api) ListLocks(c *gin.Context) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		if a.cfg.Locks == nil {
			return nil, kindLocksHidden.problem("")
		}
		all, err := a.cfg.Locks.Inspect(ctx)
		if err != nil {
			return nil, err
		}
		return PresentLocks(all, a.cfg.Orders.Forwarded()), nil
	})
}

// RevokeLock ends the current grant of a SKU's lock. The holder may learn of it
// late: only the fence prevents its writes.
func (a *api) RevokeLock(c *gin.Context, sku spec.SKUInPath) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		switch {
		case a.cfg.Locks == nil:
			return nil, kindLocksHidden.problem("")
		case a.checkSKU(sku) != "":
			return nil, kindNotHeld.problem("")
		}
		callOf(c).change = change{before: a.holderOf(ctx, sku)}
		switch err := a.cfg.Locks.Revoke(ctx, sku); {
		case errors.Is(err, lock.ErrNotHeld):
			return nil, kindNotHeld.problem("")
		case err != nil:
			a.cfg.Logger.Warn("could not revoke a lock", "sku", sku, "error", err)
			return nil, kindUnknown.problem("The grant may have ended. List the locks before you retry: the lock may have a new holder.")
		}
		c.Status(http.StatusNoContent)
		return nil, nil
	})
}

// holderOf returns the holder of a SKU's lock for the trail, or nil if it cannot be read.
func (a *api) holderOf(ctx context.Context, sku string) map[string]any {
	ctx, cancel := context.WithTimeout(ctx, trailTimeout)
	defer cancel()
	all, err := a.cfg.Locks.Inspect(ctx)
	if i := slices.IndexFunc(all, func(held lock.Info) bool { return held.Name == sku }); err == nil && i >= 0 {
		return map[string]any{"holder": all[i].Holder, "replica": all[i].Replica, "token": all[i].Token}
	}
	return nil
}

// ListOrdersOfSKU lists the orders of all customers for a SKU. It does not check that
// the SKU exists: orders outlive what the list of SKUs shows.
func (a *api) ListOrdersOfSKU(c *gin.Context, params spec.ListOrdersOfSKUParams) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		valid := func(order.SKUCursor) bool { return true }
		list, next, err := readPage(a, params.Cursor, params.Limit, (*order.Order).SKUCursor, valid, func(after order.SKUCursor, limit int) ([]order.Order, error) {
			return a.cfg.Orders.ListOf(ctx, params.SKU, after, limit)
		})
		return spec.CustomerOrderList{NextCursor: next, Items: presentAll(list, func(o *order.Order) spec.CustomerOrder {
			return spec.CustomerOrder{ID: o.ID, Customer: o.Customer, IdempotencyKey: o.Key, SKU: o.SKU, Quantity: o.Quantity,
				Status: spec.OrderStatus(o.Status), CreatedAt: o.CreatedAt}
		})}, err
	})
}

func (a *api) ListLatePayments(c *gin.Context, params spec.ListLatePaymentsParams) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		valid := func(c order.LateCursor) bool { return c.ReceivedAt.Year() >= 1970 && len(c.Reference) <= maxReference }
		list, next, err := readPage(a, params.Cursor, params.Limit, (*order.LatePayment).Cursor, valid, func(after order.LateCursor, limit int) ([]order.LatePayment, error) {
			return a.cfg.Orders.LatePayments(ctx, after, limit)
		})
		return spec.LatePaymentList{NextCursor: next, Items: presentAll(list, func(p *order.LatePayment) spec.LatePayment {
			return spec.LatePayment{OrderID: p.OrderID, Customer: p.Customer, Reference: p.Reference, ReceivedAt: p.ReceivedAt}
		})}, err
	})
}

// Audit checks the whole database. Only the client's connection bounds it: a large
// database takes longer than the server's write timeout.
func (a *api) Audit(c *gin.Context) {
	a.serve(c, func(ctx context.Context) (any, error) {
		// It fails only on writers without deadlines, as in tests.
		_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Time{})
		report, err := a.cfg.Audit(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", order.ErrUnavailable, err)
		}
		return spec.AuditReport{Ok: report.OK,
			Skus: presentAll(report.SKUs, func(b *stock.Balance) spec.Balance {
				return spec.Balance{SKU: b.SKU, Units: b.Units, Available: b.Available, Reserved: b.Reserved, Paid: b.Paid,
					Returned: b.Returned, Oversold: b.Oversold, Ok: b.OK}
			}),
			Violations: presentAll(report.Violations, func(v *stock.Violation) spec.Violation {
				return spec.Violation{SKU: v.SKU, Invariant: v.Invariant, Detail: v.Detail}
			})}, nil
	})
}
