package order

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
	"flashsale/internal/strategy"
)

// Config is what a Service is made of. Everything in it is required unless its
// comment says otherwise.
type Config struct {
	DB       *stock.DB
	Strategy strategy.Strategy
	// Fence is what MySQL does with the lock's tokens; off without tokens.
	Fence strategy.Fence
	// Locker is the strategy's lock, nil where it has none. The Service does
	// not close it.
	Locker lock.Locker
	// Units are the stock in etcd, for the strategy that keeps it there.
	Units *etcdstock.Store
	// PaymentWindow is how long an order stays reserved without payment.
	PaymentWindow time.Duration
	// ThinkTime is a pause between reading and writing stock. Optional, lab only.
	ThinkTime time.Duration
	// RequestTimeout bounds one order from its arrival to its answer.
	RequestTimeout time.Duration
	// Desk tunes the desks of a batched strategy. The zero value is the default.
	Desk DeskConfig
	// Mirror is told of changes of stock. Optional, for a batched strategy only:
	// what others leave in the row need not be what they sold.
	Mirror Mirror
	// Forwarding takes orders to the replica that sells their SKU, for a batched
	// strategy whose lock tells who that is. Without it replicas take turns.
	Forwarding *Forwarding
	// Halted says why no stock may be written any more: an error that orders and
	// changes are answered with, or nil. It is called for each of them. Payments,
	// which change no stock, go on. Optional.
	Halted func() error
	// Tracer makes spans of orders whose requests are traced; nil makes none.
	Tracer trace.Tracer
	// Metrics may be nil.
	Metrics *Metrics
	Logger  *slog.Logger
	// At, when set, is called as an order's path reaches each Step: tests stop
	// the process there.
	At func(Step)
}

// Mirror is the copy of stock that every replica watches.
type Mirror interface {
	// Changed says that a write to the SKU's stock was committed. It never waits.
	Changed(sku string, available int64)
	// Await waits until the mirror shows the SKU at seq or later.
	Await(ctx context.Context, sku string, seq uint64) error
}

// noMirror shows nothing.
type noMirror struct{}

func (noMirror) Changed(string, int64)                       {}
func (noMirror) Await(context.Context, string, uint64) error { return nil }

// Step is a place in the path of an order at which a process may stop.
type Step string

// The steps of a desk's path, and the one of an order's without a desk: it has
// read the stock, looked at its lock for the last time, and has not yet written.
const (
	BeforeClaim  Step = "before-claim"
	BeforeCommit Step = "before-commit"
	BeforeWrite  Step = "before-write"
)

// Service takes orders under one strategy. It is safe for concurrent use.
type Service struct {
	cfg    Config
	seller seller
	known  sync.Map // SKU -> struct{}: those that are known to exist
}

// seller is one way to take orders.
type seller interface {
	// sell takes an order for a SKU that exists, within ctx and the request
	// timeout.
	sell(ctx context.Context, r Request) (Placed, error)
	// alter makes a change of sku's row, where no tenure remembers the row as it
	// was before, within ctx and the request timeout. Its error is one of this
	// package's: ErrUnknown says that the change may have been made, or may be yet.
	alter(ctx context.Context, sku string, c change) error
	// close ends what runs between orders, after the last sell was answered or
	// at ctx's end.
	close(ctx context.Context) error
}

// New makes a Service. Close it to give back what it holds.
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
	s := &Service{cfg: cfg}
	if cfg.Strategy.Write == strategy.Batch {
		s.seller = newDesks(&s.cfg)
	} else {
		s.seller = newDirect(&s.cfg)
	}
	return s
}

// Place takes an order, or refuses it with one of this package's errors or
// stock.ErrUnknownSKU. It returns within the request timeout, or at ctx's end.
// After ErrUnknown the order may stand; after any other error it does not.
func (s *Service) Place(ctx context.Context, r Request) (Placed, error) {
	if _, known := s.known.Load(r.SKU); !known {
		// Once a SKU. What it takes is of the order's own time.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.RequestTimeout)
		defer cancel()
		err := s.exists(ctx, r.SKU)
		if errors.Is(err, stock.ErrUnknownSKU) {
			placed, err := s.cfg.replay(ctx, &r, err) // the key may stand with another SKU
			return placed, classify(err)
		}
		if err != nil {
			return Placed{}, err
		}
	}
	placed, err := s.seller.sell(ctx, r)
	switch {
	case err != nil:
	case placed.Replayed:
		s.cfg.Metrics.Replayed.Inc()
	default:
		s.cfg.Metrics.Placed.Inc()
	}
	return placed, err
}

