package memcachedlock

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	testTTL    = 2 * time.Second
	testPrefix = "flashsale/test/lock/"
	testOwner  = "r@h:1"
)

var backend = locktest.Backend{
	Name: "memcached", Capabilities: Capabilities, TTL: testTTL,
	Start:   func(tb testing.TB) locktest.Server { return start(tb, sandbox.MemcachedConfig{}) },
	LongTTL: time.Minute,
	Open: func(address string, ttl time.Duration) (lock.Locker, func() error, error) {
		cfg := testConfig(address)
		cfg.TTL = ttl
		l, err := New(cfg)
		return l, func() error { return nil }, err
	},
}

func TestMain(m *testing.M) { locktest.Main(m, backend) }

func TestLocker(t *testing.T) { locktest.Run(t, backend) }

func testConfig(address string) Config {
	return Config{Address: address, Prefix: testPrefix, TTL: testTTL, Owner: testOwner}
}

// server is a memcached server with an administrator's client.
type server struct {
	*sandbox.Memcached
	sandboxtest.Processes
	client *memcache.Client
	store  *store // for its keys
}

func start(tb testing.TB, cfg sandbox.MemcachedConfig) *server {
	tb.Helper()
	m, err := sandbox.StartMemcached(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	client := memcache.New(m.Addr)
	client.Timeout = patience
	tb.Cleanup(func() {
		_ = client.Close()
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &server{Memcached: m, Processes: sandboxtest.Processes{m.Process}, client: client, store: &store{prefix: testPrefix}}
}

func (s *server) Address() string { return s.Addr }

func (s *server) Entries(tb testing.TB, name string) []string {
	tb.Helper()
	item, err := s.client.Get(s.store.key(name))
	if errors.Is(err, memcache.ErrCacheMiss) {
		return nil
	}
	if err != nil {
		tb.Fatal(err)
	}
	return []string{string(item.Value)}
}

func (s *server) Remove(tb testing.TB, entry string) {
	tb.Helper()
	name, _, _ := strings.Cut(entry, "\x00")
	if err := s.client.Delete(s.store.key(name)); err != nil {
		tb.Fatal(err)
	}
}

// Revoke expires the item.
func (s *server) Revoke(tb testing.TB, entry string) {
	tb.Helper()
	name, _, _ := strings.Cut(entry, "\x00")
	if err := s.client.Touch(s.store.key(name), expired); err != nil {
		tb.Fatal(err)
	}
}
