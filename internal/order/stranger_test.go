package order_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// Another client is idle inside a transaction that holds the row of the SKU that 64
// buyers want. Its transaction is ended, during a tenure and before a claim.
// `go test -run Stranger -v` prints for how long nothing was sold.
func TestStrangersIdleTransactionIsEnded(t *testing.T) {
	t.Parallel()
	const buyers = 64
	s := openShop(t, "etcd", stock.Stock{Units: 1_000_000}, time.Hour)
	db := s.replicas[0].db
	var sold atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for buyer := range buyers {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_, err := s.at(buyer%2).Place(ctx, order.Request{SKU: testSKU, Customer: fmt.Sprint(buyer), Key: fmt.Sprint(i), Quantity: 1})
				if err == nil {
					sold.Add(1)
				}
			}
		})
	}
	sandboxtest.Eventually(t, "orders", func() bool { return sold.Load() > buyers })
	for range 3 {
		stranger, err := db.SQL.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{"BEGIN", "UPDATE stock SET name = 'mine' WHERE sku = '" + testSKU + "'"} {
			if _, err := stranger.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
		}
		before, began := sold.Load(), time.Now()
		sandboxtest.Eventually(t, "orders in spite of the locked row", func() bool { return sold.Load() > before+buyers })
		t.Logf("nothing was sold for %s", time.Since(began).Round(time.Millisecond))
		if _, err := stranger.ExecContext(t.Context(), "COMMIT"); err == nil {
			t.Error("the stranger's transaction committed, and was not ended")
		}
		_ = stranger.Close()
	}
	cancel()
	group.Wait()
	s.audit(t)
}
