package exercise

import (
	"fmt"

	"flashsale/loadtest/exercise/shop"
	"flashsale/loadtest/lesson/testbed"
)

var writeALock = Exercise{
	Name: "write-a-lock", Title: "a lock of your own that survives a pause",
	Servers: []string{testbed.MySQL, testbed.Etcd},
	rounds: func(c *check) {
		c.once("A and B take the lock in turn", "A waiter must be granted the lock after Unlock, and each grant needs a larger token. Which number of etcd only grows?", 1, func(r *round) {
			a, b := r.buyer("A"), r.buyer("B")
			first := a.lock().Token
			b.tryLock(false)
			b.start(shop.Lock, 0)
			if !b.waitsForLock() {
				r.fail("B's Lock returned while A holds the lock")
			}
			a.unlock()
			second := b.end().Token
			b.unlock()
			third := a.lock().Token
			a.unlock()
			if first == 0 || second <= first || third <= second {
				r.fail(fmt.Sprintf("the tokens of three grants are %d, %d and %d: each must be larger than the one before", first, second, third))
			}
			r.noKeys()
		})
		c.everyStep("A is stopped before one of the steps of its Lock, and B locks meanwhile",
			"A decided on what etcd said before. Which request of etcd compares and writes in one step?",
			1, func(r *round, n int) bool {
				a, b := r.buyer("A"), r.buyer("B")
				a.start(shop.Lock, n)
				reached := a.settle()
				b.start(shop.Lock, 0)
				if b.waitsForLock() { // A was first
					a.end()
					a.unlock()
					b.end()
					b.unlock()
					return reached
				}
				r.seller(b).Read()
				if !a.waitsForLock() && a.result.Err == "" { // two holders
					r.seller(a).Read()
					r.sell(b)
					r.sell(a)
					return reached
				}
				b.unlock()
				a.end()
				a.unlock()
				return reached
			})
		c.lateUnlock(shop.Lock)
		c.unlockFormer(shop.Lock)
		c.once("B's wait is cancelled", "What has B left in etcd when its context ends?", 1, func(r *round) {
			a, b, other := r.buyer("A"), r.buyer("B"), r.buyer("C")
			a.lock()
			b.start(shop.Lock, 0)
			if !b.waitsForLock() {
				r.fail("B's Lock returned while A holds the lock")
			}
			b.Log("its context ends")
			b.send(shop.Command{Op: shop.Cancel})
			if b.end().Err == "" {
				r.fail("B's Lock was cancelled while A holds the lock, and returned no error")
			}
			a.unlock()
			other.lock()
			other.unlock()
			r.noKeys()
		})
		c.once("A holds the lock for longer than its lease, and is then paused until B has it",
			"Who renews the lease while A works, and what does A do when that fails? Lost must be closed, and Unlock must return lock.ErrLost.", 1, paused)
	},
}

// paused pauses the holder until its lease has ended, and lets it write afterwards. Both have
// claimed the stock with the tokens of the lock.
func paused(r *round) {
	a, b, other := r.buyer("A"), r.buyer("B"), r.buyer("C")
	tokenA := a.lock().Token
	a.Log("works for %s; the lease has %s", lockTTL+lockTTL/2, lockTTL)
	r.drive(lockTTL+lockTTL/2, func() bool { return false })
	b.tryLock(false)
	r.claim(a, tokenA)
	a.pause()
	tokenB := b.lock().Token
	r.claim(b, tokenB)
	a.resume()
	r.sellWith(a, tokenA)
	r.sellWith(b, tokenB)
	a.start(shop.Lost, 0)
	if !r.drive(patience, func() bool { return a.result != nil }) {
		r.fail("A's lock was lost, but its Lost is not closed")
	}
	if e := a.do(shop.Unlock); e.Reason != "lost" {
		r.fail("A's lock was lost, but its Unlock did not return lock.ErrLost")
	}
	other.tryLock(false)
	b.unlock()
	other.tryLock(true)
	other.unlock()
	r.noKeys()
}

// claim registers a holder's token, and reads the stock.
func (r *round) claim(b *buyer, token uint64) {
	seller := r.seller(b)
	seller.Exec("UPDATE stock SET fence = ?, updated_at = NOW(6) WHERE sku = ? AND fence < ?", token, shop.SKU, token)
	seller.To(testbed.MySQL, testbed.Lock).Log("registers its token %d in MySQL", token)
	seller.Read()
}

// sellWith sells if the token is the one that is registered.
func (r *round) sellWith(b *buyer, token uint64) {
	seller := r.seller(b)
	if seller.Exec("UPDATE stock SET updated_at = NOW(6) WHERE sku = ? AND fence = ?", shop.SKU, token) == 0 {
		seller.To(testbed.MySQL, testbed.Refuse).Log("writes with token %d: MySQL refuses, another is registered", token)
		return
	}
	r.sell(b)
}
