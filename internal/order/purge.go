package order

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"flashsale/internal/stock"
)

const (
	purgeBatch = 500 // orders of one transaction, which takes the server about 10 ms
	// purgeSkew is how far the clock of the replica that made an order may have been
	// ahead of the database's.
	purgeSkew = 24 * time.Hour
	// purgeAttempts bounds how often a batch is read again because another purge has
	// moved some of its orders.
	purgeAttempts = 10
)

// Purge moves up to limit final orders (paid, cancelled or expired before a time) with
// their keys to the archive, in small transactions by primary key. It returns how many
// it moved; fewer than limit means that none are left. It may run during a sale and on
// several hosts at once, and may be repeated after any error.
//
// The audit includes the archive: a paid order's units stay sold. Customers and
// administrators no longer see a purged order, except for its late payments. Its key can
// make another order, so purge only what no client still retries. Paid orders of a SKU
// with a per-customer limit stay until its sale has ended or it is withdrawn, because the
// limit counts them. Under a strict hold policy, cancelled orders stay until their payment
// window would have ended. If the sale is reopened later, purged orders do not count.
//
// When no orders are left to move, it deletes the rows of customers whose last order is older.
func Purge(ctx context.Context, db *stock.DB, before time.Time, limit int) (moved int, err error) {
	end, after := endOfIDs(before), ID{}
	for attempts := 0; moved < limit; {
		ids, err := stock.Query(ctx, db.SQL, oneColumn[ID], purgeable, end[:], before, after[:], min(purgeBatch, limit-moved))
		if err != nil {
			return moved, fmt.Errorf("find orders to purge: %w", err)
		}
		if len(ids) == 0 {
			return moved, forgetCustomers(ctx, db, before)
		}
		n, err := archive(ctx, db, ids)
		moved += n
		switch {
		case stock.IsDuplicate(err) && attempts < purgeAttempts:
			attempts++
			continue
		case err != nil:
			return moved, err
		}
		after, attempts = ids[len(ids)-1], 0
	}
	return moved, nil
}

const (
	archiveColumns = orderColumns + ", payment_reference, returned_by"
	// purgeable reads in the order of the primary key, which is the order in which
	// orders were made. It stops where they are too new.
	purgeable       = "SELECT STRAIGHT_JOIN o.id" + whatIsPurgeable + "AND o.id > ? ORDER BY o.id LIMIT ?"
	countPurgeable  = "SELECT STRAIGHT_JOIN COUNT(*)" + whatIsPurgeable
	whatIsPurgeable = " FROM orders o FORCE INDEX (PRIMARY) JOIN stock s ON s.sku = o.sku " +
		"WHERE o.id < ? AND o.status IN ('paid', 'cancelled', 'expired') AND o.closed_at < ? " +
		"AND (o.status <> 'paid' OR s.per_customer_limit IS NULL OR s.sale_ends_at <= NOW(6) OR s.withdrawn_at IS NOT NULL) " +
		"AND (s.hold_policy = 'lenient' OR o.expires_at <= NOW(6)) "
)

// Purgeable counts the orders that Purge would move.
func Purgeable(ctx context.Context, db *stock.DB, before time.Time) (n int, err error) {
	end := endOfIDs(before)
	if err := db.SQL.QueryRowContext(ctx, countPurgeable, end[:], before).Scan(&n); err != nil {
		return 0, fmt.Errorf("count orders to purge: %w", err)
	}
	return n, nil
}

// endOfIDs is an ID after those of all orders that were final before a time. The first
// 48 bits of an ID are the milliseconds at which it was made.
func endOfIDs(before time.Time) (end ID) {
	binary.BigEndian.PutUint64(end[:8], uint64(before.Add(purgeSkew).UnixMilli())<<16)
	return end
}

// archive moves orders, all or none. It deletes only what is in the archive. A final
// order can still get a payment reference: that write waits for this transaction, and is
// then made in the archive.
func archive(ctx context.Context, db *stock.DB, ids []ID) (moved int, err error) {
	list, query := idArgs(ids), archiveOrders(placeholders(len(ids)))
	err = retryRolledBack(func() error {
		counts, err := inMySQL{db}.execCommitted(ctx, query, slices.Concat(list, list))
		if err != nil {
			return fmt.Errorf("archive orders: %w", err)
		}
		moved = int(counts[2])
		return nil
	})
	return moved, err
}

func archiveOrders(in string) string {
	return "BEGIN; " +
		"INSERT INTO archived_orders (" + archiveColumns + ", archived_at) " +
		"SELECT " + archiveColumns + ", NOW(6) FROM orders FORCE INDEX (PRIMARY) WHERE id IN " + in + " FOR UPDATE; " +
		"DELETE o FROM orders o FORCE INDEX (PRIMARY) JOIN archived_orders a ON a.id = o.id WHERE o.id IN " + in + "; " +
		"COMMIT"
}

// forgetCustomers deletes the rows of customers that were last locked before a time. It
// locks them in the order in which orders do. A row that an order has locked is not deleted:
// the order has set its time.
func forgetCustomers(ctx context.Context, db *stock.DB, before time.Time) error {
	for after := ""; ; {
		some, err := stock.Query(ctx, db.SQL, oneColumn[string],
			"SELECT customer FROM customers WHERE customer > ? AND ordered_at < ? ORDER BY customer LIMIT ?", []byte(after), before, purgeBatch)
		if err != nil {
			return fmt.Errorf("find customers to purge: %w", err)
		}
		if len(some) == 0 {
			return nil
		}
		err = retryRolledBack(func() error {
			return db.OnConn(ctx, func(conn *sql.Conn) error {
				_, err := conn.ExecContext(ctx, "DELETE c FROM customers c FORCE INDEX (PRIMARY) WHERE c.customer IN "+placeholders(len(some))+" AND c.ordered_at < ?",
					append(customerArgs(some), before)...)
				return err
			})
		})
		if err != nil {
			return fmt.Errorf("purge customers: %w", err)
		}
		after = some[len(some)-1]
	}
}
