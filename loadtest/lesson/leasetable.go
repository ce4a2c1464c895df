package lesson

import (
	"context"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/loadtest/lesson/testbed"
)

// leaseTable is a lock as many write it: a row under a unique key, with an end.
const leaseTable = `CREATE TABLE lease (
	name       VARBINARY(64) NOT NULL,
	owner      VARBINARY(64) NOT NULL,
	expires_at DATETIME(6)   NULL,
	PRIMARY KEY (name)
) ENGINE = InnoDB`

// insertLease takes the lock for good: the row goes when its owner deletes it.
const insertLease = "INSERT INTO lease (name, owner) VALUES ('sneaker', ?)"

// insertLeaseUntil takes it for so many microseconds of the database's clock.
const insertLeaseUntil = "INSERT INTO lease (name, owner, expires_at) VALUES ('sneaker', ?, NOW(6) + INTERVAL ? MICROSECOND)"

// takeLease takes the lock over if it is free, or over by the clock of whoever
// asks. A clock that is nil is the database's.
func takeLease(ctx context.Context, b *testbed.Buyer, clock func() time.Time, ttl time.Duration) error {
	insert, insertArgs := insertLeaseUntil, []any{[]byte(b.Name), ttl.Microseconds()}
	update := "UPDATE lease SET owner = ?, expires_at = NOW(6) + INTERVAL ? MICROSECOND WHERE name = 'sneaker' AND expires_at < NOW(6)"
	updateArgs := insertArgs
	if clock != nil {
		now := clock().UTC()
		insert = "INSERT INTO lease (name, owner, expires_at) VALUES ('sneaker', ?, ?)"
		insertArgs = []any{[]byte(b.Name), now.Add(ttl)}
		update = "UPDATE lease SET owner = ?, expires_at = ? WHERE name = 'sneaker' AND expires_at < ?"
		updateArgs = []any{[]byte(b.Name), now.Add(ttl), now}
	}
	_, err := b.Conn.ExecContext(ctx, insert, insertArgs...)
	if !stock.IsDuplicate(err) {
		return err
	}
	result, err := b.Conn.ExecContext(ctx, update, updateArgs...)
	if err != nil {
		return err
	}
	if taken, err := result.RowsAffected(); err != nil || taken == 1 {
		return err
	}
	return lock.ErrHeld
}
