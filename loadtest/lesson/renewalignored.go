package lesson

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
	"flashsale/loadtest/lesson/testbed"
)

var renewalIgnored = Lesson{
	Name:    "renewal-ignored",
	Title:   "a loop that checks the channel instead of the answer",
	Chinese: "租约已失效，续租循环却没有检查结果",
	Shows:   "KeepAlive closes its channel when the lease is lost. A popular example checks whether the channel variable is nil, which it never is.",
	Servers: []string{MySQL, Etcd},
	Variants: []Variant{
		{Title: "if answers == nil", Breaks: true, Script: func(run *testbed.Run) {
			loseLease(run, func(r *renewal, _ *clientv3.LeaseKeepAliveResponse) bool { return r.answers == nil })
		}},
		{Title: "if answer == nil", Script: func(run *testbed.Run) {
			loseLease(run, func(_ *renewal, answer *clientv3.LeaseKeepAliveResponse) bool { return answer == nil })
		}},
	},
}

// renewal is a lock's renewal loop with its state.
type renewal struct {
	answers  <-chan *clientv3.LeaseKeepAliveResponse
	renewals atomic.Int64
	lost     chan struct{}
}

// follow counts renewals until isLost returns true. A receive from a closed channel
// succeeds at once: with the wrong test, the loop counts as fast as it can.
func (r *renewal) follow(ctx context.Context, isLost func(*renewal, *clientv3.LeaseKeepAliveResponse) bool) {
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-r.answers:
			if isLost(r, answer) {
				close(r.lost)
				return
			}
			r.renewals.Add(1)
		}
	}
}

// manyRenewals is more than a lease of a few seconds needs in a run.
const manyRenewals = 1000

// loseLease has A lose its lease between its read and its write.
func loseLease(run *testbed.Run, isLost func(*renewal, *clientv3.LeaseKeepAliveResponse) bool) {
	shop := run.Shop(1)
	a, b := shop.Buyers()
	operator := run.Actor("operator")
	client, other := run.EtcdClient(), run.EtcdClient()

	lease := putWithLease(run, client, 5)
	a.To(Etcd, testbed.Lock).Log("acquires the lock with a lease of 5 s, and renews it")
	r := &renewal{lost: make(chan struct{})}
	renewing, stop := context.WithCancel(run.Context())
	var err error
	r.answers, err = client.KeepAlive(renewing, lease)
	run.Check(err)
	ended := make(chan struct{})
	go func() { defer close(ended); r.follow(renewing, isLost) }()
	run.Cleanup(func() error { stop(); <-ended; return nil })
	a.Read()

	_, err = other.Revoke(run.Context(), lease)
	run.Check(err)
	operator.To(Etcd, testbed.Fault).Log("revokes A's lease")
	putWithLease(run, other, 30)
	b.To(Etcd, testbed.Lock).Log("acquires the lock")
	b.ReadAndSell()

	for r.renewals.Load() < manyRenewals {
		select {
		case <-r.lost:
			a.To("", testbed.Refuse).Log("its loop reports that the lease is lost. Refuses the order")
			shop.Refuse(a.Name, 1, "lock lost")
			return
		default:
			run.Check(sleep.For(run.Context(), time.Millisecond))
		}
	}
	a.Log("its loop reports more than %d renewals", manyRenewals)
	a.Sell(1)
}

// putWithLease creates the lock's key, which must be absent, under a new lease.
func putWithLease(run *testbed.Run, client *clientv3.Client, seconds int64) clientv3.LeaseID {
	lease, err := client.Grant(run.Context(), seconds)
	run.Check(err)
	key := run.Name + "/" + testbed.SKU
	answer, err := client.Txn(run.Context()).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, "", clientv3.WithLease(lease.ID))).Commit()
	run.Check(err)
	if !answer.Succeeded {
		run.Fail("%s is held by another", key)
	}
	return lease.ID
}
