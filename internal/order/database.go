package order

import (
	"context"
	"time"

	"flashsale/internal/stock"
)

// database is what the path of an order does in MySQL. Everything else in this package
// decides from the results of these calls. Each is one packet, so that this process makes
// no round trip between the first row lock and COMMIT. A simulation implements it, too.
type database interface {
	Ping(ctx context.Context) error
	Get(ctx context.Context, sku string) (stock.Stock, error)
	// listed returns stock.ErrUnknownSKU for a SKU that is not listed.
	listed(ctx context.Context, sku string) error
	Change(ctx context.Context, want stock.Stock, revision *uint64) (changed bool, err error)

	// claim is stock.Claim.Read.
	claim(ctx context.Context, c stock.Claim) (stock.Row, error)
	// commit writes a group, whole or not at all. Its errors are those of stock.OutcomeOf.
	commit(ctx context.Context, group []*write) error
	// admitted lists the SKUs of those takes whose condition is true.
	admitted(ctx context.Context, takes []stock.Take) ([]string, error)
	// check first reads the orders with these keys, and then the versions of the rows.
	check(ctx context.Context, keys []byKey, skus []string) (map[byKey]Order, map[string]version, error)
	// settle tries once what the function settle does.
	settle(ctx context.Context, sku string, ids []ID) ([]Order, error)
	// returnUnits tries once what the function returnUnits does. by marks the orders that it ends.
	returnUnits(ctx context.Context, sku string, to Status, ids []ID, by ID) (ended int64, err error)

	findByKeys(ctx context.Context, keys []byKey) (map[byKey]Order, error)
	// heldBy reads what each of the customers holds of sku.
	heldBy(ctx context.Context, sku string, policy stock.HoldPolicy, customers []string) (map[string]holding, error)
	// unpaidOf counts the reserved orders of each of the customers.
	unpaidOf(ctx context.Context, customers []string) (map[string]int, error)
	find(ctx context.Context, customer string, id ID) (Order, error)
	pay(ctx context.Context, how payment, customer string, id ID, reference string) (o Order, now time.Time, used bool, err error)
	findRestock(ctx context.Context, key string) (Restock, error)
	insertRestock(ctx context.Context, id ID, r *RestockRequest) error
}

// inMySQL is the database of every Service. Its methods stand beside their callers.
type inMySQL struct{ *stock.DB }
