package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"

	"flashsale/client/wire"
)

// What administrators send and get, as the service's OpenAPI document has it.
type (
	// SKURequest is what is put on sale.
	SKURequest = wire.SKURequest
	// Restock is an addition to a SKU's units.
	Restock = wire.Restock
	// LatePayment is a payment to be refunded.
	LatePayment = wire.LatePayment
	// AuditReport says whether the database keeps the invariants.
	AuditReport = wire.AuditReport
	// Lock is a SKU's lock that is held.
	Lock = wire.Lock
)

// Precondition says which state of a SKU PutSKU may change. Its zero value is any.
type Precondition struct{ params wire.PutSKUParams }

// IfMatch lets a SKU be changed that no administrator has changed since it was
// read with this ETag. What was sold meanwhile does not stand in the way.
func IfMatch(etag ETag) Precondition {
	text := string(etag)
	return Precondition{wire.PutSKUParams{IfMatch: &text}}
}

// IfExists lets a SKU be changed, and none be created.
func IfExists() Precondition { return IfMatch("*") }

// IfAbsent lets a SKU be created, and none be changed.
func IfAbsent() Precondition {
	every := "*"
	return Precondition{wire.PutSKUParams{IfNoneMatch: &every}}
}

// PutSKU is the answer to a change of a SKU.
type PutSKU struct {
	SKU     SKU
	ETag    ETag
	Created bool
	// Warning says that the request's units were ignored: they count on creation
	// only. Restock adds some.
	Warning string
}

// PutSKU puts a SKU on sale, or changes one. With a precondition it is not tried
// again once it may have been applied, for the second try would find its own
// change and be refused: it is ErrOutcomeUnknown then.
func (c *Client) PutSKU(ctx context.Context, name string, sku SKURequest, only Precondition) (PutSKU, error) {
	var put PutSKU
	got, err := c.do(ctx, call{what: "put SKU " + name, once: only != Precondition{}, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.PutSKU(ctx, name, &only.params, sku, uncompressed)
	}}, &put.SKU)
	if err != nil {
		return PutSKU{}, err
	}
	put.Created = got.status == http.StatusCreated
	put.ETag, put.Warning = ETag(got.header.Get("ETag")), got.header.Get("Warning")
	return put, nil
}

// Restock puts more units of a SKU on sale, also while it is sold. Key is as in a
// Purchase: one key adds its units once.
func (c *Client) Restock(ctx context.Context, sku string, units int32, key string) (Restock, error) {
	key, header, err := idempotencyKey(key)
	if err != nil {
		return Restock{}, fmt.Errorf("restock %s: %w", sku, err)
	}
	var restock Restock
	_, err = c.do(ctx, call{what: "restock " + sku, key: key, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.RestockSKU(ctx, sku, &wire.RestockSKUParams{IdempotencyKey: header}, wire.RestockRequest{Units: units})
	}}, &restock)
	return restock, err
}

// LatePayments goes through the payments that came too late and are to be
// refunded, the oldest first.
func (c *Client) LatePayments(ctx context.Context) iter.Seq2[LatePayment, error] {
	return pages(func(cursor *string) ([]LatePayment, *string, error) {
		var page wire.LatePaymentList
		_, err := c.do(ctx, call{what: "list late payments", reads: true, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
			return at.ListLatePayments(ctx, &wire.ListLatePaymentsParams{Limit: &pageSize, Cursor: cursor})
		}}, &page)
		return page.Items, page.NextCursor, err
	})
}

// Audit checks the whole database against the invariants. It takes seconds where
// there are millions of orders, and no time-out but ctx's.
func (c *Client) Audit(ctx context.Context) (AuditReport, error) {
	var report AuditReport
	_, err := c.do(ctx, call{what: "audit", reads: true, patient: true, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.Audit(ctx)
	}}, &report)
	return report, err
}

// Locks lists who holds which SKU's lock, over all replicas, and who waits.
func (c *Client) Locks(ctx context.Context) ([]Lock, error) {
	var list wire.LockList
	_, err := c.do(ctx, call{what: "list locks", reads: true, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.ListLocks(ctx)
	}}, &list)
	return list.Locks, err
}

// RevokeLock ends the grant of a SKU's lock. It is not tried again once it may
// have been applied: the next holder would lose its own.
func (c *Client) RevokeLock(ctx context.Context, sku string) error {
	_, err := c.do(ctx, call{what: "revoke the lock of " + sku, once: true, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.RevokeLock(ctx, sku)
	}}, nil)
	return err
}