// exists keeps names of no SKU away from locks and desks, which would otherwise
// be made for anything that a stranger sends. SKUs are never deleted.
func (s *Service) exists(ctx context.Context, sku string) error {
	_, err := s.cfg.DB.Get(ctx, sku)
	switch {
	case err == nil:
		s.known.Store(sku, struct{}{})
		return nil
	case errors.Is(err, stock.ErrUnknownSKU):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Precondition is what must hold of a SKU for a PutSKU to change it. The zero
// value asks for nothing.
type Precondition struct {
	// Revision, if not nil, must be the SKU's.
	Revision *uint64
	// Exists and Absent: there must be, or must not yet be, such a SKU.
	Exists, Absent bool
}

// PutSKU creates the SKU, or changes what may be changed of one that exists: its
// name, price, limit and window. Units count on creation only. It returns the
// row as it then stands, and whether it was created; where the precondition does
// not hold, ErrPrecondition, and nothing was changed.
func (s *Service) PutSKU(ctx context.Context, want stock.Stock, only Precondition) (got stock.Stock, created bool, err error) {
	if err := s.cfg.Halted(); err != nil {
		return got, false, err
	}
	if !only.Exists && only.Revision == nil {
		if created, err = s.cfg.DB.Create(ctx, want); err != nil {
			return got, false, written(err)
		}
	}
	if !created {
		if only.Absent {
			return got, false, ErrPrecondition
		}
		if err := s.changeSKU(ctx, want, only.Revision); err != nil {
			return got, false, err
		}
	}
	if got, err = s.cfg.DB.Get(ctx, want.SKU); err != nil {
		return got, created, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if err := s.cfg.putUnits(ctx, got); err != nil {
		return got, created, err
	}
	s.cfg.Mirror.Changed(got.SKU, got.Available)
	s.cfg.awaitMirror(ctx, got.SKU, got.Seq)
	return got, created, nil
}

// awaitMirror waits a moment for a change to be seen: whoever has put or restocked
// a SKU reads it next. The mirror of a replica that cannot keep it up to date
// answers nothing, so that there is nothing to wait for.
func (cfg *Config) awaitMirror(ctx context.Context, sku string, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, mirrorWait)
	defer cancel()
	_ = cfg.Mirror.Await(ctx, sku, seq)
}

// changeSKU changes a SKU that must exist.
func (s *Service) changeSKU(ctx context.Context, want stock.Stock, revision *uint64) error {
	// Names of no SKU are kept away from the desks.
	if _, err := s.cfg.DB.Get(ctx, want.SKU); errors.Is(err, stock.ErrUnknownSKU) {
		return ErrPrecondition
	} else if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return s.seller.alter(ctx, want.SKU, change{write: func(ctx context.Context) error {
		changed, err := s.cfg.DB.Change(ctx, want, revision)
		if err == nil && !changed {
			return ErrPrecondition
		}
		return written(err)
	}})
}

// written says of a failed statement, which commits by itself, whether it was
// not applied, or whether nobody knows.
func written(err error) error {
	if err == nil || stock.IsServerError(err) || notSent(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// trouble is written, as a caller is told.
func trouble(err error) error {
	if err = written(err); err == nil || errors.Is(err, ErrUnknown) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// notSent reports whether the server was not asked, or takes no writes.
func notSent(err error) bool {
	return errors.Is(err, stock.ErrNoConnection) || errors.Is(err, driver.ErrBadConn) || stock.IsReadOnly(err)
}

// mirrorWait is many times what an entry takes to come back from etcd.
const mirrorWait = 200 * time.Millisecond

// Find reads one order of a customer, or returns ErrNotFound.
func (s *Service) Find(ctx context.Context, customer string, id ID) (Order, error) {
	return find(ctx, s.cfg.DB, customer, id)
}

// Close sells what has been handed in, within ctx, and gives every lock back.
// Later orders are refused with ErrUnavailable.
func (s *Service) Close(ctx context.Context) error { return s.seller.close(ctx) }

// SetQuantum changes DeskConfig.Quantum from the next batch on. It is safe at any
// time, and without effect where there are no desks.
func (s *Service) SetQuantum(d time.Duration) {
	if ds, ok := s.seller.(*desks); ok {
		ds.setQuantum(d)
	}
}

// onSale refuses what comes before or after the SKU's sale, and what is not to be
// had at the price that r says.
func onSale(row *stock.Row, now time.Time, r *Request) error {
	switch row.Open(now) {
	case -1:
		return ErrNotOpen
	case 1:
		return ErrOver
	}
	if r.PriceCents != nil && *r.PriceCents != row.PriceCents || r.Currency != "" && r.Currency != row.Currency {
		return ErrPriceChanged
	}
	return nil
}

// short is the refusal when fewer units are left than were asked for.
func short(available int64) error {
	if available <= 0 {
		return ErrSoldOut
	}
	return ErrInsufficient
}

// newID makes an ID that sorts behind those before it. Only a system without
// randomness could fail to, and nothing is safe on that.
func newID() ID { return uuid.Must(uuid.NewV7()) }

// makeOrder is the order that r becomes on row, at now by the database's clock.
func (cfg *Config) makeOrder(r *Request, id ID, row *stock.Row, now time.Time, fence lock.Token) Order {
	now = now.UTC().Truncate(time.Microsecond) // what a DATETIME(6) keeps
	o := Order{
		ID: id, SKU: r.SKU, Customer: r.Customer, Key: r.Key, Fingerprint: r.Fingerprint(), Quantity: r.Quantity,
		PriceCents: row.PriceCents, Currency: row.Currency, Limit: row.PerCustomerLimit,
		Fence: uint64(fence), Seq: row.Seq, CreatedAt: now, ExpiresAt: now.Add(cfg.PaymentWindow),
	}
	o.asMade()
	return o
}

// replay looks for the order that stands under r's key, and returns reason where
// there is none: a replay comes before every refusal.
func (cfg *Config) replay(ctx context.Context, r *Request, reason error) (Placed, error) {
	key := byKey{r.Customer, r.Key}
	var found map[byKey]Order
	err := cfg.DB.OnConn(ctx, func(conn *sql.Conn) (err error) {
		found, err = findByKeys(ctx, conn, []byKey{key})
		return err
	})
	if err != nil {
		return Placed{}, err
	}
	if o, ok := found[key]; ok {
		return replayOf(o, r)
	}
	return Placed{}, reason
}

// replayOf answers r with the order that stands under its key, as it was made:
// the first answer again, whatever has become of the order since.
func replayOf(o Order, r *Request) (Placed, error) {
	if o.Fingerprint != r.Fingerprint() {
		return Placed{}, ErrKeyReused
	}
	o.asMade()
	return Placed{Order: o, Replayed: o.ID != r.id}, nil
}
