package order_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"flashsale/internal/backend"
	"flashsale/internal/forward"
	"flashsale/internal/lock"
	"flashsale/internal/lock/etcdlock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/record"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
	"flashsale/internal/strategy"
)

var servers *sandbox.Stack

// onlySimulations matches a flag -run that runs no other tests.
var onlySimulations = regexp.MustCompile(`^\^?(Test)?Simulat\w*\$?(/.*)?$`)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(childMain())
	}
	flag.Parse()
	if onlySimulations.MatchString(flag.Lookup("test.run").Value.String()) {
		os.Exit(m.Run()) // they need no server
	}
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

const (
	// testTTL is for tests that wait for the end of a lease. etcd grants no shorter one.
	testTTL = 2 * time.Second
	// longTTL is for all others: a busy machine may stop a process for seconds.
	longTTL = 20 * time.Second
	// testTimeout is how long a busy machine may take for an order.
	testTimeout = 20 * time.Second
	testSKU     = "sku"
)

var databases atomic.Int32

// newDSN creates a database with the schema and one SKU.
func newDSN(t testing.TB, s stock.Stock) string {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("orders%d", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	db := open(t, dsn)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Create(t.Context(), thing(s)); err != nil {
		t.Fatal(err)
	}
	return dsn
}

// thing is the tests' SKU, with the fields set in s.
func thing(s stock.Stock) stock.Stock {
	s.SKU, s.Name, s.PriceCents, s.Currency = testSKU, "A thing", 999, "EUR"
	return s
}

// change changes the SKU at a replica.
func change(t *testing.T, at *order.Service, s stock.Stock) {
	t.Helper()
	if _, created, err := at.PutSKU(t.Context(), thing(s), order.Precondition{}); err != nil || created {
		t.Fatalf("change the SKU: created %v, error %v", created, err)
	}
}

func open(t testing.TB, dsn string) *stock.DB {
	t.Helper()
	db, err := stock.Open(dsn, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// replica is a replica in this process.
type replica struct {
	db     *stock.DB
	etcd   *clientv3.Client
	units  *etcdstock.Store // for stock in etcd
	locker lock.Locker
	orders *order.Service
	// forwarding is nil if the replica does not forward.
	forwarding *order.Forwarding
}

// options configure a replica.
type options struct {
	dsn       string
	etcd      []string
	strategy  string
	fence     strategy.Fence
	think     time.Duration
	ttl       time.Duration // of the lock; default longTTL
	timeout   time.Duration // of a request; default testTimeout
	desk      order.DeskConfig
	at        func(order.Step)
	traces    trace.TracerProvider // optional
	window    time.Duration        // for payment; default one minute
	maxUnpaid int
	halted    func() error     // optional
	mirror    order.Mirror     // optional
	alone     bool             // neither forwards orders nor receives them
	secret    string           // of links; has a default
	steps     *record.Recorder // optional
	logger    *slog.Logger     // logs errors by default
	// via maps the replica's address for links to the one that others use.
	via func(addr string) string
}

func newReplica(o options) (r *replica, err error) {
	s, err := strategy.Find(o.strategy)
	if err != nil {
		return nil, err
	}
	r = &replica{}
	if r.db, err = stock.OpenTraced(o.dsn, 16, o.traces); err != nil {
		return nil, err
	}
	o.ttl, o.timeout, o.window = cmp.Or(o.ttl, longTTL), cmp.Or(o.timeout, testTimeout), cmp.Or(o.window, time.Minute)
	logger := o.logger
	if logger == nil {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	if s.Write == strategy.Batch && !o.alone {
		if r.forwarding, err = newForwarding(cmp.Or(o.secret, "the secret that the replicas of the tests share")); err != nil {
			return nil, err
		}
	}
	if r.locker, err = r.newLocker(s, o, logger); err != nil {
		return nil, err
	}
	if s.Write == strategy.EtcdCompareAndSwap {
		if err := r.openUnits(o.etcd); err != nil {
			return nil, err
		}
	}
	var tracer trace.Tracer
	if o.traces != nil {
		tracer = o.traces.Tracer("orders")
	}
	r.orders = order.New(order.Config{Tracer: tracer, DB: r.db, Strategy: s, Fence: s.FenceFor(o.fence), Locker: r.locker, Units: r.units,
		PaymentWindow: o.window, MaxUnpaid: o.maxUnpaid, ThinkTime: o.think, RequestTimeout: o.timeout, Desk: o.desk, At: o.at, Forwarding: r.forwarding, Halted: o.halted, Mirror: o.mirror, Logger: logger, Steps: o.steps})
	return r, nil
}

// newForwarding listens on a port for links.
func newForwarding(secret string) (*order.Forwarding, error) {
	secure, err := forward.FromSecret([]byte(secret))
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &order.Forwarding{Config: forward.Config{Process: uuid.NewString(), TLS: secure}, Listener: listener}, nil
}

func (r *replica) openUnits(endpoints []string) (err error) {
	if r.etcd, err = clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: testTimeout, Logger: zap.NewNop()}); err != nil {
		return err
	}
	r.units = &etcdstock.Store{Client: r.etcd, Prefix: "flashsale/" + r.db.Name + "/units/"}
	return nil
}

func (r *replica) newLocker(s strategy.Strategy, o options, logger *slog.Logger) (lock.Locker, error) {
	switch s.Lock {
	case strategy.NoLock:
		return nil, nil
	case strategy.Process:
		return processlock.New(), nil
	}
	if s.Server == strategy.InMySQL {
		g, err := backend.Open(context.Background(), backend.Config{Strategy: s, DSN: o.dsn, Database: r.db.Name,
			Connections: 4, Replica: "r", TTL: o.ttl, Logger: logger})
		if err != nil {
			return nil, err
		}
		return g.Locker, nil // there is nothing else to close
	}
	var err error
	r.etcd, err = clientv3.New(clientv3.Config{Endpoints: o.etcd, DialTimeout: testTimeout, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	cfg := etcdlock.Config{Client: r.etcd, Prefix: "flashsale/" + r.db.Name + "/lock/", TTL: o.ttl, Logger: logger,
		Owner: etcdlock.Owner{Replica: fmt.Sprint(os.Getpid()), PID: os.Getpid()}}
	if r.forwarding != nil {
		cfg.Owner.Process, cfg.Owner.Addr = r.forwarding.Process, r.forwarding.Listener.Addr().String()
		if o.via != nil {
			cfg.Owner.Addr = o.via(cfg.Owner.Addr)
		}
	}
	if s.Lock == strategy.EtcdTextbook {
		return etcdlock.NewTextbook(cfg)
	}
	return etcdlock.New(cfg)
}

func (r *replica) close(ctx context.Context) error {
	err := r.orders.Close(ctx)
	if r.locker != nil {
		if closeErr := r.locker.Close(ctx); err == nil {
			err = closeErr
		}
	}
	if r.etcd != nil {
		_ = r.etcd.Close()
	}
	_ = r.db.Close()
	return err
}

// startReplica starts a replica that is closed at the end of the test.
func startReplica(t testing.TB, o options) *order.Service { return start(t, o).orders }

func start(t testing.TB, o options) *replica {
	t.Helper()
	if o.fence == "" {
		o.fence = strategy.FenceClaim
	}
	o.etcd = servers.EtcdEndpoints()
	r, err := newReplica(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		if err := r.close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// value reads a counter or a gauge.
func value(c prometheus.Collector) float64 { return testutil.ToFloat64(c) }

// testPatience is how long tests wait for an event on a busy machine.
const testPatience = 2 * time.Minute

func buy(customer, key string, n int32) order.Request {
	return order.Request{SKU: testSKU, Customer: customer, Key: key, Quantity: n}
}

// audit fails the test unless the database passes the audit, and returns its only SKU.
func audit(t *testing.T, dsn string) stock.Balance {
	t.Helper()
	report, err := stock.Audit(t.Context(), open(t, dsn))
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK {
		t.Errorf("the audit found %+v", report.Violations)
	}
	return report.SKUs[0]
}

// connections lists the connections to one database.
func connections(t *testing.T, database string) []sandbox.Connection {
	t.Helper()
	all, err := servers.MySQL.Connections(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(c sandbox.Connection) bool { return c.Database != database })
}
