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
			err := cfg.readChecks(ctx, group)
			for _, c := range group {
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

// readChecks reads the keys and then the rows, in one packet. If an order is committed
// between the two reads, the row shows it.
func (cfg *Config) readChecks(ctx context.Context, group []*check) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	var keys []byKey
	skus := make([]any, len(group))
	for i, c := range group {
		keys = append(keys, c.keys...)
		skus[i] = []byte(c.claim.SKU)
	}
	query, args := "SELECT sku, fence, seq FROM stock WHERE sku IN "+placeholders(len(skus)), skus
	if len(keys) > 0 {
		first, firstArgs := keysQuery(keys)
		query, args = first+"; "+query, append(firstArgs, args...)
	}
	return cfg.DB.OnConn(ctx, func(conn *sql.Conn) error {
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
		return compareVersions(rows, group, byKeys(orders))
	})
}

// compareVersions fills in the answers. Without a claim every row counts as current:
// that fence is only there to show its weakness.
func compareVersions(rows *sql.Rows, group []*check, found map[byKey]Order) error {
	type version struct{ fence, seq uint64 }
	versions := make(map[string]version, len(group))
	for rows.Next() {
		var sku string
		var v version
		if err := rows.Scan(&sku, &v.fence, &v.seq); err != nil {
			return err
		}
		versions[sku] = v
	}
	for _, c := range group {
		v, ok := versions[c.claim.SKU]
		c.found = found
		c.current = c.claim.Fence != strategy.FenceClaim || ok && v == version{uint64(c.claim.Token), c.row.Seq}
	}
	return rows.Err()
}
