package lesson

import (
	"context"
	"errors"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/loadtest/lesson/testbed"
)

var memcachedGetThenDelete = Lesson{
	Name:    "memcached-get-then-delete",
	Title:   "a comparison and a deletion are two steps",
	Shows:   "A looks whether the lock is still its own, which it is, and deletes it. In between it has expired, and B has it.",
	Servers: []Server{MySQL, Memcached},
	Acts: []Act{
		{Title: "get, compare, delete", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(2)
			client := p.OwnMemcached().Client()
			a, b, c := shop.Buyer("A"), shop.Buyer("B"), shop.Buyer("C")
			sellUntilExpiry(p, client, a, b)
			a.Does("unlocks: delete", func(context.Context) error { return client.Delete(lockKey) })
			if !add(p, client, c, longExpiry) {
				p.Fail("the lock is still held")
			}
			c.Says("add: has the lock")
			c.Read()
			b.Sell(1)
			c.Sell(1)
			return shop.Audit()
		}},
		{Title: "get, compare, cas", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(2)
			client := p.OwnMemcached().Client()
			a, b, c := shop.Buyer("A"), shop.Buyer("B"), shop.Buyer("C")
			seen := sellUntilExpiry(p, client, a, b)
			if err := casAway(client, seen); !errors.Is(err, memcache.ErrCASConflict) {
				p.Fail("A's cas has gone through: %v", err)
			}
			a.Says("unlocks: cas: it is another item now, nothing removed")
			if add(p, client, c, longExpiry) {
				p.Fail("the lock is free")
			}
			c.Says("add: not stored, has to wait")
			b.Sell(1)
			own, err := client.Get(lockKey)
			p.Check(err)
			b.Does("unlocks: get, compare, cas", func(context.Context) error { return casAway(client, own) })
			if !add(p, client, c, longExpiry) {
				p.Fail("the lock is still held")
			}
			c.Says("add: has the lock")
			c.Read()
			c.Sell(1)
			return shop.Audit()
		}},
	},
}

const lockKey = "lock:" + testbed.SKU

// Expiry is in seconds, by a clock of the server's that ticks once a second.
const (
	shortExpiry = 3
	longExpiry  = 60
)

// sellUntilExpiry has A sell a unit and look at its lock, which then expires: B
// has it, and has read. It returns what A has seen.
func sellUntilExpiry(p *testbed.Play, client *memcache.Client, a, b *testbed.Buyer) *memcache.Item {
	if !add(p, client, a, shortExpiry) {
		p.Fail("the lock is held")
	}
	a.Says("add, for 3 s: has the lock")
	a.Read()
	a.Sell(1)
	seen, err := client.Get(lockKey)
	p.Check(err)
	if string(seen.Value) != a.Name {
		p.Fail("the lock is %q's", seen.Value)
	}
	a.Says("get: the lock is its own")
	p.Until("A's lock has expired", func(context.Context) (bool, error) { return add(p, client, b, longExpiry), nil })
	b.Says("add: has the lock, since A's has expired")
	b.Read()
	return seen
}

// add makes the lock's item, if there is none.
func add(p *testbed.Play, client *memcache.Client, b *testbed.Buyer, seconds int32) bool {
	err := client.Add(&memcache.Item{Key: lockKey, Value: []byte(b.Name), Expiration: seconds})
	if errors.Is(err, memcache.ErrNotStored) {
		return false
	}
	p.Check(err)
	return true
}

// casAway replaces the item that was seen, and no other, by one that has expired.
func casAway(client *memcache.Client, seen *memcache.Item) error {
	seen.Value, seen.Expiration = nil, -1
	return client.CompareAndSwap(seen)
}
