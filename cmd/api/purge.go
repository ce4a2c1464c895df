package main

import (
	"context"
	"fmt"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

const (
	// purgeStep is how many orders move between two lines of progress.
	purgeStep = 10_000
	// purgeRecent is how long an order's key is kept at least: whoever still asks
	// for it again would make another order.
	purgeRecent = 24 * time.Hour
)

type purgeCmd struct {
	mysqlFlags
	Before string `required:"" placeholder:"WHEN" help:"Orders that were paid, cancelled or expired before this: a date (2006-01-02), a time (2006-01-02T15:04:05Z), or how long ago (720h)."`
	DryRun bool   `help:"Count them, and move none."`
	Force  bool   `help:"Also within the last ${purge_recent}, when buyers may still ask for an order again."`
}

// Run moves final orders and their keys to the archive. It may run beside a sale,
// and may be ended and run again: what has moved has moved.
func (c *purgeCmd) Run(ctx context.Context, s streams) error {
	if _, err := c.named(time.Now()); err != nil {
		return err // before any server is asked
	}
	return withSchema(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) error {
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

// named is the time that the flag names, at now.
func (c *purgeCmd) named(now time.Time) (before time.Time, err error) {
	if ago, err := time.ParseDuration(c.Before); err == nil {
		return now.Add(-ago), nil
	}
	if before, err = time.Parse(time.DateOnly, c.Before); err != nil {
		before, err = time.Parse(time.RFC3339, c.Before)
	}
	if err != nil {
		return before, fmt.Errorf("--before: %.40q is no date (2006-01-02), no time (2006-01-02T15:04:05Z) and no duration (720h)", c.Before)
	}
	return before, nil
}

// before is that time, if it may be purged before it, at now by the database's clock.
func (c *purgeCmd) before(now time.Time) (before time.Time, err error) {
	before, err = c.named(now)
	switch {
	case err != nil:
		return before, err
	case before.After(now):
		return before, fmt.Errorf("--before: %s is in the future (it is %s)", before.Format(time.RFC3339), now.Format(time.RFC3339))
	case now.Sub(before) < purgeRecent && !c.Force:
		return before, fmt.Errorf("--before: %s is within the last %s, when buyers may still ask for an order again with its key: use --force to purge nevertheless",
			before.Format(time.RFC3339), inHours(purgeRecent))
	}
	return before.UTC(), nil
}

// inHours is a duration of whole hours as people write it.
func inHours(d time.Duration) string { return fmt.Sprintf("%.0fh", d.Hours()) }
