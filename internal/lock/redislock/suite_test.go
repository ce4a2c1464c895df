package redislock

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	testTTL    = 2 * time.Second
	testPrefix = "flashsale/test[*]/lock/" // tests that it is not used as a pattern
	testOwner  = "r@h:1"
	// longTTL is for tests that must not depend on the end of a lease.
	longTTL = time.Minute
)

var backend = locktest.Backend{
	Name: "redis", Capabilities: Capabilities, TTL: testTTL,
	LongTTL: longTTL, Open: open,
	Start: func(tb testing.TB) locktest.Server { return start(tb, 1) },
}

func open(address string, ttl time.Duration) (lock.Locker, func() error, error) {
	client, err := Open(address)
	if err != nil {
		return nil, nil, err
	}
	locker, err := New(Config{Clients: []*redis.Client{client}, Prefix: testPrefix, TTL: ttl, Owner: testOwner})
	return locker, client.Close, err
}

var redlock = locktest.Backend{
	// A node must answer within a twentieth of the TTL, also on a busy machine.
	Name: "redlock", Capabilities: RedlockCapabilities, TTL: 3 * testTTL,
	LongTTL: longTTL, Open: openRedlock,
	Start: func(tb testing.TB) locktest.Server { return start(tb, 5) },
}

func openRedlock(addresses string, ttl time.Duration) (lock.Locker, func() error, error) {
	clients, err := openAll(strings.Split(addresses, ","))
	if err != nil {
		return nil, nil, err
	}
	locker, err := NewRedlock(Config{Clients: clients, Prefix: testPrefix, TTL: ttl, Owner: testOwner})
	return locker, func() error { return closeAll(clients) }, err
}

func TestMain(m *testing.M) {
	logging.Disable() // the client logs each dead server
	locktest.Main(m, backend, redlock)
}

func TestLocker(t *testing.T) { locktest.Run(t, backend) }

func TestRedlock(t *testing.T) { locktest.Run(t, redlock) }

func openAll(addresses []string) ([]*redis.Client, error) {
	clients := make([]*redis.Client, len(addresses))
	for i, address := range addresses {
		client, err := Open(address)
		if err != nil {
			return nil, err
		}
		clients[i] = client
	}
	return clients, nil
}

func closeAll(clients []*redis.Client) error {
	var err error
	for _, client := range clients {
		if closeErr := client.Close(); closeErr != nil {
			err = closeErr
		}
	}
	return err
}

// servers are one or more Redis servers with an administrator's clients.
type servers struct {
	sandboxtest.Processes
	nodes   []*sandbox.Redis
	clients []*redis.Client
}

func start(tb testing.TB, n int) *servers {
	tb.Helper()
	nodes, err := sandbox.StartRedisNodes(tb.Context(), n, sandbox.RedisConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	s := &servers{nodes: nodes}
	for _, node := range nodes {
		s.Processes = append(s.Processes, node.Process)
	}
	tb.Cleanup(func() {
		for _, node := range s.nodes {
			if err := node.Close(); err != nil {
				tb.Error(err)
			}
		}
	})
	if s.clients, err = openAll(strings.Split(s.Address(), ",")); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := closeAll(s.clients); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func (s *servers) Address() string {
	addresses := make([]string, len(s.nodes))
	for i, node := range s.nodes {
		addresses[i] = node.Addr
	}
	return strings.Join(addresses, ",")
}

// Entries returns the owners on any node, the one on the most nodes first.
func (s *servers) Entries(tb testing.TB, name string) []string {
	tb.Helper()
	counts := map[string]int{}
	first := ""
	for _, client := range s.clients {
		owner, err := client.Get(tb.Context(), testPrefix+name).Result()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		counts[owner]++
		if first == "" || counts[owner] > counts[first] {
			first = owner
		}
	}
	if first == "" {
		return nil
	}
	entries := []string{name + " " + first}
	for owner := range counts {
		if owner != first {
			entries = append(entries, name+" "+owner)
		}
	}
	return entries
}

func (s *servers) Remove(tb testing.TB, entry string) {
	tb.Helper()
	name, _, _ := strings.Cut(entry, " ")
	for _, client := range s.clients {
		if err := client.Del(tb.Context(), testPrefix+name).Err(); err != nil {
			tb.Fatal(err)
		}
	}
}

func (s *servers) Revoke(tb testing.TB, entry string) {
	tb.Helper()
	name, _, _ := strings.Cut(entry, " ")
	for _, client := range s.clients {
		if err := client.PExpire(tb.Context(), testPrefix+name, time.Millisecond).Err(); err != nil {
			tb.Fatal(err)
		}
	}
}

// newLocker makes a Locker with its own client. The end of the test closes both.
func newLocker(tb testing.TB, address string, ttl time.Duration) *Locker {
	tb.Helper()
	client, err := Open(address)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := New(Config{Clients: []*redis.Client{client}, Prefix: testPrefix, TTL: ttl, Owner: testOwner})
	return locktest.Opened(tb, l, err, client.Close)
}
