package lesson

import (
	"context"
	"fmt"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/loadtest/lesson/testbed"
)

var memcachedEviction = Lesson{
	Name:    "memcached-eviction",
	Title:   "a cache makes room for itself",
	Shows:   "The lock is an item in the shop's cache, with a minute to go. The cache is full, and throws away what was not used for longest.",
	Servers: []Server{MySQL, Memcached},
	Acts: []Act{
		{Title: "the lock in the cache that everybody uses", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			cache := p.OwnMemcached()
			a, b, pages := shop.Buyer("A"), shop.Buyer("B"), p.Actor("web pages")
			takesForAMinute(p, cache.Client(), a)
			a.Read()
			fill(pages, cache.Client())
			if !add(p, cache.Client(), b, longExpiry) {
				p.Fail("the lock was not evicted")
			}
			b.Says("add: has the lock")
			b.Read()
			a.Sell(1)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "a server for locks alone", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			cache, locks := p.OwnMemcached(), p.OwnMemcached()
			a, b, pages := shop.Buyer("A"), shop.Buyer("B"), p.Actor("web pages")
			takesForAMinute(p, locks.Client(), a)
			a.Read()
			fill(pages, cache.Client())
			if add(p, locks.Client(), b, longExpiry) {
				p.Fail("the lock has gone")
			}
			b.Says("add: not stored, has to wait")
			a.Sell(1)
			own, err := locks.Client().Get(lockKey)
			p.Check(err)
			a.Does("unlocks: get, compare, cas", func(context.Context) error { return casAway(locks.Client(), own) })
			if !add(p, locks.Client(), b, longExpiry) {
				p.Fail("the lock is still held")
			}
			b.Says("add: has the lock")
			b.Read()
			b.Sell(1)
			return shop.Audit()
		}},
	},
}

func takesForAMinute(p *testbed.Play, client *memcache.Client, b *testbed.Buyer) {
	if !add(p, client, b, longExpiry) {
		p.Fail("the lock is held")
	}
	b.Says("add, for 60 s: has the lock")
}

// fillItems is more than a small cache has room for, of items as large as a lock.
// Nobody may ask for the lock meanwhile, not even by an add that fails: being
// asked for is what keeps an item in the cache.
const fillItems = 30_000

// fill caches many small things.
func fill(a *testbed.Actor, client *memcache.Client) {
	a.Does(fmt.Sprintf("%d items go into the cache", fillItems), func(ctx context.Context) error {
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
