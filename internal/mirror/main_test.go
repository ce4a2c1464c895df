package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

// testPatience bounds the waits of the tests.
const testPatience = 20 * time.Second

// shop is a database and an etcd, with the test's own connections to both.
type shop struct {
	t      *testing.T
	db     *stock.DB
	dsn    string
	etcd   *clientv3.Client
	prefix string
	ends   []string // etcd's endpoints
}

var shops atomic.Int32

func newShop(t *testing.T, endpoints []string) *shop {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("mirror%d", shops.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t: t, dsn: dsn, db: openDB(t, dsn), etcd: newClient(t, endpoints), ends: endpoints}
	s.prefix = "flashsale/" + s.db.Name + "/stock/"
	if err := s.db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func openDB(t *testing.T, dsn string) *stock.DB {
	t.Helper()
	db, err := stock.Open(dsn, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func newClient(t *testing.T, endpoints []string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		DialTimeout: time.Second, DialKeepAliveTime: time.Second, DialKeepAliveTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// put puts a SKU on sale.
func (s *shop) put(sku string, units int64) {
	s.t.Helper()
	created, err := s.db.Create(s.t.Context(), stock.Stock{SKU: sku, Name: "A thing", PriceCents: 999, Currency: "EUR", Units: units})
	if err != nil || !created {
		s.t.Fatalf("create %s: created %v, error %v", sku, created, err)
	}
}

// sell sells one unit of a SKU, and returns what is left.
func (s *shop) sell(sku string) int64 {
	s.t.Helper()
	s.exec("UPDATE stock SET available = available - 1, seq = seq + 1 WHERE sku = ?", sku)
	return s.row(sku).Available
}

func (s *shop) exec(query string, args ...any) {
	s.t.Helper()
	if _, err := s.db.SQL.ExecContext(s.t.Context(), query, args...); err != nil {
		s.t.Fatal(err)
	}
}

// add adds units to a SKU, as a restock does.
func (s *shop) add(sku string, units int) {
	s.t.Helper()
	s.exec("UPDATE stock SET units = units + ?, available = available + ?, seq = seq + 1 WHERE sku = ?", units, units, sku)
}

// lock blocks all reads and writes of stock until unlock is called.
func (s *shop) lock() (unlock func()) {
	s.t.Helper()
	conn, err := s.db.SQL.Conn(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	do := func(query string) {
		if _, err := conn.ExecContext(s.t.Context(), query); err != nil {
			s.t.Fatal(err)
		}
	}
	do("LOCK TABLES stock WRITE")
	return func() { do("UNLOCK TABLES") }
}

// row reads the SKU from MySQL.
func (s *shop) row(sku string) Entry {
	s.t.Helper()
	row, err := s.db.Get(s.t.Context(), sku)
	if err != nil {
		s.t.Fatal(err)
	}
	return row
}

// stored reads the SKU from etcd, with the number of writes of its key.
func (s *shop) stored(sku string) (e Entry, version int64) {
	s.t.Helper()
	answer, err := s.etcd.Get(s.t.Context(), s.prefix+sku)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(answer.Kvs) == 0 {
		return Entry{}, 0
	}
	if err := json.Unmarshal(answer.Kvs[0].Value, &e); err != nil {
		s.t.Fatal(err)
	}
	return e, answer.Kvs[0].Version
}

// history returns the seqs of all entries that were ever put for the SKU.
func (s *shop) history(sku string) (seqs []uint64) {
	s.t.Helper()
	answer, err := s.etcd.Get(s.t.Context(), s.prefix+sku)
	if err != nil || len(answer.Kvs) == 0 {
		s.t.Fatalf("get %s: %v, %v", sku, answer, err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), testPatience)
	defer cancel()
	for r := range s.etcd.Watch(ctx, s.prefix+sku, clientv3.WithRev(answer.Kvs[0].CreateRevision)) {
		for _, event := range r.Events {
			var e Entry
			if err := json.Unmarshal(event.Kv.Value, &e); err != nil {
				s.t.Fatal(err)
			}
			seqs = append(seqs, e.Seq)
			if event.Kv.ModRevision >= answer.Kvs[0].ModRevision {
				return seqs
			}
		}
	}
	s.t.Fatal("the watch ended before all entries were read")
	return nil
}

// replica is a running Mirror.
type replica struct {
	*Mirror
	stop func() // ends it and waits for the end
}

// start runs a Mirror with its own connections until stop is called or the test ends.
func (s *shop) start(options ...func(*Config)) *replica {
	s.t.Helper()
	r := &replica{}
	cfg := Config{Prefix: s.prefix, Logger: slog.New(slog.NewTextHandler(s.t.Output(), nil))}
	for _, option := range options {
		option(&cfg)
	}
	if cfg.DB == nil {
		cfg.DB = openDB(s.t, s.dsn)
	}
	if cfg.Client == nil {
		cfg.Client = newClient(s.t, s.ends)
	}
	m, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	r.Mirror = m
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				s.t.Error(err)
			}
		case <-time.After(testPatience):
			s.t.Error("Run did not return")
		}
	})
	s.t.Cleanup(r.stop)
	return r
}

// silent disables the comparison.
func silent(c *Config) { c.compareEvery = -1 }

// watchful compares as often as possible.
func watchful(c *Config) { c.compareEvery = time.Millisecond }

// shows waits until the view has the current seq of MySQL.
func (s *shop) shows(r *replica, sku string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), testPatience)
	defer cancel()
	if err := r.Await(ctx, sku, s.row(sku).Seq); err != nil {
		s.t.Fatal(err)
	}
}

// settledAt waits until etcd has the same row as MySQL.
func (s *shop) settledAt(sku string) {
	s.t.Helper()
	want := s.row(sku)
	sandboxtest.Eventually(s.t, fmt.Sprintf("%s in etcd", sku), func() bool {
		e, _ := s.stored(sku)
		return e.Seq == want.Seq && e.Available == want.Available
	})
}

func (r *replica) inView(sku string) (Entry, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	it := r.items[sku]
	if it == nil {
		return Entry{}, false
	}
	return it.Entry, true
}

func count(c prometheus.Collector) int { return int(testutil.ToFloat64(c)) }
