package order

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"

	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// This file is what has to be read before an order may be refused: whether an order
// stands under its key, since a replay comes before every refusal, and then whether
// the row is still the one by which it was decided.

const (
	// checkLanes are the packets of checks that a replica has under way at once.
	checkLanes = 2
	// checkKeys bounds the keys of one packet.
	checkKeys = 2048
)

// checker reads for the desks of a replica what their refusals need. Whatever was
// asked while the last packets were under way goes into the next one: a sale that
// is sold out has many refusals, of many SKUs.
type checker struct {
	cfg *Config
	// start runs a lane in a goroutine that somebody waits for.
	start func(lane func())

	mu      sync.Mutex
	waiting []*check
	lanes   int
}

// check is what one desk asks.
type check struct {
	right stock.Claim
	row   stock.Row
	keys  []byKey
	// found are the orders that stand, under these keys and others.
	found map[byKey]Order
	// current: the row is still the one that the tenure knows. Every order of the
	// check had arrived before that was read.
	current bool
	done    chan error
}

// check reads, within commitTimeout for each packet before it.
func (c *checker) check(ctx context.Context, k *check) error {
	k.done = make(chan error, 1)
	c.mu.Lock()
	c.waiting = append(c.waiting, k)
	idle := c.lanes < checkLanes
	if idle {
		c.lanes++
	}
	c.mu.Unlock()
	if idle {
		c.start(func() { c.lane(ctx) })
	}
	return <-k.done
}

// lane reads group after group until nothing waits.
func (c *checker) lane(ctx context.Context) {
	for {
		c.mu.Lock()
		n, keys := 0, 0
		for n < len(c.waiting) && n < groupSKUs && (n == 0 || keys+len(c.waiting[n].keys) <= checkKeys) {
			keys += len(c.waiting[n].keys)
			n++
		}
		group := c.waiting[:n:n]
		c.waiting = c.waiting[n:]
		if n == 0 {
			c.lanes--
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		err := c.read(ctx, group)
		for _, k := range group {
			k.done <- err
		}
	}
}

// read is one packet: the keys, and after them the rows. An order that came
// between the two has moved its row.
func (c *checker) read(ctx context.Context, group []*check) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	var keys []byKey
	for _, k := range group {
		keys = append(keys, k.keys...)
	}
	query, args := versionsQuery(group)
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
		var found map[byKey]Order
		if len(keys) > 0 {
			if found, err = scanByKeys(rows); err != nil {
				return err
			}
			if !rows.NextResultSet() {
				return fmt.Errorf("check refusals: the rows were not answered: %w", rows.Err())
			}
		}
		return scanVersions(rows, group, found)
	})
}

// versionsQuery reads what the checks compare.
func versionsQuery(group []*check) (query string, args []any) {
	args = make([]any, len(group))
	for i, k := range group {
		args[i] = []byte(k.right.SKU)
	}
	return "SELECT sku, fence, seq FROM stock WHERE sku IN (?" + strings.Repeat(", ?", len(group)-1) + ")", args
}

// scanVersions compares. Without a claim there is nothing to compare: the fence is
// here to be seen through.
func scanVersions(rows *sql.Rows, group []*check, found map[byKey]Order) error {
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
	if err := rows.Err(); err != nil {
		return err
	}
	for _, k := range group {
		v, stands := versions[k.right.SKU]
		k.found = found
		k.current = k.right.Fence != strategy.FenceClaim || stands && v.fence == uint64(k.right.Token) && v.seq == k.row.Seq
	}
	return nil
}
