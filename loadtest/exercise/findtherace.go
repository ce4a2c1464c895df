package exercise

import (
	"flashsale/loadtest/exercise/shop"
	"flashsale/loadtest/lesson/testbed"
)

var findTheRace = Exercise{
	Name: "find-the-race", Title: "read, decide, write: two buyers decide on the same read",
	Servers: []string{testbed.MySQL},
	rounds: func(c *check) {
		c.once("three buyers of two units, one after the other", "What does Buy return if no unit is left, and if one is?", 2, func(r *round) {
			for _, name := range []string{"A", "B", "C"} {
				r.buyer(name).buy(shop.Order{Customer: name, Key: "1"})
			}
		})
		c.everyStep("A is stopped before one of its steps, B buys the last unit meanwhile, A goes on",
			"What did A know when it went on, and since when was that no longer true? Which statement could look and write in one step, or keep B out from the look to the write?",
			1, func(r *round, n int) bool {
				a, b := r.buyer("A"), r.buyer("B")
				return r.buyMeanwhile(a, b, n)
			})
	},
}

// buyMeanwhile lets B buy while A is stopped before its nth step.
func (r *round) buyMeanwhile(a, b *buyer, n int) (reached bool) {
	a.start(shop.Buy, n)
	reached = a.settle()
	b.start(shop.Buy, 0)
	b.settle()
	r.finish(a, b)
	return reached
}
