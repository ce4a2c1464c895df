package etcdstock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) { sandboxtest.Main(m, sandbox.Config{EtcdNodes: 1}, &servers) }

// newStore makes a Store with its own client, under the test's prefix.
func newStore(tb testing.TB) *etcdstock.Store {
	tb.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: servers.EtcdEndpoints(), Logger: zap.NewNop()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close() })
	return &etcdstock.Store{Client: client, Prefix: "test/" + tb.Name() + "/"}
}

func create(tb testing.TB, s *etcdstock.Store, sku string, units int64) {
	tb.Helper()
	if created, err := s.Create(tb.Context(), sku, units); err != nil || !created {
		tb.Fatalf("create %s: created %v, error %v", sku, created, err)
	}
}

// conserved checks that no unit was lost, and returns the stock.
func conserved(tb testing.TB, s *etcdstock.Store, sku string) stock.Level {
	tb.Helper()
	level, taken, err := s.Taken(tb.Context(), sku)
	if err != nil {
		tb.Fatal(err)
	}
	sum := int64(0)
	for _, n := range taken {
		sum += n
	}
	if level.Available < 0 || level.Available+sum != level.Units {
		tb.Errorf("%d available and %d taken of %d units", level.Available, sum, level.Units)
	}
	return level
}

func TestTakeAndGiveBackCountOnce(t *testing.T) {
	s := newStore(t)
	create(t, s, "a", 5)
	ctx := t.Context()
	for _, step := range []struct {
		what string
		do   func() (stock.Level, error)
		want error
		left int64
	}{
		{"take", func() (stock.Level, error) { return s.Take(ctx, "a", "o1", 2, nil) }, nil, 3},
		{"take again", func() (stock.Level, error) { return s.Take(ctx, "a", "o1", 2, nil) }, nil, 3},
		{"take another quantity", func() (stock.Level, error) { return s.Take(ctx, "a", "o1", 1, nil) }, etcdstock.ErrOtherQuantity, 3},
		{"take too many", func() (stock.Level, error) { return s.Take(ctx, "a", "o2", 4, nil) }, stock.ErrShort, 3},
		{"take the rest", func() (stock.Level, error) { return s.Take(ctx, "a", "o3", 3, nil) }, nil, 0},
		{"take again when all is sold", func() (stock.Level, error) { return s.Take(ctx, "a", "o1", 2, nil) }, nil, 0},
		{"give back", func() (stock.Level, error) { return s.GiveBack(ctx, "a", "o1") }, nil, 2},
		{"give back again", func() (stock.Level, error) { return s.GiveBack(ctx, "a", "o1") }, etcdstock.ErrNotTaken, 2},
		{"give back nothing", func() (stock.Level, error) { return s.GiveBack(ctx, "a", "o2") }, etcdstock.ErrNotTaken, 2},
		{"restock", func() (stock.Level, error) { return s.Restock(ctx, "a", "r1", 10) }, nil, 12},
		{"restock again", func() (stock.Level, error) { return s.Restock(ctx, "a", "r1", 10) }, nil, 12},
	} {
		got, err := step.do()
		if !errors.Is(err, step.want) || got.Available != step.left {
			t.Errorf("%s: %d left, %v; want %d left, %v", step.what, got.Available, err, step.left, step.want)
		}
		if read := conserved(t, s, "a"); read != got {
			t.Errorf("%s: returned %+v, etcd has %+v", step.what, got, read)
		}
	}
	if n := s.Retries(); n != 0 {
		t.Errorf("%d retries without a rival, want none", n)
	}
}

