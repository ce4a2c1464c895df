package lesson

import (
	"errors"
	"time"

	"flashsale/internal/lock"
	"flashsale/loadtest/lesson/testbed"
)

const (
	// skew is how far B's clock is ahead of A's: a host without NTP.
	skew = time.Minute
	// leaseTime is how long a lease is. It is shorter than the skew.
	leaseTime = 30 * time.Second
)

var clockSkew = Lesson{
	Name:    "clock-skew",
	Title:   "whose clock says that the lease is over?",
	Shows:   "A lease of 30 s is written with one replica's clock, and read with another's, which is a minute ahead.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "each replica's own clock", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			shop.Exec(leaseTable)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			p.Check(takeLease(p.Context(), a, time.Now, leaseTime))
			a.Says("has the lock until 30 s from now, by its clock")
			a.Read()
			p.Check(takeLease(p.Context(), b, func() time.Time { return time.Now().Add(skew) }, leaseTime))
			b.Says("the lease has been over for 30 s, by its clock: takes the lock over")
			b.Read()
			a.Sell(1)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "the database's clock, for all", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			shop.Exec(leaseTable)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			p.Check(takeLease(p.Context(), a, nil, leaseTime))
			a.Says("has the lock until NOW(6) + 30 s, by the database's clock")
			a.Read()
			if err := takeLease(p.Context(), b, nil, leaseTime); !errors.Is(err, lock.ErrHeld) {
				p.Fail("B: the lock is not held: %v", err)
			}
			b.Says("... WHERE expires_at < NOW(6) changes no row: has to wait, whatever its clock says")
			a.Sell(1)
			exec(p, a, "DELETE FROM lease WHERE owner = ?", []byte(a.Name))
			a.Says("unlocks")
			p.Check(takeLease(p.Context(), b, nil, leaseTime))
			b.Says("has the lock")
			b.Read()
			b.Sell(1)
			return shop.Audit()
		}},
	},
}
