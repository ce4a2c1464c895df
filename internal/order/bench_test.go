package order_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// BenchmarkQueue measures handing an order to a desk and taking it into a batch.
func BenchmarkQueue(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		order.QueueOnce()
	}
}

// BenchmarkBatchText measures making the packet of one SKU's batch. Divide by the
// batch's size for the cost of one order.
func BenchmarkBatchText(b *testing.B) {
	for _, n := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			batch := order.NewGroup(order.Part{Row: stock.Row{Stock: stock.Stock{SKU: "sale-1", PriceCents: 999, Currency: "EUR"}}, Token: 7, Orders: n})
			b.ReportAllocs()
			for b.Loop() {
				batch.Text()
			}
		})
	}
}

// BenchmarkCommit measures one batch's transaction on a real server.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			db := open(b, newDSN(b, stock.Stock{Units: 1 << 30}))
			token := lock.Token(0)
			b.ReportAllocs()
			for b.Loop() {
				// Each has its own tenure, so the claim is measured too.
				token++
				row, err := stock.Claim{SKU: testSKU, Token: token, Fence: strategy.FenceClaim}.Read(b.Context(), db)
				if err != nil {
					b.Fatal(err)
				}
				part := order.Part{Row: row, Token: token, Orders: n, Salt: int(token)}
				if err := order.CommitGroup(b.Context(), db, part)[0]; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkInsertBatch measures the server's CPU time for an order's row, in a table of
// many customers, by the SKUs in a transaction and the orders of each.
func BenchmarkInsertBatch(b *testing.B) {
	const customers, fill = 300_000, 2000
	for _, size := range []struct{ skus, orders int }{{1, 256}, {256, 1}} {
		b.Run(fmt.Sprintf("%dx%d", size.skus, size.orders), func(b *testing.B) {
			_, db := manySKUs(b, size.skus)
			parts := make([]order.Part, size.skus)
			for i := range parts {
				parts[i] = part(b, db, i, 0)
				parts[i].Customers, parts[i].Row.Available = customers, 1<<30
			}
			if _, err := db.SQL.ExecContext(b.Context(), "UPDATE stock SET available = 1 << 30, units = 1 << 30"); err != nil {
				b.Fatal(err)
			}
			commit := func(orders int) {
				for i := range parts {
					parts[i].Orders = orders
				}
				if err := errors.Join(order.CommitGroup(b.Context(), db, parts...)...); err != nil {
					b.Fatal(err)
				}
				for i := range parts {
					parts[i].Row.Available -= int64(orders)
					parts[i].Row.Seq++
				}
			}
			for range customers / fill {
				commit(fill / size.skus)
			}
			began, rows := serverCPU(b), 0
			for b.Loop() {
				commit(size.orders)
				rows += size.skus * size.orders
			}
			b.ReportMetric(float64((serverCPU(b)-began).Microseconds())/float64(rows), "server-µs/row")
		})
	}
}

// serverCPU reads the database server's CPU time from /proc.
func serverCPU(b *testing.B) time.Duration {
	b.Helper()
	const utime, stime, tick = 11, 12, 10 * time.Millisecond // counted after the program's name
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", servers.MySQL.Pid()))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, userErr := strconv.Atoi(fields[utime])
	kernel, kernelErr := strconv.Atoi(fields[stime])
	if err := errors.Join(userErr, kernelErr); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+kernel) * tick
}

// BenchmarkPlace measures the path of an order without HTTP, at one replica, by the
// number of concurrent buyers.
func BenchmarkPlace(b *testing.B) {
	for _, buyers := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(buyers), func(b *testing.B) {
			service := startReplica(b, options{dsn: newDSN(b, stock.Stock{Units: 1 << 30}), strategy: "etcd"})
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			for range buyers {
				group.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						if _, err := service.Place(b.Context(), buy(fmt.Sprint("customer-", i), "k", 1)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
		})
	}
}

// BenchmarkFullDesk measures the refusal of an order by a full queue.
func BenchmarkFullDesk(b *testing.B) {
	dsn := newDSN(b, stock.Stock{Units: 1 << 30})
	db := open(b, dsn)
	other, err := backend.Open(b.Context(), backend.Config{
		Strategy: mustFind(b, "etcd"), Servers: backend.Servers{EtcdEndpoints: servers.EtcdEndpoints(), Prefix: "flashsale/"},
		DSN: dsn, Database: db.Name, Replica: "other", TTL: testTTL, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := other.Locker.Lock(b.Context(), testSKU); err != nil { // until the end
		b.Fatal(err)
	}
	service := startReplica(b, options{dsn: dsn, strategy: "etcd", desk: order.DeskConfig{Queue: 1}})
	ctx, cancel := context.WithCancel(b.Context())
	var waiting sync.WaitGroup
	for i := range 2 { // one in the queue, and one that the desk has taken out of it
		waiting.Go(func() { _, _ = service.Place(ctx, buy(fmt.Sprint("waits-", i), "k", 1)) })
	}
	for {
		_, err := service.Place(ctx, buy("ann", "k", 1))
		if errors.Is(err, order.ErrBusy) {
			break
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := service.Place(ctx, buy("ann", "k", 1)); !errors.Is(err, order.ErrBusy) {
			b.Fatalf("got %v, want %v", err, order.ErrBusy)
		}
	}
	b.StopTimer()
	cancel()
	waiting.Wait()
	if err := errors.Join(other.Locker.Close(context.Background()), other.Close()); err != nil {
		b.Error(err)
	}
}

func mustFind(tb testing.TB, name string) strategy.Strategy {
	tb.Helper()
	s, err := strategy.Find(name)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}
