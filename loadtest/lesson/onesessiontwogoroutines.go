package lesson

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"flashsale/internal/lock/etcdlock"
	"flashsale/loadtest/lesson/testbed"
)

var oneSessionTwoGoroutines = Lesson{
	Name:    "one-session-two-goroutines",
	Title:   "etcd's mutex belongs to a session",
	Chinese: "etcd 的互斥锁属于会话：两个 goroutine 同时持有",
	Shows:   "concurrency.Mutex derives its key from the session's lease. Two goroutines with one session create the same key, and both hold the lock.",
	Servers: []string{MySQL, Etcd},
	Variants: []Variant{
		{Title: "one session for the process", Breaks: true, Script: func(run *testbed.Run) {
			shop, client := run.Shop(1), run.EtcdClient()
			a, b := shop.Buyers()
			session := newSession(run, client)
			a.To(Etcd, testbed.Lock).Do("mutex.Lock: acquires the lock", concurrency.NewMutex(session, run.Name).Lock)
			a.Read()
			b.To(Etcd, testbed.Lock).Do("mutex.Lock with the same session: acquires the lock", concurrency.NewMutex(session, run.Name).Lock)
			b.Read()
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "a session for each goroutine", Script: func(run *testbed.Run) {
			shop, client := run.Shop(1), run.EtcdClient()
			a, b := shop.Buyers()
			mutex := concurrency.NewMutex(newSession(run, client), run.Name)
			a.To(Etcd, testbed.Lock).Do("mutex.Lock: acquires the lock", mutex.Lock)
			a.Read()
			waiting := b.To(Etcd, testbed.Lock).Start("mutex.Lock with another session: waits", concurrency.NewMutex(newSession(run, client), run.Name).Lock)
			run.Until("B is in the queue", func(ctx context.Context) (bool, error) {
				answer, err := client.Get(ctx, run.Name+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
				return err == nil && answer.Count == 2, err
			})
			waiting.MustBlock()
			a.Sell(1)
			a.To(Etcd, testbed.Lock).Do("releases the lock", mutex.Unlock)
			waiting.Finish()
			b.To(Etcd, testbed.Lock).Log("acquires the lock")
			b.ReadAndSell()
		}},
		{Title: "one lease for the process, but a key for each grant", Script: func(run *testbed.Run) {
			shop, client := run.Shop(1), run.EtcdClient()
			a, b := shop.Buyers()
			locker, err := etcdlock.New(etcdlock.Config{Client: client, Prefix: run.Name, TTL: leaseTime})
			run.Check(err)
			mutex := newMutexOn(run, Etcd, locker)
			held := mutex.lock(a)
			a.Read()
			waiting := mutex.startLock(b, held)
			a.Sell(1)
			held.unlock()
			heldByB := waiting()
			b.ReadAndSell()
			heldByB.unlock()
		}},
	},
}

// newSession starts a session that ends with the run.
func newSession(run *testbed.Run, client *clientv3.Client) *concurrency.Session {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(int(leaseTime.Seconds())))
	run.Check(err)
	run.Cleanup(session.Close)
	return session
}
