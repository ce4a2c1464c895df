package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"flashsale/internal/stock"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/peer"
	"flashsale/loadtest/proof"
)

// What a peer's runs are checked by, in words.
var checkedBy = map[peer.Store]string{
	peer.MySQL:   "the audit, and the row of each answer",
	peer.Redis:   "the units left, and the pushed order of each answer",
	peer.Nowhere: "nothing: it stores nothing",
}

// books reads what the run's store holds after the last order.
func books(ctx context.Context, p peer.Peer, at backends, load *Load, orders int, plan *attack.Plan, answers []attack.Answer) (proof.Books, error) {
	switch p.Store {
	case peer.MySQL:
		return databaseBooks(ctx, at.dsn, load)
	case peer.Redis:
		return redisBooks(ctx, at.redis, load, orders)
	default:
		return ownBooks(load, orders, plan, answers), nil
	}
}

func databaseBooks(ctx context.Context, dsn string, load *Load) (books proof.Books, err error) {
	db, err := proof.Open(dsn)
	if err != nil {
		return books, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.Books(ctx, load.skus())
}

func redisBooks(ctx context.Context, addr string, load *Load, orders int) (books proof.Books, err error) {
	for i, item := range load.Items {
		left, entries, err := peer.RedisBooks(ctx, addr, item.SKU)
		if err != nil {
			return books, err
		}
		b := stock.Balance{SKU: item.SKU, Units: load.units(i, orders), Available: left}
		for _, o := range entries {
			b.Reserved += int64(o.Quantity)
			books.Rows = append(books.Rows, row(o.ID, item.SKU, o.Customer, o.Key, int(o.Quantity)))
		}
		settle(&books, b)
	}
	return books, nil
}

// ownBooks are those of a peer that keeps none: what it said.
func ownBooks(load *Load, orders int, plan *attack.Plan, answers []attack.Answer) (books proof.Books) {
	sold := map[string]int64{}
	for seq := range answers {
		if a := &answers[seq]; a.Outcome == attack.Accepted {
			o := plan.Order(seq)
			sold[o.SKU] += int64(o.Quantity)
			books.Rows = append(books.Rows, row(a.OrderID, o.SKU, o.Customer, o.Key, o.Quantity))
		}
	}
	for i, item := range load.Items {
		units := load.units(i, orders)
		settle(&books, stock.Balance{SKU: item.SKU, Units: units, Available: units - sold[item.SKU], Reserved: sold[item.SKU]})
	}
	return books
}

func row(id uuid.UUID, sku, customer, key string, quantity int) proof.Row {
	return proof.Row{ID: id, SKU: sku, Customer: customer, Key: key, Quantity: quantity, Status: "reserved"}
}

// settle does the arithmetic that the audit does for MySQL.
func settle(books *proof.Books, b stock.Balance) {
	b.Oversold = max(0, b.Reserved-b.Units)
	b.OK = b.Units == b.Available+b.Reserved && b.Available >= 0
	if !b.OK {
		books.Violations = append(books.Violations, stock.Violation{
			SKU: b.SKU, Invariant: stock.Conservation,
			Detail: fmt.Sprintf("%d units, but %d available + %d in orders", b.Units, b.Available, b.Reserved),
		})
	}
	books.Balances = append(books.Balances, b)
}
