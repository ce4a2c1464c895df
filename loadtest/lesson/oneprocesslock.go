package lesson

import (
	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
)

var oneProcessLock = Lesson{
	Name:    "one-process-lock",
	Title:   "a mutex ends where its process ends",
	Shows:   "Two replicas, each a process, each with a mutex around read and write. Neither mutex knows of the other.",
	Servers: []Server{MySQL, Etcd},
	Acts: []Act{
		{Title: "a mutex in each process", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Replica("A", strategy.Process), shop.Replica("B", strategy.Process)
			a.Lock()
			a.Begin(strategy.FenceOff)
			b.Lock()
			b.Begin(strategy.FenceOff)
			a.Sell(1)
			b.Sell(1)
			a.Unlock()
			b.Unlock()
			return shop.Audit()
		}},
		{Title: "one lock in etcd for both", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Replica("A", strategy.Etcd), shop.Replica("B", strategy.Etcd)
			a.Lock()
			a.Begin(strategy.FenceClaim)
			waiting, granted := b.BeginsLock()
			a.IsWanted()
			waiting.MustWait()
			a.Sell(1)
			a.Unlock()
			granted()
			b.Begin(strategy.FenceClaim)
			b.Sell(1)
			b.Unlock()
			return shop.Audit()
		}},
	},
}
