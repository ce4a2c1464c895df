package order_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// listener is a mirror that hears of changes.
type listener struct{ told atomic.Int32 }

func (*listener) SoldOut(context.Context, string, string, string) bool { return false }
func (l *listener) Changed(string, int64)                              { l.told.Add(1) }
func (*listener) Await(context.Context, string, uint64) error          { return nil }
func (*listener) Shown(context.Context, string, uint64) error          { return nil }

// lastGrant is a lock that shows its last grant.
type lastGrant struct {
	lock.Locker
	held lock.Held
}

func (l *lastGrant) Lock(ctx context.Context, name string) (held lock.Held, err error) {
	held, err = l.Locker.Lock(ctx, name)
	l.held = held
	return held, err
}

// The batch that admits the next holder loses its answer. It was written, and
// what it has sold is known: the row is the next holder's, and not asked for.
func TestLostCommitThatAdmittedTheNextHolder(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 1})
	next := startReplica(t, options{dsn: dsn, strategy: "etcd"})
	w := newWire(loseReply, "COMMIT")
	r, err := newReplica(options{dsn: w.dsn(dsn), etcd: servers.EtcdEndpoints(), strategy: "etcd", fence: strategy.FenceClaim})
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
	row, err := strategy.Find("etcd")
	if err != nil {
		t.Fatal(err)
	}
	mirror, metrics := &listener{}, order.NewMetrics(nil)
	locks := &lastGrant{Locker: r.locker}
	refused := make(chan error, 1)
	var asked atomic.Bool
	service := order.New(order.Config{
		DB: r.db, Strategy: row, Fence: strategy.FenceClaim, Locker: locks, PaymentWindow: time.Minute, RequestTimeout: testTimeout,
		Desk: order.DeskConfig{Least: 1}, Mirror: mirror, Metrics: metrics, Logger: slog.New(slog.DiscardHandler),
		At: func(s order.Step) {
			if s != order.BeforeCommit || asked.Swap(true) {
				return
			}
			go func() { _, err := next.Place(t.Context(), buy("ben", "k", 1)); refused <- err }()
			<-locks.held.Wanted() // Lock has returned before this step
		},
	})
	if placed, err := service.Place(t.Context(), buy("ann", "k", 1)); err != nil || placed.Replayed {
		t.Errorf("got %+v, %v; want the order", placed, err)
	}
	if err := <-refused; err == nil {
		t.Error("the only unit was sold twice")
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := service.Close(ctx); err != nil {
		t.Error(err)
	}
	if mirror.told.Load() == 0 {
		t.Error("the mirror was not told of the sale")
	}
	var fenced dto.Metric
	if err := metrics.Fenced.Write(&fenced); err != nil || fenced.GetCounter().GetValue() != 0 {
		t.Errorf("%v refusals of the fence, of none but ourselves; error %v", fenced.GetCounter().GetValue(), err)
	}
	audit(t, dsn)
}
