package main

import (
	"context"
	"fmt"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

const (
	// purgeStep is the number of orders between two lines of progress.
	purgeStep = 10_000
	// purgeRecent is how long an order's idempotency key is kept at least: a retry
	// without it would place another order.
	purgeRecent = 24 * time.Hour
)

type purgeCmd struct {
	mysqlFlags
	Before string `required:"" placeholder:"WHEN" help:"Purge orders that were paid, cancelled or expired before this: a date (2006-01-02), a time (2006-01-02T15:04:05Z), or a duration ago (720h)."`
	DryRun bool   `help:"Count the orders without moving them."`
	Force  bool   `help:"Allow a time within the last ${purge_recent}, although buyers may still retry those orders."`
}

// Run moves final orders and their keys to the archive. It may run during a sale, and
// may be interrupted and repeated. The account must be one that may delete rows.
func (c *purgeCmd) Run(ctx context.Context, s streams) error {
	if _, err := c.time(time.Now()); err != nil {
		return err
	}
	return c.withSchema(ctx, func(ctx context.Context, db *stock.DB) error {
		now, err := db.Now(ctx)
		if err != nil {
			return err
		}
		before, err := c.before(now)
		if err != nil {
			return err
		}
		if c.DryRun {
			n, err := order.Purgeable(ctx, db, before)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.out, "%d orders that were final before %s would be purged\n", n, before.Format(time.RFC3339))
			return err
		}
		total := 0
		for {
			n, err := order.Purge(ctx, db, before, purgeStep)
			total += n
			if err != nil && stock.IsDenied(err) {
				err = fmt.Errorf("%w; use the account of `api migrate`: the service's may not delete rows", err)
			}
			if err != nil {
				return fmt.Errorf("after %d orders: %w", total, err)
			}
			if n < purgeStep {
				break
			}
			fmt.Fprintf(s.err, "%d orders purged so far\n", total)
		}
		_, err = fmt.Fprintf(s.out, "%d orders that were final before %s were purged\n", total, before.Format(time.RFC3339))
		return err
	})
}

// time parses --before.
func (c *purgeCmd) time(now time.Time) (before time.Time, err error) {
	if ago, err := time.ParseDuration(c.Before); err == nil {
		return now.Add(-ago), nil
	}
	if before, err = time.Parse(time.DateOnly, c.Before); err != nil {
		before, err = time.Parse(time.RFC3339, c.Before)
	}
	if err != nil {
		return before, fmt.Errorf("--before: %.40q is not a date (2006-01-02), a time (2006-01-02T15:04:05Z) or a duration (720h)", c.Before)
	}
	return before, nil
}

// before returns the time of --before if it is allowed. now is the database's time.
func (c *purgeCmd) before(now time.Time) (before time.Time, err error) {
	before, err = c.time(now)
	switch {
	case err != nil:
		return before, err
	case before.After(now):
		return before, fmt.Errorf("--before: %s is in the future (it is %s)", before.Format(time.RFC3339), now.Format(time.RFC3339))
	case now.Sub(before) < purgeRecent && !c.Force:
		return before, fmt.Errorf("--before: %s is within the last %s, for which buyers may still retry orders; use --force to purge them anyway",
			before.Format(time.RFC3339), inHours(purgeRecent))
	}
	return before.UTC(), nil
}

// inHours formats a duration of whole hours.
func inHours(d time.Duration) string { return fmt.Sprintf("%.0fh", d.Hours()) }
