package lesson

import (
	"context"
	"errors"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/loadtest/lesson/testbed"
)

var memcachedGetThenDelete = Lesson{
	Name:    "memcached-get-then-delete",
	Title:   "compare and delete are two steps",
	Chinese: "先比较后删除是两步：误删他人的锁",
	Shows:   "A checks that it still owns the lock, and deletes it. Between the two steps the lock expires and B acquires it.",
	Servers: []string{MySQL, Memcached},
	Variants: []Variant{
		{Title: "get, compare, delete", Breaks: true, Script: func(run *testbed.Run) {
			shop, client := run.Shop(2), run.OwnMemcached()
			a, b := shop.Buyers()
			c := shop.Buyer("C")
			sellUntilExpiry(run, client, a, b)
			a.To(Memcached, testbed.Lock).Do("releases the lock: delete", func(context.Context) error { return client.Delete(lockKey) })
			mustAdd(run, client, c, "add: acquires the lock", longExpiry)
			c.Read()
			b.Sell(1)
			c.Sell(1)
		}},
		{Title: "get, compare, cas", Script: func(run *testbed.Run) {
			shop, client := run.Shop(2), run.OwnMemcached()
			a, b := shop.Buyers()
			c := shop.Buyer("C")
			seen := sellUntilExpiry(run, client, a, b)
			if err := expire(client, seen); !errors.Is(err, memcache.ErrCASConflict) {
				run.Fail("A's cas was not refused: %v", err)
			}
			a.To(Memcached, testbed.Refuse).Log("releases the lock: cas: the item has changed, nothing removed")
			mustNotAdd(run, client, c)
			b.Sell(1)
			release(run, client, b)
			mustAdd(run, client, c, "add: acquires the lock", longExpiry)
			c.ReadAndSell()
		}},
	},
}

const lockKey = "lock:" + testbed.SKU

// Expiry times in seconds. The server's clock ticks once a second.
const (
	shortExpiry = 3
	longExpiry  = 60
)

// sellUntilExpiry has A sell a unit and read its lock, seen, which then expires. B
// acquires it and reads the stock.
func sellUntilExpiry(run *testbed.Run, client *memcache.Client, a, b *testbed.Buyer) *memcache.Item {
	mustAdd(run, client, a, "add, for 3 s: acquires the lock", shortExpiry)
	a.ReadAndSell()
	seen, err := client.Get(lockKey)
	run.Check(err)
	if string(seen.Value) != a.Name {
		run.Fail("the lock is %q's", seen.Value)
	}
	a.To(Memcached, testbed.Lock).Log("get: it owns the lock")
	run.Until("A's lock has expired", func(context.Context) (bool, error) { return add(run, client, b, longExpiry), nil })
	b.To(Memcached, testbed.Lock).Log("add: acquires the lock, since A's has expired")
	b.Read()
	return seen
}

// add creates the lock's item unless it exists.
func add(run *testbed.Run, client *memcache.Client, b *testbed.Buyer, seconds int32) bool {
	err := client.Add(&memcache.Item{Key: lockKey, Value: []byte(b.Name), Expiration: seconds})
	if errors.Is(err, memcache.ErrNotStored) {
		return false
	}
	run.Check(err)
	return true
}

// mustAdd acquires the lock, which must be free.
func mustAdd(run *testbed.Run, client *memcache.Client, b *testbed.Buyer, what string, seconds int32) {
	if !add(run, client, b, seconds) {
		run.Fail("%s: the lock is held", b.Name)
	}
	b.To(Memcached, testbed.Lock).Log("%s", what)
}

// mustNotAdd requests the lock, which must be held.
func mustNotAdd(run *testbed.Run, client *memcache.Client, b *testbed.Buyer) {
	if add(run, client, b, longExpiry) {
		run.Fail("%s: the lock is free", b.Name)
	}
	b.To(Memcached, testbed.Refuse).Log("add: not stored, must wait")
}

// release releases the lock of a buyer that owns it.
func release(run *testbed.Run, client *memcache.Client, b *testbed.Buyer) {
	own, err := client.Get(lockKey)
	run.Check(err)
	b.To(Memcached, testbed.Lock).Do("releases the lock: get, compare, cas", func(context.Context) error { return expire(client, own) })
}

// expire replaces the item that was read, and no later one, by one that has expired.
func expire(client *memcache.Client, seen *memcache.Item) error {
	seen.Value, seen.Expiration = nil, -1
	return client.CompareAndSwap(seen)
}
