package peer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// newBatched opens replicas of conditional-batched on a database of their own.
func newBatched(t *testing.T, name string, n int) (Servers, []*batched) {
	t.Helper()
	p, err := Find(Batched)
	if err != nil {
		t.Fatal(err)
	}
	p.Name += "-" + name
	s := serversFor(t, p)
	s.Pool = 3
	replicas := make([]*batched, n)
	for i := range replicas {
		replicas[i] = newRival(t, p, s).(*batched)
		t.Cleanup(func() {
			if err := replicas[i].close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
	return s, replicas
}

func putOnSale(t *testing.T, b *batched, sku string, units int64) {
	t.Helper()
	want := stock.Stock{SKU: sku, Name: sku, PriceCents: 1234, Currency: "EUR", Units: units}
	if _, _, err := b.PutSKU(t.Context(), want, order.Precondition{}); err != nil {
		t.Fatal(err)
	}
}

func audited(t *testing.T, s Servers) map[string]stock.Balance {
	t.Helper()
	report, err := stock.Audit(t.Context(), s.DB)
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK {
		t.Errorf("got audit %+v", report.Violations)
	}
	of := map[string]stock.Balance{}
	for _, balance := range report.SKUs {
		of[balance.SKU] = balance
	}
	return of
}

// inOneBatch places all requests as one batch, in this order.
func inOneBatch(t *testing.T, b *batched, requests ...order.Request) []answer {
	t.Helper()
	tickets := make([]*ticket, len(requests))
	for i, r := range requests {
		var err error
		if tickets[i], err = b.ticket(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	b.mu.Lock()
	b.waiting = append(b.waiting, tickets...)
	b.busy++
	b.running.Go(b.lane)
	b.mu.Unlock()
	answers := make([]answer, len(requests))
	for i := range tickets {
		answers[i] = <-tickets[i].answered
	}
	return answers
}

func ask(sku, customer string, quantity int32) order.Request {
	return order.Request{SKU: sku, Customer: customer, Key: "key of " + customer, Quantity: quantity}
}

// TestBatchesSellOutExactly has buyers of one, two or three units at two replicas
// request more of each SKU than there is. No buyer may be refused units that are left
// at the end.
func TestBatchesSellOutExactly(t *testing.T) {
	const units, buyers, skus = 101, 600, 3
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	draw := rand.New(rand.NewPCG(seed, 0))
	s, replicas := newBatched(t, "sells_out", 2)
	for i := range skus {
		putOnSale(t, replicas[0], fmt.Sprint("sku-", i), units)
	}
	var mu sync.Mutex
	sold, least := map[string]int64{}, map[string]int32{} // the smallest refused order
	promised := map[order.ID]order.Request{}
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(64)
	for i := range buyers {
		r := ask(fmt.Sprint("sku-", draw.IntN(skus)), fmt.Sprint("customer ", i), 1+draw.Int32N(3))
		group.Go(func() error {
			placed, err := replicas[i%2].Place(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && !placed.Replayed:
				sold[r.SKU] += int64(r.Quantity)
				promised[placed.Order.ID] = r
			case errors.Is(err, order.ErrSoldOut), errors.Is(err, order.ErrInsufficient):
				if least[r.SKU] == 0 {
					least[r.SKU] = math.MaxInt32
				}
				least[r.SKU] = min(least[r.SKU], r.Quantity)
			default:
				return fmt.Errorf("buyer %d: %+v, %w", i, placed, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for sku, balance := range audited(t, s) {
		if balance.Reserved != sold[sku] || balance.Available != units-sold[sku] {
			t.Errorf("%s: %d units were sold, got audit %+v", sku, sold[sku], balance)
		}
		if balance.Available >= int64(least[sku]) {
			t.Errorf("%s: %d units are left, but an order of %d was refused", sku, balance.Available, least[sku])
		}
	}
	rows, err := s.DB.SQL.QueryContext(t.Context(), "SELECT id, sku, customer, idempotency_key, quantity FROM orders")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id uuid.UUID
		var got order.Request
		if err := rows.Scan(&id, &got.SKU, &got.Customer, &got.Key, &got.Quantity); err != nil {
			t.Fatal(err)
		}
		if want, ok := promised[id]; !ok || got != want {
			t.Errorf("order %s: got %+v, want %+v", id, got, want)
		}
		delete(promised, id)
	}
	if err := rows.Err(); err != nil || len(promised) > 0 {
		t.Errorf("%d promised orders have no row, %v", len(promised), err)
	}
}

func TestBatchIsOneTransaction(t *testing.T) {
	s, replicas := newBatched(t, "one_transaction", 1)
	putOnSale(t, replicas[0], "a", 100)
	putOnSale(t, replicas[0], "b", 100)
	var requests []order.Request
	for i := range 10 {
		requests = append(requests, ask("a", fmt.Sprint("of a ", i), 2), ask("b", fmt.Sprint("of b ", i), 1))
	}
	for i, a := range inOneBatch(t, replicas[0], requests...) {
		if a.err != nil {
			t.Errorf("order %d: %v", i, a.err)
		}
	}
	var rows, moments, seqs int
	err := s.DB.SQL.QueryRowContext(t.Context(), "SELECT COUNT(*), COUNT(DISTINCT o.created_at), COUNT(DISTINCT o.seq) FROM orders o JOIN stock s ON s.sku = o.sku AND s.seq = o.seq").
		Scan(&rows, &moments, &seqs)
	if err != nil || rows != 20 || moments != 1 || seqs != 1 {
		t.Errorf("got %d orders with the seq of their stock row, %d creation times and %d seqs, %v", rows, moments, seqs, err)
	}
	of := audited(t, s)
	if of["a"].Available != 80 || of["b"].Available != 90 {
		t.Errorf("got audit %+v", of)
	}
}

// TestBatchLargerThanTheStockIsCut has the stock end within a batch. Orders are
// admitted in order of arrival, and those of other SKUs are not affected.
func TestBatchLargerThanTheStockIsCut(t *testing.T) {
	s, replicas := newBatched(t, "too_large", 1)
	putOnSale(t, replicas[0], "few", 4)
	putOnSale(t, replicas[0], "many", 100)
	putOnSale(t, replicas[0], "none", 0)
	for round, want := range [][]error{
		{nil, order.ErrInsufficient, nil, nil, order.ErrSoldOut},
		{order.ErrSoldOut, order.ErrSoldOut, order.ErrSoldOut, nil, order.ErrSoldOut},
	} {
		who := fmt.Sprintf("in round %d ", round)
		answers := inOneBatch(t, replicas[0], ask("few", who+"1", 3), ask("few", who+"2", 2), ask("few", who+"3", 1), ask("many", who+"4", 1), ask("none", who+"5", 1))
		for i, a := range answers {
			if !errors.Is(a.err, want[i]) {
				t.Errorf("round %d, order %d: got %v, want %v", round, i, a.err, want[i])
			}
		}
	}
	of := audited(t, s)
	if of["few"].Available != 0 || of["many"].Available != 98 || of["none"].Reserved != 0 {
		t.Errorf("got audit %+v", of)
	}
}

func TestRefusalTellsSoldOutFromInsufficient(t *testing.T) {
	_, replicas := newBatched(t, "refuses", 2)
	putOnSale(t, replicas[0], "one", 3)
	for i, tt := range []struct {
		quantity int32
		want     error
	}{{5, order.ErrInsufficient}, {2, nil}, {2, order.ErrInsufficient}, {1, nil}, {1, order.ErrSoldOut}, {2, order.ErrSoldOut}} {
		if _, err := replicas[i%2].Place(t.Context(), ask("one", fmt.Sprint("customer ", i), tt.quantity)); !errors.Is(err, tt.want) {
			t.Errorf("order %d of %d: got %v, want %v", i, tt.quantity, err, tt.want)
		}
	}
}

// TestBatchedReplaysAKey repeats an order at both replicas, before and after the SKU
// is sold out.
func TestBatchedReplaysAKey(t *testing.T) {
	s, replicas := newBatched(t, "replays", 2)
	putOnSale(t, replicas[0], "one", 2)
	putOnSale(t, replicas[0], "two", 0)
	first, err := replicas[0].Place(t.Context(), ask("one", "first", 1))
	if err != nil || first.Replayed {
		t.Fatalf("%+v, %v", first, err)
	}
	again := func(when string) {
		for i, b := range replicas {
			got, err := b.Place(t.Context(), ask("one", "first", 1))
			if err != nil || !got.Replayed {
				t.Errorf("replica %d, %s: got %+v, %v", i, when, got, err)
			}
			got.Order.Fingerprint = first.Order.Fingerprint // not part of the answer
			if diff := cmp.Diff(first.Order, got.Order); diff != "" {
				t.Errorf("replica %d, %s: (-first +again)\n%s", i, when, diff)
			}
			for _, other := range []order.Request{ask("one", "first", 2), ask("two", "first", 1)} {
				if _, err := b.Place(t.Context(), other); !errors.Is(err, order.ErrKeyReused) {
					t.Errorf("replica %d, %s: the key of another order: got %v", i, when, err)
				}
			}
		}
	}
	again("with units left")
	if _, err := replicas[1].Place(t.Context(), ask("one", "second", 1)); err != nil {
		t.Fatal(err)
	}
	again("sold out")
	for i, b := range replicas {
		if _, err := b.Place(t.Context(), ask("one", "third", 1)); !errors.Is(err, order.ErrSoldOut) {
			t.Errorf("replica %d: got %v, want sold out", i, err)
		}
	}
	audited(t, s)
}

// TestCopiesOfAnOrderInABatchAreOneOrder has a key twice in one batch, and a key that
// has an order already.
func TestCopiesOfAnOrderInABatchAreOneOrder(t *testing.T) {
	s, replicas := newBatched(t, "copies", 1)
	putOnSale(t, replicas[0], "one", 10)
	stands, err := replicas[0].Place(t.Context(), ask("one", "stands", 1))
	if err != nil {
		t.Fatal(err)
	}
	answers := inOneBatch(t, replicas[0], ask("one", "twice", 1), ask("one", "stands", 1), ask("one", "twice", 1), ask("one", "once", 1))
	for i, a := range answers {
		if a.err != nil || a.placed.Replayed != (i == 1 || i == 2) {
			t.Errorf("order %d: got %+v, %v", i, a.placed, a.err)
		}
	}
	if answers[1].placed.Order.ID != stands.Order.ID || answers[2].placed.Order.ID != answers[0].placed.Order.ID {
		t.Errorf("the copies are different orders: %+v", answers)
	}
	if of := audited(t, s); of["one"].Reserved != 3 {
		t.Errorf("got audit %+v", of)
	}
}

// TestOrderOfCanceledCallerIsNotSold: the caller was told that nothing was applied.
func TestOrderOfCanceledCallerIsNotSold(t *testing.T) {
	s, replicas := newBatched(t, "leaves", 1)
	b := replicas[0]
	putOnSale(t, b, "one", 10)
	if _, err := b.Place(t.Context(), ask("one", "first", 1)); err != nil { // also loads the SKU
		t.Fatal(err)
	}
	if err := b.close(t.Context()); err != nil { // waits for the end of its lane
		t.Fatal(err)
	}
	lanes := b.lanes
	b.lanes = 0
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Place(ctx, ask("one", "impatient", 1)); !errors.Is(err, order.ErrUnavailable) {
		t.Errorf("the canceled caller: got %v", err)
	}
	late := &ticket{request: ask("one", "late", 1), arrived: time.Now().Add(-2 * requestTimeout), answered: make(chan answer, 1)}
	b.enqueue(late)
	b.lanes = lanes
	if _, err := b.Place(t.Context(), ask("one", "patient", 1)); err != nil {
		t.Error(err)
	}
	if a := <-late.answered; !errors.Is(a.err, order.ErrUnavailable) {
		t.Errorf("the order that waited too long: got %v", a.err)
	}
	if of := audited(t, s); of["one"].Reserved != 2 {
		t.Errorf("got audit %+v", of)
	}
}

func TestFullQueueIsBusy(t *testing.T) {
	b := &batched{} // without a lane, no order leaves the queue
	for range maxWaiting {
		if !b.enqueue(&ticket{}) {
			t.Fatal("the queue is full too early")
		}
	}
	b.rows.Store("one", stock.Stock{SKU: "one"})
	if _, err := b.Place(t.Context(), ask("one", "c", 1)); !errors.Is(err, order.ErrBusy) {
		t.Errorf("a full queue: got %v", err)
	}
}

// TestBatchPacketText shows the hot path's statements.
func TestBatchPacketText(t *testing.T) {
	limit := int32(2)
	made := func(sku, customer string, quantity int32, row stock.Stock) *ticket {
		return &ticket{request: order.Request{SKU: sku, Customer: customer, Key: "'", Quantity: quantity}, row: row}
	}
	row := stock.Stock{PriceCents: 1234, Currency: "EUR"}
	limited := row
	limited.PerCustomerLimit = &limit
	got := batchPacket([]*ticket{made("b", "x", 1, row), made("a", "y", 2, limited), made("b", "z", 3, row)})
	const id, fingerprint = "00000000000000000000000000000000", "0000000000000000000000000000000000000000000000000000000000000000"
	want := "SET @made = NOW(6), @due = NOW(6) + INTERVAL 900 SECOND; BEGIN; " +
		"UPDATE stock SET available = available - 2, seq = LAST_INSERT_ID(seq + 1), updated_at = @made WHERE sku = X'61' AND available >= 2; " +
		"SET @seq0 = IF(ROW_COUNT() = 1, LAST_INSERT_ID(), (SELECT 1 UNION SELECT 2)); " +
		"UPDATE stock SET available = available - 4, seq = LAST_INSERT_ID(seq + 1), updated_at = @made WHERE sku = X'62' AND available >= 4; " +
		"SET @seq1 = IF(ROW_COUNT() = 1, LAST_INSERT_ID(), (SELECT 1 UNION SELECT 2)); " +
		"INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, per_customer_limit, status, fence, seq, created_at, expires_at) VALUES " +
		"(X'" + id + "', X'61', X'79', X'27', X'" + fingerprint + "', 2, 1234, X'455552', 2, 'reserved', 0, @seq0, @made, @due), " +
		"(X'" + id + "', X'62', X'78', X'27', X'" + fingerprint + "', 1, 1234, X'455552', NULL, 'reserved', 0, @seq1, @made, @due), " +
		"(X'" + id + "', X'62', X'7a', X'27', X'" + fingerprint + "', 3, 1234, X'455552', NULL, 'reserved', 0, @seq1, @made, @due)" +
		"; COMMIT; SELECT CAST(@made AS DATETIME(6))"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
