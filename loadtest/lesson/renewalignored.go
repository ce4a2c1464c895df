package lesson

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/loadtest/lesson/testbed"
)

var renewalIgnored = Lesson{
	Name:    "renewal-ignored",
	Title:   "a loop that asks the channel, and not its answer",
	Shows:   "KeepAlive's channel is closed when the lease is lost. A popular example tests whether the channel is nil, which it never is.",
	Servers: []Server{MySQL, Etcd},
	Acts: []Act{
		{Title: "if answers == nil", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			return playRenewal(p, (*renewal).followChannel)
		}},
		{Title: "if answer == nil", Play: func(p *testbed.Play) testbed.Audit {
			return playRenewal(p, (*renewal).followAnswer)
		}},
	},
}

// renewal is a lock's loop, and what it believes.
type renewal struct {
	answers  <-chan *clientv3.LeaseKeepAliveResponse
	renewals atomic.Int64
	lost     chan struct{}
}

// followChannel is the loop as the example has it. Receiving from a closed
// channel succeeds at once, for ever: the loop counts on as fast as it can.
func (r *renewal) followChannel(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.answers:
			if r.answers == nil {
				close(r.lost)
				return
			}
			r.renewals.Add(1)
		}
	}
}

// followAnswer looks at what it has received.
func (r *renewal) followAnswer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-r.answers:
			if answer == nil {
				close(r.lost)
				return
			}
			r.renewals.Add(1)
		}
	}
}

// manyRenewals is more than a lease of some seconds sees in this play.
const manyRenewals = 1000

// playRenewal has A lose its lease while it holds an order in its hands.
func playRenewal(p *testbed.Play, follow func(*renewal, context.Context)) testbed.Audit {
	shop := p.Shop(1)
	a, b, operator := shop.Buyer("A"), shop.Buyer("B"), p.Actor("operator")
	client, other := p.EtcdClient(), p.EtcdClient()
	key := p.Name + "/" + testbed.SKU

	lease, err := client.Grant(p.Context(), 5)
	p.Check(err)
	putIfAbsent(p, client, key, lease.ID)
	a.Says("has the lock, by a lease of 5 s that it renews")
	r := &renewal{lost: make(chan struct{})}
	renewing, stop := context.WithCancel(p.Context())
	r.answers, err = client.KeepAlive(renewing, lease.ID)
	p.Check(err)
	ended := make(chan struct{})
	go func() { defer close(ended); follow(r, renewing) }()
	p.Cleanup(func() error { stop(); <-ended; return nil })
	a.Read()

	_, err = other.Revoke(p.Context(), lease.ID)
	p.Check(err)
	operator.Says("revokes A's lease")
	bLease, err := other.Grant(p.Context(), 30)
	p.Check(err)
	putIfAbsent(p, other, key, bLease.ID)
	b.Says("has the lock")
	b.Read()
	b.Sell(1)

	// The loop has got what the library had to say.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for r.renewals.Load() < manyRenewals {
		select {
		case <-r.lost:
			a.Says("its loop says: the lease is lost. Refuses the order")
			shop.Refuse(a.Name, 1, "lock lost")
			return shop.Audit()
		case <-tick.C:
		case <-p.Context().Done():
			p.Check(p.Context().Err())
		}
	}
	a.Says("its loop says: the lease was renewed over %d times", manyRenewals)
	a.Sell(1)
	return shop.Audit()
}

// putIfAbsent makes the key, which nobody else has, under a lease.
func putIfAbsent(p *testbed.Play, client *clientv3.Client, key string, lease clientv3.LeaseID) {
	answer, err := client.Txn(p.Context()).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, "", clientv3.WithLease(lease))).Commit()
	p.Check(err)
	if !answer.Succeeded {
		p.Fail("%s is held by another", key)
	}
}
