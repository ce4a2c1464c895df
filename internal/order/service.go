package order

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/lock"
	"flashsale/internal/record"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
	"flashsale/internal/strategy"
)

// Config configures a Service. A field is required unless its comment says otherwise.
type Config struct {
	DB             *stock.DB
	Strategy       strategy.Strategy
	Fence          strategy.Fence   // how MySQL checks the lock's tokens; off for a lock without tokens
	Locker         lock.Locker      // nil if the strategy has no lock; the Service does not close it
	Units          *etcdstock.Store // the stock in etcd, for strategy etcd-cas only
	PaymentWindow  time.Duration    // how long an order stays reserved without payment
	MaxUnpaid      int              // bounds the reserved orders of a customer, over all SKUs; 0 is no limit
	ThinkTime      time.Duration    // a pause between reading and writing stock; optional, for the lab
	RequestTimeout time.Duration    // bounds one order from its arrival to its answer
	Desk           DeskConfig       // of a batched strategy
	// Mirror is notified of changes of stock. Optional, and only for a batched
	// strategy: under the others the row may differ from what was sold.
	Mirror Mirror
	// Forwarding sends orders to the replica that sells their SKU. Optional, for a
	// batched strategy whose lock knows its holder. Without it replicas take turns.
	Forwarding *Forwarding
	// Halted returns nil while this replica may write stock, and after that the error
	// with which orders and changes are refused. Payments continue, because they
	// change no stock. Optional.
	Halted  func() error
	Tracer  trace.Tracer // creates the spans of traced requests; optional
	Metrics *Metrics     // optional
	Logger  *slog.Logger
	Steps   *record.Recorder // records what is done to each order; optional
	// At is called when an order reaches a Step. Tests stop the process there, and the race
	// lab the order. Optional.
	At func(Step)

	database database // made from DB if it is nil
	// yield is called before each step of a desk, and of a caller's request. A simulation
	// delays them, so that no two act at the same moment.
	yield func(ctx context.Context, sku string)
}

// Mirror is the copy of stock that every replica watches.
type Mirror interface {
	// Changed announces a committed write to the SKU's stock. It never blocks.
	Changed(sku string, available int64)
	// Await waits until the mirror shows the SKU at seq or later.
	Await(ctx context.Context, sku string, seq uint64) error
}

type noMirror struct{}

func (noMirror) Changed(string, int64)                       {}
func (noMirror) Await(context.Context, string, uint64) error { return nil }

// Step is a point in the path of an order at which it can be stopped.
type Step string

// The steps. A desk has only those before lock, claim, write and commit, for many orders.
const (
	BeforeLock   Step = "before-lock"   // the lock is not asked for
	BeforeClaim  Step = "before-claim"  // the lock is held; the token is not in MySQL
	BeforeRead   Step = "before-read"   // of an order without a claim
	BeforeWrite  Step = "before-write"  // the row is read, the lock is checked; nothing is decided or written
	BeforeCommit Step = "before-commit" // of a desk: the batch is decided; of other orders: row and order are written
	BeforeUnlock Step = "before-unlock" // the order is committed or refused
	BeforeAnswer Step = "before-answer"
)

// Service takes orders under one strategy. It is safe for concurrent use.
type Service struct {
	cfg    Config
	seller seller
	units  unitStore
	listed sync.Map // SKU -> struct{}: those that were found to be listed, and so are no secret
}

// seller is how a strategy sells: through desks in batches, directly in one
// transaction per order, or from stock in etcd.
type seller interface {
	// sell takes an order for a SKU that is or was listed, within ctx and the request timeout.
	sell(ctx context.Context, r Request) (Placed, error)
	// alter applies a change to the SKU's row so that no tenure keeps using an
	// older copy of the row. It ends within ctx and the request timeout, with an
	// error of this package. After ErrUnknown the change may have been applied, or
	// may still be.
	alter(ctx context.Context, sku string, c change) error
	// close ends the background work, after the last sell or at the end of ctx.
	close(ctx context.Context) error
}

// unitStore is a second store of units, which is kept in step with MySQL. Repeating
// a call has no further effect.
type unitStore interface {
	// put adds the units of a SKU that the store does not have yet.
	put(ctx context.Context, s stock.Stock) error
	// restockable refuses a SKU that the store does not have.
	restockable(ctx context.Context, sku string) error
	restock(ctx context.Context, r *Restock) error
	// giveBack returns the units of those orders that were cancelled or have expired.
	giveBack(ctx context.Context, sku string, ids []ID) error
	// repair returns units that a crashed replica did not give back.
	repair(ctx context.Context) error
}

