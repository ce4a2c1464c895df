package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/order"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

// TestEveryRivalSellsOutExactly has two replicas of each rival sell fewer units than
// there are buyers, concurrently.
func TestEveryRivalSellsOutExactly(t *testing.T) {
	const units, buyers = 60, 150
	for _, p := range All() {
		if p.open == nil || p.Store == Nowhere {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			ctx := t.Context()
			s := serversFor(t, p)
			rivals := []rival{newRival(t, p, s), newRival(t, p, s)}
			want := stock.Stock{SKU: "one", Name: "One", PriceCents: 1234, Currency: "EUR", Units: units}
			if _, created, err := rivals[0].PutSKU(ctx, want, order.Precondition{}); err != nil || !created {
				t.Fatalf("got created %v, %v", created, err)
			}
			if _, created, err := rivals[1].PutSKU(ctx, want, order.Precondition{}); err != nil || created {
				t.Fatalf("the second call: got created %v, %v", created, err)
			}
			var sold, refused atomic.Int64
			group, ctx := errgroup.WithContext(ctx)
			group.SetLimit(16)
			for i := range buyers {
				group.Go(func() error {
					placed, err := rivals[i%2].Place(ctx, order.Request{SKU: "one", Customer: fmt.Sprint("customer ", i), Key: fmt.Sprint("key ", i), Quantity: 1})
					switch {
					case err == nil && placed.Order.TotalCents() == 1234:
						sold.Add(1)
					case errors.Is(err, order.ErrSoldOut), errors.Is(err, order.ErrInsufficient):
						refused.Add(1)
					default:
						return fmt.Errorf("buyer %d: %+v, %w", i, placed, err)
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			if sold.Load() != units || refused.Load() != buyers-units {
				t.Errorf("got %d sold and %d refused, want %d and %d", sold.Load(), refused.Load(), units, buyers-units)
			}
			_, err := rivals[0].Place(t.Context(), order.Request{SKU: "none", Customer: "c", Key: "k", Quantity: 1})
			if !errors.Is(err, stock.ErrUnknownSKU) {
				t.Errorf("an unknown SKU: got %v", err)
			}
			for _, r := range rivals {
				if err := r.close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			checkSoldOut(t, p, s, units)
		})
	}
}

func serversFor(t *testing.T, p Peer) Servers {
	t.Helper()
	s := Servers{ServeConfig: ServeConfig{Pool: 8, EtcdEndpoints: servers.EtcdEndpoints()}, Logger: slog.New(slog.DiscardHandler)}
	switch p.Store {
	case MySQL:
		dsn, err := servers.MySQL.CreateDatabase(t.Context(), "peer_"+strings.NewReplacer("-", "_").Replace(p.Name))
		if err != nil {
			t.Fatal(err)
		}
		if s.DB, err = openDatabase(t.Context(), p.Name, ServeConfig{MySQLDSN: dsn, Pool: 16}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.DB.Close() })
	case Redis:
		tier.OnlyTestAll(t, "Redis")
		r, err := sandbox.StartRedis(t.Context(), sandbox.RedisConfig{AppendAlways: p.Durable})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		s.RedisAddr = r.Addr
	case Nowhere:
	}
	return s
}

func newRival(t *testing.T, p Peer, s Servers) rival {
	t.Helper()
	r, err := p.open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range r.ready(t.Context()) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return r
}

func checkSoldOut(t *testing.T, p Peer, s Servers, units int64) {
	t.Helper()
	if p.Store == Redis {
		left, orders, err := ReadRedis(t.Context(), s.RedisAddr, "one")
		if err != nil || left != 0 || int64(len(orders)) != units {
			t.Errorf("got %d units left, %d orders, %v", left, len(orders), err)
		}
		return
	}
	report, err := stock.Audit(t.Context(), s.DB)
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK || report.SKUs[0].Reserved != units || report.SKUs[0].Available != 0 {
		t.Errorf("got audit %+v", report)
	}
}

func TestKnownKeyIsRefused(t *testing.T) {
	p, err := Find("conditional-1trip")
	if err != nil {
		t.Fatal(err)
	}
	p.Name += "-key"
	r := newRival(t, p, serversFor(t, p))
	if _, _, err := r.PutSKU(t.Context(), stock.Stock{SKU: "one", Name: "One", Currency: "EUR", Units: 5}, order.Precondition{}); err != nil {
		t.Fatal(err)
	}
	request := order.Request{SKU: "one", Customer: "c", Key: "k", Quantity: 1}
	if _, err := r.Place(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Place(t.Context(), request); !errors.Is(err, order.ErrInFlight) {
		t.Errorf("the same key again: got %v", err)
	}
}

func TestRegistryIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range All() {
		if seen[p.Name] || p.Is == "" || p.Store == "" || p.Expected != strategy.Exact || len(p.Ways) == 0 {
			t.Errorf("the name is not unique, or a field is missing: %+v", p)
		}
		seen[p.Name] = true
		for _, way := range p.Ways {
			if way.Strategy == "" && p.open == nil {
				t.Errorf("%s: no program runs %+v", p.Name, way)
			}
			if _, err := strategy.Find(way.Strategy); way.Strategy != "" && err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
	}
	if _, err := Find("nope"); err == nil || !strings.Contains(err.Error(), "noop") {
		t.Errorf("an unknown peer: got %v", err)
	}
}

func TestServeReportsInvalidConfig(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, tt := range []struct {
		cfg  ServeConfig
		want string
	}{
		{ServeConfig{Peer: "nope"}, "unknown peer"},
		{ServeConfig{Peer: "etcd"}, "api serve --strategy=etcd"},
		{ServeConfig{Peer: "noop", Addr: "127.0.0.1:99999"}, "--addr"},
		{ServeConfig{Peer: "buckets", Addr: "127.0.0.1:0", MySQLDSN: "nonsense", Pool: 2}, "malformed DSN"},
	} {
		tt.cfg.Log = io.Discard
		if err := Serve(ctx, tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.cfg, err, tt.want)
		}
	}
}
