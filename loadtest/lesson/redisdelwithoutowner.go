package lesson

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/redislock"
	"flashsale/loadtest/lesson/testbed"
)

var redisDelWithoutOwner = Lesson{
	Name:    "redis-del-without-owner",
	Title:   "DEL removes whatever lock is there",
	Shows:   "A's lock has expired before A gives it back. Its DEL removes B's, and C is let in beside B.",
	Servers: []Server{MySQL, Redis},
	Acts: []Act{
		{Title: "DEL", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(2)
			client := p.RedisClient()
			a, b, c := shop.Buyer("A"), shop.Buyer("B"), shop.Buyer("C")
			sellSlowly(p, client, a, b)
			deleted, err := client.Del(p.Context(), p.Name).Result()
			p.Check(err)
			if deleted != 1 {
				p.Fail("B's lock has gone by itself")
			}
			a.Says("unlocks: DEL: 1 key removed")
			if !setNX(p, client, c, redisTTL) {
				p.Fail("the lock is still held")
			}
			c.Says("SET NX PX 60000: has the lock")
			c.Read()
			b.Sell(1)
			c.Sell(1)
			return shop.Audit()
		}},
		{Title: "a script that deletes its own", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(2)
			client := p.RedisClient()
			a, b, c := shop.Buyer("A"), shop.Buyer("B"), shop.Buyer("C")
			sellSlowly(p, client, a, b)
			deleted, err := deleteOwn.Run(p.Context(), client, []string{p.Name}, a.Name).Int()
			p.Check(err)
			if deleted != 0 {
				p.Fail("the script has deleted another's lock")
			}
			a.Says("unlocks, by the script: not its own any more, nothing removed")
			if setNX(p, client, c, redisTTL) {
				p.Fail("the lock is free")
			}
			c.Says("SET NX PX 60000: refused, has to wait")
			b.Sell(1)
			p.Check(deleteOwn.Run(p.Context(), client, []string{p.Name}, b.Name).Err())
			b.Says("unlocks, by the script: 1 key removed")
			if !setNX(p, client, c, redisTTL) {
				p.Fail("the lock is still held")
			}
			c.Says("SET NX PX 60000: has the lock")
			c.Read()
			c.Sell(1)
			return shop.Audit()
		}},
		{Title: "the service's own lock, whose key somebody removes", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(2)
			a, b, c := shop.Buyer("A"), shop.Buyer("B"), shop.Buyer("C")
			ofA, ofB, ofC := newRedisMutex(p), newRedisMutex(p), newRedisMutex(p)
			held := ofA.lock(a)
			a.Read()
			a.Sell(1)
			p.Actor("operator").Does("removes A's key: as if it had expired", func(ctx context.Context) error {
				return p.RedisClient().Del(ctx, p.Name+"/"+testbed.SKU).Err()
			})
			heldByB := ofB.lock(b)
			b.Read()
			if err := held.Unlock(p.Context()); !errors.Is(err, lock.ErrLost) {
				p.Fail("A's unlock: %v", err)
			}
			a.Says("unlocks: the lock was lost, nothing removed")
			ofC.refuses(c)
			b.Sell(1)
			heldByB.unlock()
			heldByC := ofC.lock(c)
			c.Read()
			c.Sell(1)
			heldByC.unlock()
			return shop.Audit()
		}},
	},
}

// newRedisMutex is the service's lock, as another process would have it.
func newRedisMutex(p *testbed.Play) *mutex {
	client, err := redislock.Open(p.RedisClient().Options().Addr)
	p.Check(err)
	locker, err := redislock.New(redislock.Config{Client: client, Prefix: p.Name + "/", TTL: redisTTL})
	p.Check(err)
	p.Cleanup(client.Close) // after the locker's, which comes last and is called first
	return newMutexOn(p, locker)
}

const (
	// shortTTL runs out while A is busy.
	shortTTL = 300 * time.Millisecond
	// redisTTL does not run out in a play.
	redisTTL = time.Minute
)

// deleteOwn is Redis's own advice: compare and delete as one step.
var deleteOwn = redis.NewScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`)

// sellSlowly has A sell a unit and then be busy until its lock has expired; B has
// the lock then, and has read.
func sellSlowly(p *testbed.Play, client *redis.Client, a, b *testbed.Buyer) {
	if !setNX(p, client, a, shortTTL) {
		p.Fail("the lock is held")
	}
	a.Says("SET NX PX 300: has the lock")
	a.Read()
	a.Sell(1)
	a.Says("is busy with something else for longer than its lock lasts")
	p.Until("A's lock has expired", func(context.Context) (bool, error) { return setNX(p, client, b, redisTTL), nil })
	b.Says("SET NX PX 60000: has the lock")
	b.Read()
}

func setNX(p *testbed.Play, client *redis.Client, b *testbed.Buyer, ttl time.Duration) bool {
	err := client.SetArgs(p.Context(), p.Name, b.Name, redis.SetArgs{Mode: "NX", TTL: ttl}).Err()
	if errors.Is(err, redis.Nil) {
		return false
	}
	p.Check(err)
	return true
}
