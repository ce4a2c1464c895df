package lesson

import (
	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
)

var pausedHolder = Lesson{
	Name:    "paused-holder",
	Title:   "a holder that is paused for longer than its lease",
	Shows:   "A replica is stopped (SIGSTOP) between read and write. Its lease ends, another is granted the lock, and then it goes on.",
	Servers: []Server{MySQL, Etcd},
	Acts: []Act{
		{Title: "no fence", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Replica("A", strategy.Etcd), shop.Replica("B", strategy.Etcd)
			pauseBetween(a, b, strategy.FenceOff)
			b.Sell(1)
			a.Resume()
			a.Sell(1)
			return shop.Audit()
		}},
		{Title: "the token is compared when writing", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			return wakeAfterRead(p, strategy.FenceWrite)
		}},
		{Title: "the token is registered before reading", Play: func(p *testbed.Play) testbed.Audit {
			return wakeAfterRead(p, strategy.FenceClaim)
		}},
	},
}

// pauseBetween pauses A between its read and its write, until B has been granted
// the lock and has read as well.
func pauseBetween(a, b *testbed.Replica, fence strategy.Fence) {
	a.Lock()
	a.Begin(fence)
	a.LooksWhetherAlive()
	a.Pause()
	_, granted := b.BeginsLock()
	granted() // once etcd has ended A's lease
	b.Begin(fence)
}

// wakeAfterRead lets A write between B's read and B's write: what a fence that is
// only compared when writing cannot see.
func wakeAfterRead(p *testbed.Play, fence strategy.Fence) testbed.Audit {
	shop := p.Shop(1)
	a, b := shop.Replica("A", strategy.Etcd), shop.Replica("B", strategy.Etcd)
	pauseBetween(a, b, fence)
	a.Resume()
	a.Sell(1)
	b.Sell(1)
	return shop.Audit()
}
