// Package zombie stops the holder of a lock between its read of the stock and its write,
// until its lease has expired and another holder sells. Then it resumes the first holder.
// It does so with every kind of lock and every fence, on the service's own order path, and
// counts the harm.
//
// A run stops two orders of two SKUs at the same time, as a stale write does harm in two
// ways:
//
//	after   A reads, A stops; B takes over and sells out; A overwrites B's write
//	amid    A reads, A stops; B takes over, B reads; A writes; B overwrites A's write
//
// A fence that is compared at the write refuses the first write of A but not the second:
// MySQL does not know B's token before B has written. A fence that is claimed before the
// read refuses both.
package zombie

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/backend"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// Config holds the settings of one run.
type Config struct {
	Strategy strategy.Strategy
	Fence    strategy.Fence
	// Name is the start of the names of the run's SKUs and locks.
	Name string
	// Servers has the lock server. DSN is an empty database for this run only.
	Servers backend.Servers
	DSN     string
	// Argv is the command of a process that calls Serve.
	Argv []string
}

// Result is the outcome of a run.
type Result struct {
	Strategy string         `json:"strategy"`
	Fence    strategy.Fence `json:"fence"`
	// TwoHolders is how long both processes believed that they held the lock.
	TwoHolders time.Duration `json:"two_holders_ns"`
	// TakeOver is how long after the stop the second process got the lock.
	TakeOver time.Duration `json:"take_over_ns"`
	// After and Amid are the harm of the two kinds of stale writes.
	After Harm `json:"after"`
	Amid  Harm `json:"amid"`
}

// Harm is what a stale write did to a SKU.
type Harm struct {
	// Lost is the units of updates that were overwritten; they could be sold again.
	Lost int64 `json:"lost_updates"`
	// Oversold is the units sold beyond those on sale.
	Oversold int64 `json:"units_oversold"`
}

// Oversold returns the units oversold of both SKUs.
func (r *Result) Oversold() int64 { return r.After.Oversold + r.Amid.Oversold }

const (
	// TTL is the shortest lease that every server grants.
	TTL = 2 * time.Second
	// units are on sale of each SKU.
	units = 3
	// tryPause is the pause between two orders while the lock is held.
	tryPause = 100 * time.Millisecond
)

func (c *Config) after() string { return c.Name + "-after" }
func (c *Config) amid() string  { return c.Name + "-amid" }

// Run makes one run. It takes the time of the lease and a second or two.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	result = Result{Strategy: cfg.Strategy.Name, Fence: cfg.Strategy.FenceFor(cfg.Fence)}
	db, err := stock.Open(cfg.DSN, 2)
	if err != nil {
		return result, err
	}
	defer func() { _ = db.Close() }()
	if err := db.Migrate(ctx); err != nil {
		return result, err
	}
	for _, sku := range []string{cfg.after(), cfg.amid()} {
		if _, err := db.Create(ctx, stock.Stock{SKU: sku, Name: sku, Currency: "EUR", Units: units}); err != nil {
			return result, err
		}
	}
	r := &run{Config: cfg, db: db, result: &result}
	defer func() { err = errors.Join(err, r.end()) }()
	if err := r.start(ctx); err != nil {
		return result, err
	}
	return result, r.play(ctx)
}

type run struct {
	Config
	db     *stock.DB
	result *Result
	a, b   *process
	orders int // sent to b
}

func (r *run) start(ctx context.Context) error {
	var group errgroup.Group
	for _, one := range []struct {
		name string
		p    **process
	}{{"a", &r.a}, {"b", &r.b}} {
		group.Go(func() (err error) {
			*one.p, err = spawn(ctx, r.Argv, holderConfig{
				Strategy: r.Strategy.Name, Fence: r.Fence, Servers: r.Servers, DSN: r.DSN, Name: one.name, TTL: TTL,
			})
			return err
		})
	}
	return group.Wait()
}

func (r *run) end() error {
	var errs []error
	for _, p := range []*process{r.a, r.b} {
		if p != nil {
			errs = append(errs, p.end())
		}
	}
	return errors.Join(errs...)
}

