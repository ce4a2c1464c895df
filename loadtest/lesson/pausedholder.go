package lesson

import (
	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
)

var pausedHolder = Lesson{
	Name:    "paused-holder",
	Title:   "a holder that is paused for longer than its lease",
	Chinese: "持有者停顿超过租约：防护令牌，以及为什么只在写入时比较还不够",
	Shows:   "A replica is paused (SIGSTOP) between read and write. Its lease ends, another replica acquires the lock, and the first one resumes.",
	Servers: []string{MySQL, Etcd},
	Variants: []Variant{
		{Title: "no fence", Breaks: true, Script: func(run *testbed.Run) {
			a, b := pauseUntilRead(run, strategy.Etcd, strategy.FenceOff)
			b.Sell()
			a.Resume()
			a.Sell()
		}},
		{Title: "the token is compared on write", Breaks: true, Script: func(run *testbed.Run) {
			resumeBeforeWrite(run, strategy.Etcd, strategy.FenceWrite)
		}},
		{Title: "the token is registered before the read", Script: func(run *testbed.Run) {
			resumeBeforeWrite(run, strategy.Etcd, strategy.FenceClaim)
		}},
	},
}

// pauseUntilRead pauses A between read and write, until B holds the lock and has read.
func pauseUntilRead(run *testbed.Run, kind strategy.Lock, fence strategy.Fence) (a, b *testbed.Replica) {
	a, b = run.Shop(1).Replicas(kind)
	a.Lock()
	a.Begin(fence)
	a.CheckLease()
	a.Pause()
	_, granted := b.StartLock()
	granted() // once A's lease has ended
	b.Begin(fence)
	return a, b
}

// resumeBeforeWrite lets A write between B's read and B's write, which a fence
// that is only compared on write does not detect.
func resumeBeforeWrite(run *testbed.Run, kind strategy.Lock, fence strategy.Fence) {
	a, b := pauseUntilRead(run, kind, fence)
	a.Resume()
	a.Sell()
	b.Sell()
}
