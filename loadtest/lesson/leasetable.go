package lesson

import (
	"context"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/loadtest/lesson/testbed"
)

// leaseTable is the usual lock table: a row under a unique key, with an end.
const leaseTable = `CREATE TABLE lease (
	name       VARBINARY(64) NOT NULL,
	owner      VARBINARY(64) NOT NULL,
	expires_at DATETIME(6)   NULL,
	PRIMARY KEY (name)
) ENGINE = InnoDB`

func leaseShop(run *testbed.Run) *testbed.Shop {
	shop := run.Shop(1)
	shop.Exec(leaseTable)
	return shop
}

// insertLease acquires the lock without an end: its owner must delete the row.
const insertLease = "INSERT INTO lease (name, owner) VALUES ('sneaker', ?)"

// insertLeaseUntil acquires it for some microseconds of the database's clock.
const insertLeaseUntil = "INSERT INTO lease (name, owner, expires_at) VALUES ('sneaker', ?, NOW(6) + INTERVAL ? MICROSECOND)"

// takeLease acquires the lock if it is free, or if its lease has ended by that
// clock. A nil clock is the database's. It returns lock.ErrHeld otherwise.
func takeLease(ctx context.Context, b *testbed.Buyer, clock func() time.Time, ttl time.Duration) error {
	insert, insertArgs := insertLeaseUntil, []any{[]byte(b.Name), ttl.Microseconds()}
	update := "UPDATE lease SET owner = ?, expires_at = NOW(6) + INTERVAL ? MICROSECOND WHERE name = 'sneaker' AND expires_at < NOW(6)"
	updateArgs := insertArgs
	if clock != nil {
		now := clock().UTC()
		insert = "INSERT INTO lease (name, owner, expires_at) VALUES ('sneaker', ?, ?)"
		insertArgs = []any{[]byte(b.Name), now.Add(ttl)}
		update = "UPDATE lease SET owner = ?, expires_at = ? WHERE name = 'sneaker' AND expires_at < ?"
		updateArgs = append(insertArgs, now)
	}
	_, err := b.Conn.ExecContext(ctx, insert, insertArgs...)
	if !stock.IsDuplicate(err) {
		return err
	}
	result, err := b.Conn.ExecContext(ctx, update, updateArgs...)
	if err != nil {
		return err
	}
	if changed, err := result.RowsAffected(); err != nil || changed == 1 {
		return err
	}
	return lock.ErrHeld
}
