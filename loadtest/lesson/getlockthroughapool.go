package lesson

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"flashsale/internal/lock/mysqllock"
	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
	"flashsale/loadtest/lesson/testbed"
)

var getLockThroughAPool = Lesson{
	Name:    "get-lock-through-a-pool",
	Title:   "GET_LOCK belongs to a connection",
	Shows:   "A pool hands each statement whatever connection is free. GET_LOCK lets a connection in that has the lock already.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "GET_LOCK on the pool", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			pool, err := stock.Open(p.MySQL().DSN(p.Name), 4)
			p.Check(err)
			p.Cleanup(pool.Close)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			onA := getLock(p, a, pool.SQL)
			a.Read()
			if onB := getLock(p, b, pool.SQL); onA != onB {
				p.Fail("the pool had only one connection, and yet gave another")
			}
			b.Says("(the pool gave it the connection that A's GET_LOCK went over)")
			b.Read()
			a.Sell(1)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "GET_LOCK on a connection that is kept", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			getLock(p, a, a.Conn)
			a.Read()
			waiting := b.Begins("GET_LOCK, on its own connection, and has to wait", func(ctx context.Context) error {
				var got sql.NullInt64
				err := b.Conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 10)", p.Name).Scan(&got)
				if got.Int64 != 1 {
					return errors.Join(err, errors.New("GET_LOCK was refused"))
				}
				return err
			})
			p.Until("B waits for the lock", func(ctx context.Context) (bool, error) {
				all, err := p.MySQL().Connections(ctx)
				return slices.ContainsFunc(all, func(c sandbox.Connection) bool { return c.State == "User lock" }), err
			})
			waiting.MustWait()
			a.Sell(1)
			a.Says("RELEASE_LOCK")
			exec(p, a, "DO RELEASE_LOCK(?)", p.Name)
			waiting.Ends()
			b.Says("has the lock")
			b.Read()
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "the service's own lock, which keeps a connection for each grant", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			ofA, ofB := newGetLockMutex(p), newGetLockMutex(p)
			held := ofA.lock(a)
			a.Read()
			ofB.refuses(b)
			a.Sell(1)
			held.unlock()
			heldByB := ofB.lock(b)
			b.Read()
			b.Sell(1)
			heldByB.unlock()
			return shop.Audit()
		}},
	},
}

// newGetLockMutex is the service's lock, as another process would have it.
func newGetLockMutex(p *testbed.Play) *mutex {
	locker, err := mysqllock.NewGetLock(mysqllock.Config{DSN: p.MySQL().DSN(p.Name), TTL: leaseTime})
	p.Check(err)
	return newMutexOn(p, locker)
}

// getLock takes the play's lock over db, a pool or a connection, and returns the
// connection that it went over.
func getLock(p *testbed.Play, b *testbed.Buyer, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (connection int64) {
	var got sql.NullInt64
	p.Check(db.QueryRowContext(p.Context(), "SELECT GET_LOCK(?, 0), CONNECTION_ID()", p.Name).Scan(&got, &connection))
	if got.Int64 != 1 {
		p.Fail("%s: GET_LOCK was refused", b.Name)
	}
	b.Says("GET_LOCK: granted")
	return connection
}
