package lesson

import (
	"context"
	"fmt"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/loadtest/lesson/testbed"
)

var memcachedEviction = Lesson{
	Name:    "memcached-eviction",
	Title:   "a full cache evicts the lock",
	Chinese: "缓存写满，锁被淘汰",
	Shows:   "The lock is an item in the shop's cache and expires in a minute. The cache is full and evicts the items that were not used for longest.",
	Servers: []string{MySQL, Memcached},
	Variants: []Variant{
		{Title: "the lock in the shared cache", Breaks: true, Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			pages := run.Actor("web pages")
			cache := run.OwnMemcached()
			mustAdd(run, cache, a, "add, for 60 s: acquires the lock", longExpiry)
			a.Read()
			fill(pages, cache)
			mustAdd(run, cache, b, "add: acquires the lock", longExpiry)
			b.Read()
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "a server for locks only", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			pages := run.Actor("web pages")
			cache, locks := run.OwnMemcached(), run.OwnMemcached()
			mustAdd(run, locks, a, "add, for 60 s: acquires the lock", longExpiry)
			a.Read()
			fill(pages, cache)
			mustNotAdd(run, locks, b)
			a.Sell(1)
			release(run, locks, a)
			mustAdd(run, locks, b, "add: acquires the lock", longExpiry)
			b.ReadAndSell()
		}},
	},
}

// fillItems is more items than fit into a small cache, with items as large as a lock.
// No client may request the lock in the meantime: even an add that fails counts as
// a use, and keeps the item in the cache.
const fillItems = 30_000

func fill(a *testbed.Actor, client *memcache.Client) {
	a.To(Memcached, testbed.Write).Do(fmt.Sprintf("store %d items in the cache", fillItems), func(ctx context.Context) error {
		for i := range fillItems {
			if err := client.Set(&memcache.Item{Key: fmt.Sprintf("page:%07d", i), Value: []byte("x")}); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
}
