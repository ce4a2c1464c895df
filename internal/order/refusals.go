package order

import (
	"context"
	"database/sql"
	"fmt"

	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// This file is what has to be read before an order may be refused: first whether an
// order with its key exists, because a replay takes precedence over every refusal;
// then whether the row is still the one by which the order was decided.

const (
	checkLanes = 2    // packets of checks that a replica has under way at once
	checkKeys  = 2048 // of one packet
)

// newChecks makes the lanes that read what the refusals of a replica's desks need, in
// groups of one packet each: a sale that is sold out has many refusals, of many SKUs.
func newChecks(cfg *Config, start func(lane func())) *lanes[*check] {
	return &lanes[*check]{most: checkLanes, size: func(c *check) int { return len(c.keys) }, maxSize: checkKeys, start: start,
		process: func(ctx context.Context, group []*check) {
			ctx, cancel := context.WithTimeout(ctx, commitTimeout)
			defer cancel()
			var keys []byKey
			skus := make([]string, len(group))
			for i, c := range group {
				keys, skus[i] = append(keys, c.keys...), c.claim.SKU
			}
			found, versions, err := cfg.database.check(ctx, keys, skus)
			for _, c := range group {
				c.found, c.current = found, c.isCurrent(versions)
				c.done <- err
			}
		}}
}

// check is the question whether a desk may refuse orders, and its answer.
type check struct {
	claim stock.Claim
	row   stock.Row
	keys  []byKey
	found map[byKey]Order // existing orders, with these keys and with those of other checks
	// current is set if the row still equalled the tenure's copy when it was read. By
	// then, every order of the check had arrived.
	current bool
	done    chan error
}

// version changes with every write to a row, and with every claim.
type version struct{ fence, seq uint64 }

// isCurrent compares the tenure's copy with the row. Without a claim every row counts as
// current: that fence is only there to show its weakness.
func (c *check) isCurrent(versions map[string]version) bool {
	v, ok := versions[c.claim.SKU]
	return c.claim.Fence != strategy.FenceClaim || ok && v == version{uint64(c.claim.Token), c.row.Seq}
}

// check reads the orders with these keys, and then the versions of the rows, in one packet.
// If an order is committed between the two reads, its row's version shows it.
func (db inMySQL) check(ctx context.Context, keys []byKey, skus []string) (found map[byKey]Order, versions map[string]version, err error) {
	query, args := "SELECT sku, fence, seq FROM stock WHERE sku IN "+placeholders(len(skus)), make([]any, len(skus))
	for i, sku := range skus {
		args[i] = []byte(sku)
	}
	if len(keys) > 0 {
		first, firstArgs := keysQuery(keys)
		query, args = first+"; "+query, append(firstArgs, args...)
	}
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		rows, err := conn.QueryContext(ctx, query, args...)
		if err != nil {
			return fmt.Errorf("check refusals: %w", err)
		}
		defer rows.Close()
		var orders []Order
		if len(keys) > 0 {
			for rows.Next() {
				var o Order
				if err := rows.Scan(o.columns()...); err != nil {
					return err
				}
				orders = append(orders, o)
			}
			if !rows.NextResultSet() {
				return fmt.Errorf("check refusals: the second statement was not answered: %w", rows.Err())
			}
		}
		found, versions = byKeys(orders), make(map[string]version, len(skus))
		for rows.Next() {
			var sku string
			var v version
			if err := rows.Scan(&sku, &v.fence, &v.seq); err != nil {
				return err
			}
			versions[sku] = v
		}
		return rows.Err()
	})
	return found, versions, err
}
