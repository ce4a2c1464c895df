package exercise

import (
	"flashsale/loadtest/exercise/shop"
	"flashsale/loadtest/lesson/testbed"
)

var unlockOnlyYourOwn = Exercise{
	Name: "unlock-only-your-own", Title: "an unlock that deletes another's lock",
	Servers: []string{testbed.MySQL, testbed.Etcd},
	rounds: func(c *check) {
		c.once("A locks, B is refused, A unlocks, B locks", "What does the key in etcd say while A has the lock, and after it has unlocked?", 1, func(r *round) {
			a, b := r.buyer("A"), r.buyer("B")
			a.tryLock(true)
			b.tryLock(false)
			a.unlock()
			b.tryLock(true)
			b.unlock()
			r.noKeys()
		})
		c.lateUnlock(shop.TryLockOp)
	},
}

// lateUnlock ends A's lease before each step of its unlock, and lets B lock and C try.
func (c *check) lateUnlock(lock string) {
	c.everyStep("A is stopped before one of the steps of its unlock, its lease ends, B locks, A goes on",
		"Whose key did A delete? How could etcd itself compare and delete in one step, so that nothing can happen in between?",
		1, func(r *round, n int) bool {
			a, b, other := r.buyer("A"), r.buyer("B"), r.buyer("C")
			a.tryLock(true)
			a.start(shop.Unlock, n)
			if !a.settle() {
				return false
			}
			r.endLease(a)
			b.start(lock, 0)
			if e := b.end(); e.Err != "" || lock == shop.TryLockOp && !e.OK {
				r.fail("B did not get the lock, although A's lease has ended")
			}
			r.seller(b).Read()
			a.end() // with an error or without
			e := other.do(shop.TryLockOp)
			if e.Err == "" && e.OK { // two holders
				r.seller(other).Read()
				r.sell(b)
				r.sell(other)
				return true
			}
			r.sell(b)
			b.unlock()
			other.tryLock(true)
			other.unlock()
			return true
		})
}
