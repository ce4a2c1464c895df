package exercise

import (
	"flashsale/loadtest/exercise/shop"
	"flashsale/loadtest/lesson/testbed"
)

var lostAnswer = Exercise{
	Name: "lost-answer", Title: "the answer is lost, and the buyer asks again",
	Servers: []string{testbed.MySQL},
	rounds: func(c *check) {
		order := shop.Order{Customer: "ann", Key: "cart 1"}
		c.once("ann places two orders with two keys, bob one with a key that ann has used", "A key belongs to one customer. Which columns make an order unique?", 3, func(r *round) {
			a := r.buyer("A")
			a.buy(order)
			a.buy(shop.Order{Customer: "ann", Key: "cart 2"})
			a.buy(shop.Order{Customer: "bob", Key: order.Key})
		})
		for _, units := range []int64{2, 1} {
			left := "two units are left"
			if units == 1 {
				left = "one unit is left"
			}
			c.everyStep(left+": replica A is killed before one of its steps or its answer, and ann asks again at B",
				"Ann cannot know whether her order was made, so she sends the same key. How can B know, and when must it look: before or after it finds that nothing is left?",
				units, func(r *round, n int) bool {
					a, b := r.buyer("A"), r.buyer("B")
					a.startOrder(shop.Command{Op: shop.Buy, Order: order}, n)
					reached := a.settle()
					a.kill()
					b.buy(order)
					if !r.sold[order] {
						r.fail("ann is refused, although a unit is left or is hers already")
					}
					for range units - 1 {
						b.buy(shop.Order{Customer: "bob", Key: "1"})
					}
					b.buy(shop.Order{Customer: "cid", Key: "1"})
					return reached
				})
			c.everyStep(left+": ann's browser sends the order twice at the same time",
				"Both copies may look for the key before either has written it. Which part of the database sees both, and what should the second one answer?",
				units, func(r *round, n int) bool {
					a, b := r.buyer("A"), r.buyer("B")
					a.startOrder(shop.Command{Op: shop.Buy, Order: order}, n)
					reached := a.settle()
					b.startOrder(shop.Command{Op: shop.Buy, Order: order}, 0)
					b.settle()
					r.finish(a, b)
					if !a.result.OK || !b.result.OK {
						r.fail("one copy got the unit, and the other was told that it is sold out")
					}
					return reached
				})
		}
	},
}
