package order

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// KeysQuery is the look-up of n keys, for a test of how the server runs it.
func KeysQuery(n int) (query string, args []any) {
	keys := make([]byKey, n)
	for i := range keys {
		keys[i] = byKey{fmt.Sprint("customer", 1+i%100), fmt.Sprint("key", 1+i/100)}
	}
	return keysQuery(keys)
}

// Part is one SKU's part of a group, of so many orders of one unit each.
type Part struct {
	Row    stock.Row
	Token  lock.Token
	Orders int
}

func group(parts []Part) []*write {
	cfg := &Config{}
	var writes []*write
	for _, p := range parts {
		w := &write{tenure: stock.Tenure{SKU: p.Row.SKU, Token: p.Token, Fence: strategy.FenceClaim}, row: p.Row, done: make(chan error, 1)}
		for i := range p.Orders {
			r := Request{SKU: p.Row.SKU, Customer: fmt.Sprint("customer", i), Key: "key of " + p.Row.SKU, Quantity: 1}
			o := cfg.makeOrder(&r, newID(), &p.Row, p.Row.Now, p.Token)
			w.orders, w.units = append(w.orders, &o), w.units+1
		}
		writes = append(writes, w)
	}
	return writes
}

// CommitGroup writes the parts in one transaction and returns each one's outcome.
func CommitGroup(ctx context.Context, db *stock.DB, parts ...Part) (outcomes []error, err error) {
	c := &committer{cfg: &Config{DB: db, Metrics: NewMetrics(nil), Logger: slog.New(slog.DiscardHandler)}}
	return c.transact(ctx, group(parts))
}

// GroupText is the packet of CommitGroup without its COMMIT.
func GroupText(parts ...Part) (query string, args []any) {
	query, args = groupStatements(group(parts))
	return strings.TrimSuffix(query, "; COMMIT"), args
}