func (r *run) play(ctx context.Context) error {
	// A reads both SKUs and stops before it writes.
	for i, sku := range []string{r.after(), r.amid()} {
		if err := r.a.send(command{Order: i + 1, SKU: sku, Hold: true}); err != nil {
			return err
		}
	}
	if _, err := r.a.await(ctx, 2, func(e event) bool { return e.Kind == reached }); err != nil {
		return err
	}
	if err := r.a.Pause(ctx); err != nil {
		return err
	}
	stopped := time.Now()
	// B gets both locks. It reads the stock of one SKU and waits; it sells out the other.
	waiting, err := r.holdB(ctx)
	if err != nil {
		return err
	}
	if err := r.sellOut(ctx, r.after()); err != nil {
		return err
	}
	in, err := r.b.await(ctx, 1, on(granted, r.after()))
	if err != nil {
		return err
	}
	r.result.TakeOver = in.At.Sub(stopped)
	// A resumes and writes from its old read.
	if err := errors.Join(r.a.resume(), r.a.send(command{Go: true})); err != nil {
		return err
	}
	var out event
	for _, sku := range []string{r.amid(), r.after()} { // each of A's writes was made or refused
		if out, err = r.a.await(ctx, 1, on(ended, sku)); err != nil {
			return err
		}
	}
	r.result.TwoHolders = max(0, out.At.Sub(in.At))
	if err := r.b.send(command{Go: true}); err != nil {
		return err
	}
	for _, order := range []int{1, 2} {
		if _, err := r.a.await(ctx, 1, answerTo(order)); err != nil {
			return err
		}
	}
	if _, err := r.b.await(ctx, 1, answerTo(waiting)); err != nil {
		return err
	}
	return r.settle(ctx)
}

// holdB makes B read amid's stock once it gets the lock. It returns the waiting order.
func (r *run) holdB(ctx context.Context) (order int, err error) {
	if err := r.b.send(command{Hold: true}); err != nil {
		return 0, err
	}
	for {
		e, err := r.orderAtB(ctx, r.amid(), func(e event) bool { return e.Kind == reached || answerTo(r.orders)(e) })
		if err != nil || e.Kind == reached {
			return r.orders, err
		}
		if err := sleep.For(ctx, tryPause); err != nil { // the lock was still A's
			return 0, err
		}
	}
}

func (r *run) orderAtB(ctx context.Context, sku string, match func(event) bool) (event, error) {
	r.orders++
	if err := r.b.send(command{Order: r.orders, SKU: sku}); err != nil {
		return event{}, err
	}
	return r.b.await(ctx, 1, match)
}

func (r *run) sellOut(ctx context.Context, sku string) error {
	began := time.Now()
	for {
		e, err := r.orderAtB(ctx, sku, func(e event) bool { return answerTo(r.orders)(e) })
		switch {
		case err != nil:
			return err
		case e.Error == soldOut:
			return nil
		case e.Error != "" && time.Since(began) > stepTimeout:
			return fmt.Errorf("holder b cannot sell %s: %s", sku, e.Error)
		case e.Error != "":
			if err := sleep.For(ctx, tryPause); err != nil {
				return err
			}
		}
	}
}

// settle sells what seems to be left, and counts the harm.
func (r *run) settle(ctx context.Context) error {
	harms := map[string]*Harm{r.after(): &r.result.After, r.amid(): &r.result.Amid}
	if err := r.count(ctx, func(b stock.Balance) { harms[b.SKU].Lost = max(0, b.Available+b.Reserved-b.Units) }); err != nil {
		return err
	}
	for sku := range harms {
		if err := r.sellOut(ctx, sku); err != nil {
			return err
		}
	}
	return r.count(ctx, func(b stock.Balance) { harms[b.SKU].Oversold = b.Oversold })
}

func (r *run) count(ctx context.Context, each func(stock.Balance)) error {
	report, err := stock.Audit(ctx, r.db)
	if err != nil {
		return err
	}
	for _, b := range report.SKUs {
		each(b)
	}
	return nil
}
