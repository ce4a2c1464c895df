package lesson

import (
	"context"
	"fmt"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/lesson/testbed"
)

var redlockNodeRestartedEmpty = Lesson{
	Name:    "redlock-node-restarted-empty",
	Title:   "a majority that forgets",
	Chinese: "Redlock：节点重启后丢失数据，多数派忘记了锁",
	Shows:   "Redlock needs a majority of 5 nodes. One of A's three nodes restarts without its data, so that B finds three free nodes.",
	Servers: []string{MySQL, Redis},
	Variants: []Variant{
		{Title: "nodes without persistence", Breaks: true, Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			nodes := newRedlock(run, sandbox.RedisConfig{})
			nodes.grantThreeAndRestartOne(a)
			b.To(Redis, testbed.Lock).Do("Redlock: nodes 3, 4 and 5 of 5 grant the lock", nodes.mutex().TryLockContext)
			b.Read()
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "nodes that sync each write to disk before they answer (appendfsync always)", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			nodes := newRedlock(run, sandbox.RedisConfig{AppendAlways: true})
			held := nodes.grantThreeAndRestartOne(a)
			mutex := nodes.mutex()
			if err := mutex.TryLockContext(run.Context()); err == nil {
				run.Fail("B acquired the lock too")
			}
			b.To(Redis, testbed.Refuse).Log("Redlock: nodes 1, 2 and 3 of 5 refuse: must wait")
			a.Sell(1)
			a.To(Redis, testbed.Lock).Do("releases the lock", func(ctx context.Context) error {
				_, err := held.UnlockContext(ctx)
				return err
			})
			b.To(Redis, testbed.Lock).Do("Redlock: acquires the lock", mutex.TryLockContext)
			b.ReadAndSell()
		}},
	},
}

type redlock struct {
	run   *testbed.Run
	nodes []*sandbox.Redis
	pools []redis.Pool
}

func newRedlock(run *testbed.Run, cfg sandbox.RedisConfig) *redlock {
	const nodes = 5
	r := &redlock{run: run}
	for range nodes {
		node := run.OwnRedis(cfg)
		r.nodes = append(r.nodes, node)
		r.pools = append(r.pools, goredis.NewPool(run.ClientOf(node)))
	}
	return r
}

func (r *redlock) mutex() *redsync.Mutex {
	return redsync.New(r.pools...).NewMutex(r.run.Name, redsync.WithExpiry(redisTTL), redsync.WithTries(1))
}

// grantThreeAndRestartOne grants the lock to A while nodes 4 and 5 are down. Then
// these start again, and node 3 crashes and restarts.
func (r *redlock) grantThreeAndRestartOne(a *testbed.Buyer) *redsync.Mutex {
	operator := r.run.Actor("operator")
	down := r.nodes[3:]
	operator.To("", testbed.Fault).Log("(nodes 4 and 5 are down)")
	for _, node := range down {
		node.Kill()
	}
	mutex := r.mutex()
	a.To(Redis, testbed.Lock).Do("Redlock: nodes 1, 2 and 3 of 5 grant the lock", mutex.TryLockContext)
	a.Read()
	restart := func(nodes ...*sandbox.Redis) func(context.Context) error {
		return func(ctx context.Context) error {
			for _, node := range nodes {
				node.Kill()
				if err := node.Restart(ctx); err != nil {
					return fmt.Errorf("restart a node: %w", err)
				}
			}
			return nil
		}
	}
	operator.To("", testbed.Fault).Do("(nodes 4 and 5 are back)", restart(down...))
	operator.To("", testbed.Fault).Do("(node 3 crashes and restarts)", restart(r.nodes[2]))
	return mutex
}
