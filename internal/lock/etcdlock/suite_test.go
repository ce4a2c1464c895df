package etcdlock

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	// testTTL is the shortest TTL that etcd grants with its default time-outs.
	testTTL    = 2 * time.Second
	testPrefix = "flashsale/test/lock/"
	// longTTL is longer than the tests wait, so that neither the end of a lease nor what
	// happens once a TTL can make them pass.
	longTTL = time.Minute
)

var backend = locktest.Backend{
	Name: "etcd", Capabilities: Capabilities, TTL: testTTL, Start: startServer,
	LongTTL: longTTL, Open: openWith(New),
}

var textbook = locktest.Backend{
	Name: "etcd-textbook", Capabilities: TextbookCapabilities, TTL: testTTL, Start: startServer,
	LongTTL: longTTL, Open: openWith(NewTextbook),
}

var try = locktest.Backend{
	Name: "etcd-try", Capabilities: TryCapabilities, TTL: testTTL,
	Start:   func(tb testing.TB) locktest.Server { return tryServer{start(tb, 1)} },
	LongTTL: longTTL, Open: openWith(NewTry),
}

func TestMain(m *testing.M) { locktest.Main(m, backend, textbook, try) }

func TestLocker(t *testing.T) { locktest.Run(t, backend) }

func TestTextbook(t *testing.T) { locktest.Run(t, textbook) }

func TestTry(t *testing.T) { locktest.Run(t, try) }

// openWith returns the Open of a back-end.
func openWith[L lock.Locker](newLocker func(Config) (L, error)) func(string, time.Duration) (lock.Locker, func() error, error) {
	return func(address string, ttl time.Duration) (lock.Locker, func() error, error) {
		client, err := newClient(strings.Split(address, ","))
		if err != nil {
			return nil, nil, err
		}
		cfg := testConfig(client)
		cfg.TTL = ttl
		locker, err := newLocker(cfg)
		return locker, client.Close, err
	}
}

func newClient(endpoints []string, options ...grpc.DialOption) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(), DialOptions: options,
		// The client leaves a node that hangs after two seconds.
		DialTimeout: time.Second, DialKeepAliveTime: time.Second, DialKeepAliveTimeout: time.Second,
	})
}

func testConfig(client *clientv3.Client) Config {
	return Config{
		Client: client, Prefix: testPrefix, TTL: testTTL,
		Owner: Owner{Replica: "r", Host: "h", PID: 1},
	}
}

// server is an etcd cluster, with an operator's client.
type server struct {
	*sandbox.Stack
	sandboxtest.Processes
	client *clientv3.Client
}

func startServer(tb testing.TB) locktest.Server { return start(tb, 1) }

func start(tb testing.TB, nodes int) *server {
	tb.Helper()
	stack := sandboxtest.Start(tb, sandbox.Config{EtcdNodes: nodes})
	client, err := newClient(stack.EtcdEndpoints())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close() })
	s := &server{Stack: stack, client: client}
	for _, node := range stack.Etcd {
		s.Processes = append(s.Processes, node.Process)
	}
	return s
}

func (s *server) Address() string { return strings.Join(s.EtcdEndpoints(), ",") }

func (s *server) Entries(tb testing.TB, name string) []string {
	tb.Helper()
	answer, err := s.client.Get(tb.Context(), testPrefix+name+"/", clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		tb.Fatal(err)
	}
	entries := make([]string, len(answer.Kvs))
	for i, kv := range answer.Kvs {
		entries[i] = string(kv.Key)
	}
	return entries
}

func (s *server) Remove(tb testing.TB, entry string) {
	tb.Helper()
	answer, err := s.client.Delete(tb.Context(), entry)
	if err != nil || answer.Deleted != 1 {
		tb.Fatalf("delete %s: %v, %v", entry, answer, err)
	}
}

func (s *server) Revoke(tb testing.TB, entry string) {
	tb.Helper()
	answer, err := s.client.Get(tb.Context(), entry)
	if err != nil || len(answer.Kvs) != 1 {
		tb.Fatalf("get %s: %v, %v", entry, answer, err)
	}
	if _, err := s.client.Revoke(tb.Context(), clientv3.LeaseID(answer.Kvs[0].Lease)); err != nil {
		tb.Fatal(err)
	}
}

// tryServer is a server for Try. All holders of a name have the same key, so the names
// of its entries include the create revision.
type tryServer struct{ *server }

func (s tryServer) Entries(tb testing.TB, name string) []string {
	tb.Helper()
	entries := s.server.Entries(tb, name)
	for i, key := range entries {
		answer, err := s.client.Get(tb.Context(), key)
		if err != nil {
			tb.Fatal(err)
		}
		if len(answer.Kvs) == 0 {
			return nil // deleted meanwhile
		}
		entries[i] = fmt.Sprintf("%s@%d", key, answer.Kvs[0].CreateRevision)
	}
	return entries
}

func (s tryServer) Remove(tb testing.TB, entry string) {
	tb.Helper()
	key, _, _ := strings.Cut(entry, "@")
	s.server.Remove(tb, key)
}

func (s tryServer) Revoke(tb testing.TB, entry string) {
	tb.Helper()
	key, _, _ := strings.Cut(entry, "@")
	s.server.Revoke(tb, key)
}

// keys returns all keys under the test's prefix.
func (s *server) keys(tb testing.TB) []string {
	tb.Helper()
	answer, err := s.client.Get(tb.Context(), testPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		tb.Fatal(err)
	}
	keys := make([]string, len(answer.Kvs))
	for i, kv := range answer.Kvs {
		keys[i] = string(kv.Key)
	}
	slices.Sort(keys)
	return keys
}

// newLocker makes a Locker with its own client and a long lease. The test's end closes
// it.
func (s *server) newLocker(tb testing.TB) *Locker {
	tb.Helper()
	return newLockerAt(tb, s.EtcdEndpoints(), Config{})
}

// newLockerAt is newLocker for other endpoints. It uses the TTL and Logger of with.
func newLockerAt(tb testing.TB, endpoints []string, with Config) *Locker {
	tb.Helper()
	return opened(tb, New, endpoints, with)
}

// opened makes a Locker with its own client. The test's end closes both.
func opened[L lock.Locker](tb testing.TB, newLocker func(Config) (L, error), endpoints []string, with Config) L {
	tb.Helper()
	client, err := newClient(endpoints)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := testConfig(client)
	cfg.TTL = cmp.Or(with.TTL, longTTL)
	cfg.Logger = with.Logger
	l, err := newLocker(cfg)
	return locktest.Opened(tb, l, err, client.Close)
}
