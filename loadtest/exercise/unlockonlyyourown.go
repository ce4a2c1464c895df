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
		c.unlockFormer(shop.TryLockOp)
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
			r.stillHolds(b, other)
			return true
		})
}

// unlockFormer ends A's lease, lets A lock again and then unlock what it held before, and lets
// B try. Here, unlike in lateUnlock, the key has the owner that A's unlock expects.
func (c *check) unlockFormer(lock string) {
	c.once("A's lease ends, A locks again, and then unlocks its former grant",
		"Both grants are A's, so the owner does not tell them apart. What does the key of each grant have that no other key has?",
		1, func(r *round) {
			a, b := r.buyer("A"), r.buyer("B")
			a.tryLock(true)
			r.endLease(a)
			if e := a.do(lock); e.Err != "" || lock == shop.TryLockOp && !e.OK {
				r.fail("A did not get the lock again, although its lease has ended")
			}
			r.seller(a).Read()
			a.do(shop.UnlockFormer) // with an error or without
			r.stillHolds(a, b)
		})
}

// stillHolds checks that the holder, which has read the stock, has kept the lock while another
// grant was unlocked. If other gets the lock, both sell.
func (r *round) stillHolds(holder, other *buyer) {
	e := other.do(shop.TryLockOp)
	if e.Err == "" && e.OK { // two holders
		r.seller(other).Read()
		r.sell(holder)
		r.sell(other)
		return
	}
	r.sell(holder)
	holder.unlock()
	other.tryLock(true)
	other.unlock()
}