// noUnits is the unitStore of strategies that keep all stock in MySQL.
type noUnits struct{}

func (noUnits) put(context.Context, stock.Stock) error       { return nil }
func (noUnits) restockable(context.Context, string) error    { return nil }
func (noUnits) restock(context.Context, *Restock) error      { return nil }
func (noUnits) giveBack(context.Context, string, []ID) error { return nil }
func (noUnits) repair(context.Context) error                 { return nil }

// New makes a Service. Close it to release what it holds.
func New(cfg Config) *Service {
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	if cfg.Mirror == nil {
		cfg.Mirror = noMirror{}
	}
	if cfg.Halted == nil {
		cfg.Halted = func() error { return nil }
	}
	if cfg.At == nil {
		cfg.At = func(Step) {}
	}
	if cfg.database == nil {
		cfg.database = inMySQL{cfg.DB}
	}
	if cfg.yield == nil {
		cfg.yield = func(context.Context, string) {}
	}
	s := &Service{cfg: cfg, units: noUnits{}}
	switch {
	case cfg.Strategy.Write == strategy.Batch:
		s.seller = newDesks(&s.cfg)
	case cfg.Units != nil:
		e := newEtcdCAS(&s.cfg)
		s.seller, s.units = e, e
	default:
		s.seller = newDirect(&s.cfg)
	}
	return s
}

// Place takes an order, or refuses it with one of this package's errors or
// stock.ErrUnknownSKU. It returns within the request timeout, or at ctx's end.
// After ErrUnknown the order may exist; after any other error it does not.
func (s *Service) Place(ctx context.Context, r Request) (Placed, error) {
	s.cfg.note(record.Arrived, r.SKU, &r, 0, nil)
	placed, err := s.place(ctx, r)
	s.cfg.At(BeforeAnswer)
	s.cfg.noteAnswer(&r, &placed, err)
	return placed, err
}

func (s *Service) place(ctx context.Context, r Request) (Placed, error) {
	if _, ok := s.listed.Load(r.SKU); !ok {
		// The first look-up of a SKU counts towards the order's time.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
		err := s.isListed(ctx, r.SKU)
		if errors.Is(err, stock.ErrUnknownSKU) {
			placed, err := replayOr(ctx, s.cfg.database, &r, err) // the key may belong to an order of another SKU
			return placed, domainError(err)
		}
		if err != nil {
			return Placed{}, err
		}
	}
	placed, err := s.seller.sell(ctx, r)
	if err == nil && placed.Replayed {
		s.cfg.Metrics.Replayed.Inc()
	} else if err == nil {
		s.cfg.Metrics.Placed.Inc()
	}
	return placed, err
}

// isListed looks a SKU up in MySQL, so that clients cannot create a lock and a desk for any
// name, and cannot tell a secret SKU from a name without one: its seller would refuse the
// order likewise, but not while etcd is down or the desk is full. isListed remembers the SKU.
// If it is no longer listed later, its seller refuses the order.
func (s *Service) isListed(ctx context.Context, sku string) error {
	if err := s.cfg.database.listed(ctx, sku); err != nil {
		return domainError(err)
	}
	s.listed.Store(sku, struct{}{})
	return nil
}

func (db inMySQL) listed(ctx context.Context, sku string) error {
	_, err := stock.Catalog{DB: db.DB}.Get(ctx, sku)
	return err
}

// Close sells what is already waiting, within ctx, and releases every lock. Later
// orders are refused with ErrUnavailable.
func (s *Service) Close(ctx context.Context) error { return s.seller.close(ctx) }

// SetQuantum changes DeskConfig.Quantum from the next batch on. It may be called at
// any time, and does nothing under a strategy without desks.
func (s *Service) SetQuantum(d time.Duration) {
	if ds, ok := s.seller.(*desks); ok {
		ds.quantum.Store(int64(d))
	}
}

// Forwarded counts the orders that other replicas have not answered yet, by their address.
func (s *Service) Forwarded() map[string]int {
	ds, ok := s.seller.(*desks)
	if !ok || ds.links == nil {
		return nil
	}
	return ds.links.UnderWay()
}
