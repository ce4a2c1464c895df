package lesson

import (
	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
)

var oneProcessLock = Lesson{
	Name:    "one-process-lock",
	Title:   "a mutex protects one process only",
	Chinese: "进程内互斥锁只能保护一个进程，多副本需要分布式锁",
	Shows:   "Two replicas, each a process, each with a mutex around read and write. Neither mutex excludes the other replica.",
	Servers: []string{MySQL, Etcd},
	Variants: []Variant{
		{Title: "a mutex in each process", Breaks: true, Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Replicas(strategy.Process)
			a.Lock()
			a.Begin(strategy.FenceOff)
			b.Lock()
			b.Begin(strategy.FenceOff)
			a.Sell()
			b.Sell()
			a.Unlock()
			b.Unlock()
		}},
		{Title: "one lock in etcd for both", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Replicas(strategy.Etcd)
			a.Lock()
			a.Begin(strategy.FenceClaim)
			waiting, granted := b.StartLock()
			a.AwaitWaiter()
			waiting.MustBlock()
			a.Sell()
			a.Unlock()
			granted()
			b.Begin(strategy.FenceClaim)
			b.Sell()
			b.Unlock()
		}},
	},
}
