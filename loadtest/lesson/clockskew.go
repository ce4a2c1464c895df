package lesson

import (
	"errors"
	"time"

	"flashsale/internal/lock"
	"flashsale/loadtest/lesson/testbed"
)

const (
	// skew is how far B's clock is ahead of A's, as on a host without NTP.
	skew = time.Minute
	// leaseTime is shorter than the skew.
	leaseTime = 30 * time.Second
)

var clockSkew = Lesson{
	Name:    "clock-skew",
	Title:   "which clock decides that the lease has ended?",
	Chinese: "时钟偏差：由谁的时钟判断租约到期？",
	Shows:   "One replica writes a lease of 30 s by its own clock. Another compares it with its own clock, which is a minute ahead.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "each replica's own clock", Breaks: true, Script: func(run *testbed.Run) {
			a, b := leaseShop(run).Buyers()
			run.Check(takeLease(run.Context(), a, time.Now, leaseTime))
			a.To(MySQL, testbed.Lock).Log("acquires the lock for 30 s, by its own clock")
			a.Read()
			run.Check(takeLease(run.Context(), b, func() time.Time { return time.Now().Add(skew) }, leaseTime))
			b.To(MySQL, testbed.Lock).Log("takes the lock over: the lease ended 30 s ago, by its own clock")
			b.Read()
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "the database's clock for all", Script: func(run *testbed.Run) {
			a, b := leaseShop(run).Buyers()
			run.Check(takeLease(run.Context(), a, nil, leaseTime))
			a.To(MySQL, testbed.Lock).Log("acquires the lock until NOW(6) + 30 s, by the database's clock")
			a.Read()
			if err := takeLease(run.Context(), b, nil, leaseTime); !errors.Is(err, lock.ErrHeld) {
				run.Fail("B: the lock is not held: %v", err)
			}
			b.To(MySQL, testbed.Refuse).Log("... WHERE expires_at < NOW(6) changes no row: must wait, whatever its own clock says")
			a.Sell(1)
			a.Exec("DELETE FROM lease WHERE owner = ?", []byte(a.Name))
			a.To(MySQL, testbed.Lock).Log("releases the lock")
			run.Check(takeLease(run.Context(), b, nil, leaseTime))
			b.To(MySQL, testbed.Lock).Log("acquires the lock")
			b.ReadAndSell()
		}},
	},
}
