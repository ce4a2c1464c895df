package testbed

import (
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/internal/sandbox"
)

// Memcached is a memcached of one play's.
type Memcached struct {
	client *memcache.Client
}

// memcachedMegabytes is the least that the server takes: soon full.
const memcachedMegabytes = 2

// OwnMemcached starts a small memcached for this play alone.
func (p *Play) OwnMemcached() *Memcached {
	server, err := sandbox.StartMemcached(p.ctx, sandbox.MemcachedConfig{Megabytes: memcachedMegabytes})
	p.Check(err)
	p.Cleanup(server.Close)
	client := memcache.New(server.Addr)
	client.Timeout = 5 * time.Second // of one call, on a machine that is busy otherwise
	p.Cleanup(client.Close)
	return &Memcached{client}
}

// Client is connected to it. All buyers may use it: memcached knows no sessions.
func (m *Memcached) Client() *memcache.Client { return m.client }
