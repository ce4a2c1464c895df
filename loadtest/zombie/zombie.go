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
	r := &run{Config: cfg, ctx: ctx, db: db, result: &result}
	defer func() { err = errors.Join(err, r.end()) }()
	if err := r.start(ctx); err != nil {
		return result, err
	}
	r.play()
	return result, r.err
}

type run struct {
	Config
	ctx    context.Context
	err    error // the first error; no step is taken after it
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

func (r *run) send(p *process, c command) { r.try(func() error { return p.send(c) }) }

func (r *run) await(p *process, n int, match func(event) bool) (e event) {
	r.try(func() (err error) { e, err = p.await(r.ctx, n, match); return err })
	return e
}

func (r *run) try(step func() error) {
	if r.err == nil {
		r.err = step()
	}
}

func (r *run) play() {
	// A reads both SKUs and stops before it writes.
	for i, sku := range []string{r.after(), r.amid()} {
		r.send(r.a, command{Order: i + 1, SKU: sku, Hold: true})
	}
	r.await(r.a, 2, func(e event) bool { return e.Kind == reached })
	r.try(func() error { return r.a.Pause(r.ctx) })
	stopped := time.Now()
	// B gets both locks. It reads the stock of one SKU and waits; it sells out the other.
	waiting := r.holdB()
	r.sellOut(r.after())
	in := r.await(r.b, 1, on(granted, r.after()))
	r.result.TakeOver = in.At.Sub(stopped)
	// A resumes and writes from its old read.
	r.try(r.a.resume)
	r.send(r.a, command{Go: true})
	var out event
	for _, sku := range []string{r.amid(), r.after()} { // each of A's writes was made or refused
		out = r.await(r.a, 1, on(ended, sku))
	}
	r.result.TwoHolders = max(0, out.At.Sub(in.At))
	r.send(r.b, command{Go: true})
	r.await(r.a, 1, answerTo(1))
	r.await(r.a, 1, answerTo(2))
	r.await(r.b, 1, answerTo(waiting))
	r.settle()
}

// holdB makes B read amid's stock once it gets the lock. It returns the waiting order.
func (r *run) holdB() (order int) {
	r.send(r.b, command{Hold: true})
	for {
		e := r.orderAtB(r.amid(), func(e event) bool { return e.Kind == reached || answerTo(r.orders)(e) })
		if r.err != nil || e.Kind == reached {
			return r.orders
		}
		r.pause() // the lock was still A's
	}
}

func (r *run) orderAtB(sku string, match func(event) bool) event {
	r.orders++
	r.send(r.b, command{Order: r.orders, SKU: sku})
	return r.await(r.b, 1, match)
}

func (r *run) pause() { r.try(func() error { return sleep.For(r.ctx, tryPause) }) }

func (r *run) sellOut(sku string) {
	began := time.Now()
	for {
		e := r.orderAtB(sku, func(e event) bool { return answerTo(r.orders)(e) })
		switch {
		case r.err != nil || e.Error == soldOut:
			return
		case e.Error != "" && time.Since(began) > stepTimeout:
			r.err = fmt.Errorf("holder b cannot sell %s: %s", sku, e.Error)
		case e.Error != "":
			r.pause()
		}
	}
}

// settle sells what seems to be left, and counts the harm.
func (r *run) settle() {
	harms := map[string]*Harm{r.after(): &r.result.After, r.amid(): &r.result.Amid}
	r.count(func(b stock.Balance) { harms[b.SKU].Lost = max(0, b.Available+b.Reserved-b.Units) })
	for sku := range harms {
		r.sellOut(sku)
	}
	r.count(func(b stock.Balance) { harms[b.SKU].Oversold = b.Oversold })
}

func (r *run) count(each func(stock.Balance)) {
	r.try(func() error {
		report, err := stock.Audit(r.ctx, r.db)
		for _, b := range report.SKUs {
			each(b)
		}
		return err
	})
}
