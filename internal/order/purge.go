package order

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"flashsale/internal/stock"
)

const (
	// purgeBatch is how many orders move in a transaction: some 10 ms of the
	// server's time.
	purgeBatch = 500
	// purgeSkew is how far the clock of the replica that made an order may have
	// been ahead of the database's.
	purgeSkew = 24 * time.Hour
	// purgeAttempts bounds how often a batch is moved again that another purge has
	// moved meanwhile.
	purgeAttempts = 10
)

// Purge moves up to limit final orders, those that were paid, cancelled or had
// expired before a time, with their keys from the orders to the archive, in small
// transactions by primary key. It returns how many it moved: fewer than limit are
// all there were. It may run while a sale does, on several hosts at once, and may
// be repeated after any error.
//
// The archive counts in the audit: a paid order's units stay sold. Its customer
// and administrators see a purged order no more, but for its late payments, which
// stay, and may still come. Its key may be used anew, and then makes another order:
// purge what is older than anybody's last try. (A desk that still remembers the order
// answers with it as before, for as long as it sells the SKU and few orders have
// come since.) Paid orders of a SKU with a limit for each customer stay until its
// sale has ended: the limit counts them. What has gone it counts no more, should the
// sale be opened again. Restocks and their keys stay.
func Purge(ctx context.Context, db *stock.DB, before time.Time, limit int) (moved int, err error) {
	var after ID
	for attempts := 0; moved < limit; {
		ids, err := findPurgeable(ctx, db, before, after, min(purgeBatch, limit-moved))
		if err != nil || len(ids) == 0 {
			return moved, err
		}
		n, err := archive(ctx, db, ids)
		moved += n
		switch {
		case stock.IsDuplicate(err) && attempts < purgeAttempts:
			attempts++ // look again what is left
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
	// purgeable goes through the orders by primary key, which is the order in
	// which they were made, as far as they can be old enough.
	purgeable = "SELECT STRAIGHT_JOIN o.id" + whatIsPurgeable + "AND o.id > ? ORDER BY o.id LIMIT ?"
	// countPurgeable counts all of them.
	countPurgeable  = "SELECT STRAIGHT_JOIN COUNT(*)" + whatIsPurgeable
	whatIsPurgeable = " FROM orders o FORCE INDEX (PRIMARY) JOIN stock s ON s.sku = o.sku " +
		"WHERE o.id < ? AND o.status IN ('paid', 'cancelled', 'expired') AND o.closed_at < ? " +
		"AND (o.status <> 'paid' OR s.per_customer_limit IS NULL OR s.sale_ends_at <= NOW(6)) "
)

// Purgeable counts the orders that Purge would move.
func Purgeable(ctx context.Context, db *stock.DB, before time.Time) (n int, err error) {
	end := madeBefore(before)
	if err := db.SQL.QueryRowContext(ctx, countPurgeable, end[:], before).Scan(&n); err != nil {
		return 0, fmt.Errorf("count orders to purge: %w", err)
	}
	return n, nil
}

func findPurgeable(ctx context.Context, db *stock.DB, before time.Time, after ID, limit int) ([]ID, error) {
	end := madeBefore(before)
	if bytes.Compare(after[:], end[:]) >= 0 {
		return nil, nil
	}
	rows, err := db.SQL.QueryContext(ctx, purgeable, end[:], before, after[:], limit)
	if err != nil {
		return nil, fmt.Errorf("find orders to purge: %w", err)
	}
	return scanIDs(rows)
}

// madeBefore is an ID behind those of all orders that were final before a time:
// the first 48 bits of an ID are the milliseconds at which it was made.
func madeBefore(before time.Time) (end ID) {
	binary.BigEndian.PutUint64(end[:8], uint64(before.Add(purgeSkew).UnixMilli())<<16)
	return end
}

// archive moves orders, all or none. What is final changes no more but for the name
// of its payment, which waits until the order is in the archive, and is written
// there. Nothing is deleted that is not in the archive.
func archive(ctx context.Context, db *stock.DB, ids []ID) (moved int, err error) {
	list := make([]any, len(ids))
	for i := range ids {
		list[i] = ids[i][:]
	}
	in := "(?" + strings.Repeat(", ?", len(list)-1) + ")"
	query := archiveOrders(in)
	err = retried(func() error {
		return db.OnConn(ctx, func(conn *sql.Conn) error {
			counts, err := execCommitted(ctx, conn, query, append(list, list...))
			if err != nil {
				return fmt.Errorf("archive orders: %w", err)
			}
			moved = int(counts[2])
			return nil
		})
	})
	return moved, err
}

// archiveOrders is the text of the transaction, of a list of IDs: one packet.
func archiveOrders(in string) string {
	return "BEGIN; " +
		"INSERT INTO archived_orders (" + archiveColumns + ", archived_at) " +
		"SELECT " + archiveColumns + ", NOW(6) FROM orders FORCE INDEX (PRIMARY) WHERE id IN " + in + " FOR UPDATE; " +
		"DELETE o FROM orders o FORCE INDEX (PRIMARY) JOIN archived_orders a ON a.id = o.id WHERE o.id IN " + in + "; " +
		"COMMIT"
}
