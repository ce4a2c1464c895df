package exercise

import (
	"fmt"

	"flashsale/loadtest/exercise/shop"
	"flashsale/loadtest/lesson/testbed"
)

var pausedHolder = Exercise{
	Name: "paused-holder", Title: "a lock without a fence: its holder is paused for longer than its lease",
	Servers: []string{testbed.MySQL, testbed.Etcd},
	rounds: func(c *check) {
		const title = "A locks and is paused before one of its steps, its lease ends, B locks and buys, A goes on"
		c.once("A locks and buys, then B", "What should Buy return if no unit is left?", 1, func(r *round) {
			a, b := r.buyer("A"), r.buyer("B")
			a.lock()
			a.buy(shop.Order{Customer: "A", Key: "1"})
			a.unlock()
			b.lock()
			b.buy(shop.Order{Customer: "B", Key: "1"})
			b.unlock()
		})
		places := 0
		// The stories in which B runs to its end come first: they are the simplest.
		for m, more := 0, true; more; m++ {
			more = m == 0
			for n, reached := 1, true; reached; n++ {
				c.round(title, "A cannot know that it was paused: the store must. What has A's lock that grows with each later holder? When must MySQL learn the token of B, so that what B reads stays as it is until B writes?",
					1, func(r *round) {
						var stopped bool
						reached, stopped = r.pause(n, m)
						more = more || stopped
					})
				places++
			}
		}
		c.passed(fmt.Sprintf("%s (orders of the steps: %d)", title, places))
	},
}

// pause pauses A before its nth step, and lets it go on before B's mth step, or after B's end
// for 0. It returns whether A and B were stopped.
func (r *round) pause(n, m int) (reachedA, reachedB bool) {
	a, b := r.buyer("A"), r.buyer("B")
	a.lock()
	a.start(shop.Buy, n)
	if !a.settle() {
		a.bought()
		return false, false
	}
	a.pause()
	r.endLease(a)
	b.lock()
	b.start(shop.Buy, m)
	reachedB = b.settle()
	a.resume()
	r.finish(a, b)
	if len(r.sold) == 0 {
		r.fail("a unit was left, and neither A nor B got it")
	}
	return true, reachedB
}
