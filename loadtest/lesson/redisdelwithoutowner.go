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
	Title:   "DEL removes any owner's lock",
	Chinese: "Redis 分布式锁：DEL 误删他人的锁",
	Shows:   "A's lock expires before A releases it. A's DEL removes B's lock, and C acquires it while B still works.",
	Servers: []string{MySQL, Redis},
	Variants: []Variant{
		{Title: "DEL", Breaks: true, Script: func(run *testbed.Run) {
			client := run.RedisClient()
			a, b, c := sellUntilRedisExpiry(run, client)
			deleted, err := client.Del(run.Context(), run.Name).Result()
			run.Check(err)
			if deleted != 1 {
				run.Fail("B's lock is gone")
			}
			a.To(Redis, testbed.Lock).Log("releases the lock: DEL: 1 key removed")
			mustSetNX(run, client, c, redisTTL)
			c.Read()
			b.Sell(1)
			c.Sell(1)
		}},
		{Title: "a script that deletes only its own key", Script: func(run *testbed.Run) {
			client := run.RedisClient()
			a, b, c := sellUntilRedisExpiry(run, client)
			deleted, err := deleteOwn.Run(run.Context(), client, []string{run.Name}, a.Name).Int()
			run.Check(err)
			if deleted != 0 {
				run.Fail("the script deleted another owner's lock")
			}
			a.To(Redis, testbed.Refuse).Log("releases the lock by the script: not the owner, nothing removed")
			if setNX(run, client, c, redisTTL) {
				run.Fail("C: the lock is free")
			}
			c.To(Redis, testbed.Refuse).Log("SET NX PX 60000: refused, must wait")
			b.Sell(1)
			run.Check(deleteOwn.Run(run.Context(), client, []string{run.Name}, b.Name).Err())
			b.To(Redis, testbed.Lock).Log("releases the lock by the script: 1 key removed")
			mustSetNX(run, client, c, redisTTL)
			c.ReadAndSell()
		}},
		{Title: "the service's own lock, whose key is removed", Script: func(run *testbed.Run) {
			shop := run.Shop(2)
			a, b := shop.Buyers()
			c := shop.Buyer("C")
			mutexA, mutexB, mutexC := newRedisMutex(run), newRedisMutex(run), newRedisMutex(run)
			held := mutexA.lock(a)
			a.ReadAndSell()
			run.Actor("operator").To(Redis, testbed.Fault).Do("removes A's key, as if it had expired", func(ctx context.Context) error {
				return run.RedisClient().Del(ctx, run.Name+"/"+testbed.SKU).Err()
			})
			heldByB := mutexB.lock(b)
			b.Read()
			if err := held.Unlock(run.Context()); !errors.Is(err, lock.ErrLost) {
				run.Fail("A: Unlock did not report the loss: %v", err)
			}
			a.To(Redis, testbed.Refuse).Log("releases the lock: it was lost, nothing removed")
			mutexC.refuse(c)
			b.Sell(1)
			heldByB.unlock()
			mutexC.sell(c)
		}},
	},
}

// newRedisMutex is the service's own lock, one for each process.
func newRedisMutex(run *testbed.Run) *mutex {
	client, err := redislock.Open(run.RedisClient().Options().Addr)
	run.Check(err)
	locker, err := redislock.New(redislock.Config{Clients: []*redis.Client{client}, Prefix: run.Name + "/", TTL: redisTTL})
	run.Check(err)
	run.Cleanup(client.Close) // runs after the locker is closed
	return newMutexOn(run, Redis, locker)
}

const (
	// shortTTL ends while A is busy.
	shortTTL = 300 * time.Millisecond
	// redisTTL does not end during a run.
	redisTTL = time.Minute
)

// deleteOwn compares and deletes in one step, as Redis's documentation advises.
var deleteOwn = redis.NewScript(`if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0`)

// sellUntilRedisExpiry has A sell a unit and then be busy until its lock has
// expired. B acquires it and reads the stock. C is another buyer.
func sellUntilRedisExpiry(run *testbed.Run, client *redis.Client) (a, b, c *testbed.Buyer) {
	shop := run.Shop(2)
	a, b = shop.Buyers()
	c = shop.Buyer("C")
	mustSetNX(run, client, a, shortTTL)
	a.ReadAndSell()
	a.Log("is busy until its lock has expired")
	run.Until("A's lock has expired", func(context.Context) (bool, error) { return setNX(run, client, b, redisTTL), nil })
	b.To(Redis, testbed.Lock).Log("SET NX PX 60000: acquires the lock")
	b.Read()
	return a, b, c
}

// setNX creates the lock's key unless it exists.
func setNX(run *testbed.Run, client *redis.Client, b *testbed.Buyer, ttl time.Duration) bool {
	err := client.SetArgs(run.Context(), run.Name, b.Name, redis.SetArgs{Mode: "NX", TTL: ttl}).Err()
	if errors.Is(err, redis.Nil) {
		return false
	}
	run.Check(err)
	return true
}

// mustSetNX acquires the lock, which must be free.
func mustSetNX(run *testbed.Run, client *redis.Client, b *testbed.Buyer, ttl time.Duration) {
	if !setNX(run, client, b, ttl) {
		run.Fail("%s: the lock is held", b.Name)
	}
	b.To(Redis, testbed.Lock).Log("SET NX PX %d: acquires the lock", ttl.Milliseconds())
}
