package lesson

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"flashsale/internal/lock/mysqllock"
	"flashsale/internal/sandbox"
	"flashsale/loadtest/lesson/testbed"
)

var getLockThroughAPool = Lesson{
	Name:    "get-lock-through-a-pool",
	Title:   "GET_LOCK belongs to a connection",
	Chinese: "GET_LOCK 属于连接：经过连接池就失效",
	Shows:   "A pool runs each statement on any free connection. GET_LOCK succeeds at once on a connection that already holds the lock.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "GET_LOCK on the pool", Breaks: true, Script: func(run *testbed.Run) {
			shop := run.Shop(1)
			pool := run.Open(run.MySQL().DSN(run.Name))
			a, b := shop.Buyers()
			onA := getLock(run, a, pool.SQL)
			a.Read()
			if onB := getLock(run, b, pool.SQL); onA != onB {
				run.Fail("the pool used two connections")
			}
			b.Log("(the pool used the connection of A's GET_LOCK)")
			b.Read()
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "GET_LOCK on a reserved connection", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			getLock(run, a, a.Conn)
			a.Read()
			waiting := b.To(MySQL, testbed.Lock).Start("GET_LOCK on its own connection: waits", func(ctx context.Context) error {
				var got sql.NullInt64
				err := b.Conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 10)", run.Name).Scan(&got)
				if got.Int64 != 1 {
					return errors.Join(err, errors.New("GET_LOCK returned no lock"))
				}
				return err
			})
			run.Until("B waits for the lock", func(ctx context.Context) (bool, error) {
				all, err := run.MySQL().Connections(ctx)
				return slices.ContainsFunc(all, func(c sandbox.Connection) bool { return c.State == "User lock" }), err
			})
			waiting.MustBlock()
			a.Sell(1)
			a.To(MySQL, testbed.Lock).Log("RELEASE_LOCK")
			a.Exec("DO RELEASE_LOCK(?)", run.Name)
			waiting.Finish()
			b.To(MySQL, testbed.Lock).Log("acquires the lock")
			b.ReadAndSell()
		}},
		{Title: "the service's own lock, which reserves a connection for each grant", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			mutexA, mutexB := newGetLockMutex(run), newGetLockMutex(run)
			held := mutexA.lock(a)
			a.Read()
			mutexB.refuse(b)
			a.Sell(1)
			held.unlock()
			mutexB.sell(b)
		}},
	},
}

// newGetLockMutex is the service's own lock, one for each process.
func newGetLockMutex(run *testbed.Run) *mutex {
	locker, err := mysqllock.NewGetLock(mysqllock.Config{DSN: run.MySQL().DSN(run.Name), TTL: leaseTime})
	run.Check(err)
	return newMutexOn(run, MySQL, locker)
}

// getLock acquires the run's lock through a pool or a connection, and returns its id.
func getLock(run *testbed.Run, b *testbed.Buyer, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (connection int64) {
	var got sql.NullInt64
	run.Check(db.QueryRowContext(run.Context(), "SELECT GET_LOCK(?, 0), CONNECTION_ID()", run.Name).Scan(&got, &connection))
	if got.Int64 != 1 {
		run.Fail("%s: GET_LOCK returned no lock", b.Name)
	}
	b.To(b.Server, testbed.Lock).Log("GET_LOCK: granted")
	return connection
}
