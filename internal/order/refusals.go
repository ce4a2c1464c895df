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

// checker reads what the refusals of a replica's desks need, in groups of one packet
// each: a sale that is sold out has many refusals, of many SKUs.
type checker struct {
	cfg   *Config
	lanes lanes[*check]
}

func newChecker(cfg *Config, start func(lane func())) *checker {
	c := &checker{cfg: cfg}
	c.lanes = lanes[*check]{most: checkLanes, size: func(k *check) int { return len(k.keys) }, maxSize: checkKeys, start: start,
		process: func(ctx context.Context, group []*check) {
			err := c.read(ctx, group)
			for _, k := range group {
				k.done <- err
			}
		}}
	return c
}

type check struct {
	claim stock.Claim
	row   stock.Row
	keys  []byKey
	// found are existing orders, with these keys and with those of other checks.
	found map[byKey]Order
	// current is set if the row was still the tenure's copy when it was read. Every
	// order of the check had arrived before.
	current bool
	done    chan error
}

// check answers k. Each packet, also of earlier checks, takes up to commitTimeout.
func (c *checker) check(ctx context.Context, k *check) error {
	k.done = make(chan error, 1)
	c.lanes.add(ctx, k)
	return <-k.done
}

// read reads the keys and then the rows, in one packet. An order that is committed
// between the two changes its row.
func (c *checker) read(ctx context.Context, group []*check) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	var keys []byKey
	skus := make([]any, len(group))
	for i, k := range group {
		keys = append(keys, k.keys...)
		skus[i] = []byte(k.claim.SKU)
	}
	query, args := "SELECT sku, fence, seq FROM stock WHERE sku IN "+placeholders(len(skus)), skus
	if len(keys) > 0 {
		first, firstArgs := keysQuery(keys)
		query, args = first+"; "+query, append(firstArgs, args...)
	}
	return c.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error {
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
	for _, k := range group {
		v, ok := versions[k.claim.SKU]
		k.found = found
		k.current = k.claim.Fence != strategy.FenceClaim || ok && v == version{uint64(k.claim.Token), k.row.Seq}
	}
	return rows.Err()
}
