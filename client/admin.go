package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"

	"flashsale/client/wire"
)

// The types of administrators' calls, generated from the OpenAPI document.
type (
	// SKURequest is the SKU to create, or the new values of an existing one.
	SKURequest = wire.SKURequest
	// Restock is an addition to a SKU's units.
	Restock = wire.Restock
	// CustomerOrder is an order as administrators see it.
	CustomerOrder = wire.CustomerOrder
	// LatePayment is a payment that must be refunded.
	LatePayment = wire.LatePayment
	// AuditReport says whether the database satisfies the invariants.
	AuditReport = wire.AuditReport
	// Lock is a lock that is held.
	Lock = wire.Lock
)

// Precondition is the state that a SKU must have for PutSKU to apply. The zero
// value accepts any state.
type Precondition struct{ params wire.PutSKUParams }

// IfMatch requires that no administrator has changed the SKU since it was read with
// this ETag. Sold units do not count as a change.
func IfMatch(etag ETag) Precondition {
	return Precondition{wire.PutSKUParams{IfMatch: new(string(etag))}}
}

// IfExists requires that the SKU exists.
func IfExists() Precondition { return IfMatch("*") }

// IfAbsent requires that the SKU does not exist.
func IfAbsent() Precondition {
	return Precondition{wire.PutSKUParams{IfNoneMatch: new("*")}}
}

// PutSKU is the result of Client.PutSKU.
type PutSKU struct {
	SKU     SKU
	ETag    ETag
	Created bool
	// Warning is set if the service ignored the request's units, which count only
	// when a SKU is created. Use Restock to add units.
	Warning string
}

// PutSKU creates or changes a SKU. With a precondition, it returns
// ErrOutcomeUnknown instead of retrying a request that may have been applied: the
// retry could fail because of its own change.
func (c *Client) PutSKU(ctx context.Context, name string, sku SKURequest, only Precondition) (put PutSKU, err error) {
	request, err := uncompressed(wire.NewPutSKURequest(anyReplica, name, &only.params, sku))
	got, err := c.do(ctx, call{what: "put SKU " + name, once: only != Precondition{}}.with(request, err), &put.SKU)
	if err != nil {
		return PutSKU{}, err
	}
	put.Created = got.status == http.StatusCreated
	put.ETag, put.Warning = ETag(got.header.Get("ETag")), got.header.Get("Warning")
	return put, nil
}

// WithdrawSKU takes a SKU off the list and off sale, for good; with an ETag, only if no
// administrator has changed the SKU since it was read. Its orders stay: they can be read,
// paid and cancelled. Withdrawing it again succeeds.
func (c *Client) WithdrawSKU(ctx context.Context, name string, etag ETag) error {
	var params wire.WithdrawSKUParams
	if etag != "" {
		params.IfMatch = new(string(etag))
	}
	_, err := c.do(ctx, call{what: "withdraw SKU " + name}.with(wire.NewWithdrawSKURequest(anyReplica, name, &params)), nil)
	return err
}

// AllSKUs lists all SKUs as SKUs does, also those that are not announced yet or are
// withdrawn.
func (c *Client) AllSKUs(ctx context.Context) iter.Seq2[SKU, error] {
	return list[SKU](ctx, c, "list all SKUs", func(cursor *string) (*http.Request, error) {
		return wire.NewListAllSKUsRequest(anyReplica, &wire.ListAllSKUsParams{Limit: &pageSize, Cursor: cursor})
	})
}

// AnySKU reads one SKU as Client.SKU does, also one that is not announced yet or is
// withdrawn.
func (c *Client) AnySKU(ctx context.Context, name string) (sku SKU, etag ETag, err error) {
	request, err := wire.NewGetAnySKURequest(anyReplica, name)
	return c.readSKU(ctx, name, request, err)
}

// Restock adds units to a SKU. Key is as in Purchase: one key adds its units once.
func (c *Client) Restock(ctx context.Context, sku string, units int32, key string) (Restock, error) {
	key, header, err := idempotencyKey(key)
	if err != nil {
		return Restock{}, fmt.Errorf("restock %s: %w", sku, err)
	}
	return fetch[Restock](ctx, c, call{what: "restock " + sku, key: key}.with(
		wire.NewRestockSKURequest(anyReplica, sku, &wire.RestockSKUParams{IdempotencyKey: header}, wire.RestockRequest{Units: units})))
}

// OrdersOf lists the orders of all customers for a SKU, oldest first, without purged ones.
// It reads pages as the loop proceeds. The last pair has an error if reading failed.
func (c *Client) OrdersOf(ctx context.Context, sku string) iter.Seq2[CustomerOrder, error] {
	return list[CustomerOrder](ctx, c, "list the orders of "+sku, func(cursor *string) (*http.Request, error) {
		return wire.NewListOrdersOfSKURequest(anyReplica, &wire.ListOrdersOfSKUParams{SKU: sku, Limit: &pageSize, Cursor: cursor})
	})
}

// LatePayments lists the payments that must be refunded, oldest first. It reads
// pages as the loop proceeds. The last pair has an error if reading failed.
func (c *Client) LatePayments(ctx context.Context) iter.Seq2[LatePayment, error] {
	return list[LatePayment](ctx, c, "list late payments", func(cursor *string) (*http.Request, error) {
		return wire.NewListLatePaymentsRequest(anyReplica, &wire.ListLatePaymentsParams{Limit: &pageSize, Cursor: cursor})
	})
}

// Audit checks the whole database against the invariants. It takes seconds for
// millions of orders. TryTimeout does not apply.
func (c *Client) Audit(ctx context.Context) (AuditReport, error) {
	return fetch[AuditReport](ctx, c, call{what: "audit", reads: true, unbounded: true}.with(wire.NewAuditRequest(anyReplica)))
}

// Locks lists the locks that replicas hold, with their queues.
func (c *Client) Locks(ctx context.Context) ([]Lock, error) {
	list, err := fetch[wire.LockList](ctx, c, call{what: "list locks", reads: true}.with(wire.NewListLocksRequest(anyReplica)))
	return list.Locks, err
}

// RevokeLock ends the current grant of a SKU's lock. It does not retry a request
// that may have been applied: the retry could revoke the next holder's grant.
func (c *Client) RevokeLock(ctx context.Context, sku string) error {
	_, err := c.do(ctx, call{what: "revoke the lock of " + sku, once: true}.with(wire.NewRevokeLockRequest(anyReplica, sku)), nil)
	return err
}
