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
	Title:   "etcd's mutex is held by a session",
	Shows:   "concurrency.Mutex makes a key of its session's lease. Two goroutines of one session make the same key, and both hold it.",
	Servers: []Server{MySQL, Etcd},
	Acts: []Act{
		{Title: "one session for the process", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop, client := p.Shop(1), p.EtcdClient()
			a, b := shop.Buyer("A"), shop.Buyer("B")
			session := newSession(p, client)
			a.Does("mutex.Lock: has the lock", concurrency.NewMutex(session, p.Name).Lock)
			a.Read()
			b.Does("mutex.Lock, of the same session: has the lock", concurrency.NewMutex(session, p.Name).Lock)
			b.Read()
			a.Sell(1)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "a session for each goroutine", Play: func(p *testbed.Play) testbed.Audit {
			shop, client := p.Shop(1), p.EtcdClient()
			a, b := shop.Buyer("A"), shop.Buyer("B")
			mutex := concurrency.NewMutex(newSession(p, client), p.Name)
			a.Does("mutex.Lock: has the lock", mutex.Lock)
			a.Read()
			waiting := b.Begins("mutex.Lock, of another session, and has to wait", concurrency.NewMutex(newSession(p, client), p.Name).Lock)
			p.Until("B stands in the queue", func(ctx context.Context) (bool, error) {
				answer, err := client.Get(ctx, p.Name+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
				return err == nil && answer.Count == 2, err
			})
			waiting.MustWait()
			a.Sell(1)
			a.Does("unlocks", mutex.Unlock)
			waiting.Ends()
			b.Says("has the lock")
			b.Read()
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "one lease for the process, and a key for each grant", Play: func(p *testbed.Play) testbed.Audit {
			shop, client := p.Shop(1), p.EtcdClient()
			a, b := shop.Buyer("A"), shop.Buyer("B")
			locker, err := etcdlock.New(etcdlock.Config{Client: client, Prefix: p.Name, TTL: leaseTime})
			p.Check(err)
			mutex := newMutexOn(p, locker)
			held := mutex.lock(a)
			a.Read()
			waiting := mutex.beginsLock(b, held)
			a.Sell(1)
			held.unlock()
			heldByB := waiting()
			b.Read()
			b.Sell(1)
			heldByB.unlock()
			return shop.Audit()
		}},
	},
}

// newSession begins a session, which ends with the play.
func newSession(p *testbed.Play, client *clientv3.Client) *concurrency.Session {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(int(leaseTime.Seconds())))
	p.Check(err)
	p.Cleanup(session.Close)
	return session
}