// Several clients take single units until none is left.
func TestRivalsSellEachUnitOnce(t *testing.T) {
	const rivals, units = 6, 60
	first := newStore(t)
	create(t, first, "hot", units)
	var sold atomic.Int64
	var retries atomic.Uint64
	var group errgroup.Group
	for i := range rivals {
		s := newStore(t)
		group.Go(func() error {
			defer func() { retries.Add(s.Retries()) }()
			for n := 0; ; n++ {
				_, err := s.Take(t.Context(), "hot", fmt.Sprintf("%d-%d", i, n), 1, nil)
				switch {
				case errors.Is(err, stock.ErrShort):
					return nil
				case errors.Is(err, stock.ErrContended):
				case err != nil:
					return err
				default:
					sold.Add(1)
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if left := conserved(t, first, "hot"); left.Available != 0 || sold.Load() != units {
		t.Errorf("%d sold and %d left of %d", sold.Load(), left.Available, units)
	}
	if retries.Load() == 0 {
		t.Error("rivals counted no retry")
	}
}

func TestRetriesAreBounded(t *testing.T) {
	s := newStore(t)
	s.Tries = 2
	create(t, s, "a", 1_000_000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group errgroup.Group
	for i := range 8 {
		rival := newStore(t)
		group.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				_, err := rival.Take(ctx, "a", fmt.Sprintf("%d-%d", i, n), 1, nil)
				if err != nil && ctx.Err() == nil && !errors.Is(err, stock.ErrContended) {
					return err
				}
			}
			return nil
		})
	}
	deadline := time.Now().Add(20 * time.Second)
	var err error
	for n := 0; !errors.Is(err, stock.ErrContended) && time.Now().Before(deadline); n++ {
		if _, err = s.Take(ctx, "a", fmt.Sprint("mine-", n), 1, nil); err != nil && !errors.Is(err, stock.ErrContended) {
			t.Fatal(err)
		}
	}
	cancel()
	if waitErr := group.Wait(); waitErr != nil {
		t.Error(waitErr)
	}
	if !errors.Is(err, stock.ErrContended) {
		t.Errorf("got %v among eight rivals, want ErrContended", err)
	}
	conserved(t, s, "a")
}

// Several clients send the same order at the same time.
func TestSameOrderFromSeveralClientsCountsOnce(t *testing.T) {
	first := newStore(t)
	create(t, first, "a", 10)
	var group errgroup.Group
	for range 5 {
		s := newStore(t)
		group.Go(func() error { _, err := s.Take(t.Context(), "a", "same", 3, nil); return err })
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if left := conserved(t, first, "a"); left.Available != 7 {
		t.Errorf("%d left of 10", left.Available)
	}
}

// The process ended between the writes to the two stores.
func TestTakenShowsTheGap(t *testing.T) {
	s := newStore(t)
	create(t, s, "a", 3)
	if _, err := s.Take(t.Context(), "a", "crashed", 2, nil); err != nil {
		t.Fatal(err)
	}
	_, taken, err := newStore(t).Taken(t.Context(), "a")
	if diff := cmp.Diff(map[string]int64{"crashed": 2}, taken); err != nil || diff != "" {
		t.Errorf("taken: %v\n%s", err, diff)
	}
	if _, err := newStore(t).GiveBack(t.Context(), "a", "crashed"); err != nil {
		t.Error(err)
	}
	if left := conserved(t, s, "a"); left.Available != 3 {
		t.Errorf("%d left of 3", left.Available)
	}
}

func TestCreateKeepsAnExistingSKU(t *testing.T) {
	s := newStore(t)
	create(t, s, "b", 2)
	create(t, s, "a", 1)
	create(t, s, "ab", 3)
	if created, err := s.Create(t.Context(), "a", 99); created || err != nil {
		t.Errorf("create again: created %v, error %v; want false, none", created, err)
	}
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range all {
		got = append(got, fmt.Sprintf("%s %d/%d", l.SKU, l.Available, l.Units))
	}
	if diff := cmp.Diff([]string{"a 1/1", "ab 3/3", "b 2/2"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestInvalidArgumentsAreRefused(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	create(t, s, "a", 1)
	if _, err := s.Read(ctx, "none"); !errors.Is(err, stock.ErrUnknownSKU) {
		t.Errorf("Read: %v", err)
	}
	if _, err := s.Take(ctx, "none", "o", 1, nil); !errors.Is(err, stock.ErrUnknownSKU) {
		t.Errorf("Take: %v", err)
	}
	for what, err := range map[string]error{
		"none":       errOf(s.Take(ctx, "a", "o", 0, nil)),
		"minus one":  errOf(s.Take(ctx, "a", "o", -1, nil)),
		"no order":   errOf(s.Take(ctx, "a", "", 1, nil)),
		"a path":     errOf(s.Take(ctx, "a/b", "o", 1, nil)),
		"no restock": errOf(s.Restock(ctx, "a", "r", 0)),
	} {
		if err == nil {
			t.Errorf("%s: got no error", what)
		}
	}
	if left := conserved(t, s, "a"); left.Available != 1 {
		t.Errorf("%d left", left.Available)
	}
}

func errOf(_ stock.Level, err error) error { return err }

// BenchmarkTake takes one order's units without rivals.
func BenchmarkTake(b *testing.B) {
	s := newStore(b)
	create(b, s, "a", int64(b.N)+1_000_000)
	n := 0
	for b.Loop() {
		n++
		if _, err := s.Take(b.Context(), "a", fmt.Sprint(n), 1, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// lateKV delays its first write: the caller gets no answer, and arrive sends it to the
// server.
type lateKV struct {
	clientv3.KV
	arrive func() (*clientv3.TxnResponse, error)
}

type lateTxn struct {
	clientv3.Txn
	kv     *lateKV
	writes bool
}

func (kv *lateKV) Txn(ctx context.Context) clientv3.Txn {
	return &lateTxn{Txn: kv.KV.Txn(context.WithoutCancel(ctx)), kv: kv}
}

func (t *lateTxn) If(c ...clientv3.Cmp) clientv3.Txn  { t.Txn = t.Txn.If(c...); return t }
func (t *lateTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }

func (t *lateTxn) Then(o ...clientv3.Op) clientv3.Txn {
	t.writes = slices.ContainsFunc(o, clientv3.Op.IsPut)
	t.Txn = t.Txn.Then(o...)
	return t
}

func (t *lateTxn) Commit() (*clientv3.TxnResponse, error) {
	if !t.writes || t.kv.arrive != nil {
		return t.Txn.Commit()
	}
	t.kv.arrive = t.Txn.Commit
	return nil, context.DeadlineExceeded
}

// A Take without an answer arrives after GiveBack: it takes no units.
func TestLateTakeTakesNothing(t *testing.T) {
	late := &lateKV{}
	s := newStore(t)
	create(t, s, "a", 3)
	slow := newStore(t)
	late.KV = slow.Client.KV
	slow.Client.KV = late
	if _, err := slow.Take(t.Context(), "a", "o1", 2, nil); err == nil {
		t.Fatal("the Take was answered")
	}
	if _, err := slow.GiveBack(t.Context(), "a", "o1"); !errors.Is(err, etcdstock.ErrNotTaken) {
		t.Errorf("got %v, want %v", err, etcdstock.ErrNotTaken)
	}
	if answer, err := late.arrive(); err != nil || answer.Succeeded {
		t.Errorf("the late Take: %+v, %v; want it to fail", answer, err)
	}
	if left := conserved(t, s, "a"); left.Available != 3 {
		t.Errorf("%d left of 3", left.Available)
	}
}
