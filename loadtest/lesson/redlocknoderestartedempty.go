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
	Shows:   "Redlock grants by a majority of 5 nodes. One of A's three restarts without its data, and B finds three nodes that know nothing.",
	Servers: []Server{MySQL, Redis},
	Acts: []Act{
		{Title: "nodes that keep nothing", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			nodes := newRedlock(p, sandbox.RedisConfig{})
			nodes.grantThreeAndRestartOne(a)
			b.Does("Redlock: nodes 3, 4 and 5 of 5 grant it: has the lock", nodes.mutex().TryLockContext)
			b.Read()
			a.Sell(1)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "nodes that sync each write to disk before they answer (appendfsync always)", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			nodes := newRedlock(p, sandbox.RedisConfig{AppendAlways: true})
			held := nodes.grantThreeAndRestartOne(a)
			mutex := nodes.mutex()
			if err := mutex.TryLockContext(p.Context()); err == nil {
				p.Fail("B has the lock, too")
			}
			b.Says("Redlock: nodes 1, 2 and 3 of 5 refuse: has to wait")
			a.Sell(1)
			a.Does("unlocks", func(ctx context.Context) error {
				_, err := held.UnlockContext(ctx)
				return err
			})
			b.Does("Redlock: has the lock", mutex.TryLockContext)
			b.Read()
			b.Sell(1)
			return shop.Audit()
		}},
	},
}

// redlock is five nodes.
type redlock struct {
	play  *testbed.Play
	nodes []*sandbox.Redis
	pools []redis.Pool
}

func newRedlock(p *testbed.Play, cfg sandbox.RedisConfig) *redlock {
	const nodes = 5
	r := &redlock{play: p}
	for range nodes {
		node := p.OwnRedis(cfg)
		r.nodes = append(r.nodes, node)
		r.pools = append(r.pools, goredis.NewPool(p.ClientOf(node)))
	}
	return r
}

func (r *redlock) mutex() *redsync.Mutex {
	return redsync.New(r.pools...).NewMutex(r.play.Name, redsync.WithExpiry(redisTTL), redsync.WithTries(1))
}

// grantThreeAndRestartOne has nodes 4 and 5 down when A asks, and node 3 crash
// after it has granted.
func (r *redlock) grantThreeAndRestartOne(a *testbed.Buyer) *redsync.Mutex {
	operator := r.play.Actor("operator")
	down := r.nodes[3:]
	operator.Says("(nodes 4 and 5 are down)")
	for _, node := range down {
		node.Kill()
	}
	mutex := r.mutex()
	a.Does("Redlock: nodes 1, 2 and 3 of 5 grant it: has the lock", mutex.TryLockContext)
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
	operator.Does("(nodes 4 and 5 are back)", restart(down...))
	operator.Does("(node 3 crashes, and starts again)", restart(r.nodes[2]))
	return mutex
}
