package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/history"
)

// Config holds the settings of one run.
type Config struct {
	Scenario *Scenario
	// API is the service's program. ClockAPI is one whose wall clock jumps at SIGUSR1 and
	// back at SIGUSR2, for a scenario with clocks.
	API, ClockAPI string
	// EtcdProgram is that of sandbox.Config.
	EtcdProgram []string
	Database    sandbox.Product
	Network     sandbox.NetworkKind
	LockTTL     time.Duration
	// Rate is the orders a second for the hot SKU, Buyers bounds those under way, and Mixed
	// is the calls a second on small SKUs.
	Rate, Buyers, Mixed int
	// Seed determines customers, keys and quantities, which replica sells when the fault
	// comes, and the sequence of chaos.
	Seed uint64
	// Chaos is how long a random sequence of faults lasts.
	Chaos time.Duration
	// Visual is the folder for drawings of histories that are not linearizable.
	Visual string
}

const (
	// attempts bounds how often a fault is made again because it would have hit, or has
	// hit, another state than it was meant for. A busy machine may pause a seller for
	// longer than its successor waits.
	attempts = 20
	// units are more than a run can sell.
	units       = 1_000_000_000
	maxQuantity = 2
	// warmSales is the least number of sales before the fault: links and connections exist
	// by then.
	warmSales = 100
	// moment is the least time between the first sales and the fault. Up to as much is
	// added at random, so that the fault hits every phase of a tick.
	moment = 300 * time.Millisecond
	// aftermath is how long the load continues after the recovery: a seller that was
	// stopped has then tried to continue.
	aftermath = 2 * time.Second
	// sample is how long orders are counted at the end of the aftermath, and while a fault
	// halts the sale.
	sample = 500 * time.Millisecond
	// poll is the pause between two looks at the number of sales.
	poll = 2 * time.Millisecond
	// tryPause is the pause between two orders at a replica that does not sell.
	tryPause = 50 * time.Millisecond
	// patience bounds the wait for orders: while the fault lasts, and after it has ended.
	patience = 60 * time.Second
	// margin bounds whatever else a run does.
	margin = 4 * time.Minute
)

// Run makes one run. An error means that it could not be made; what is wrong with the
// service is in the Result.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithTimeout(ctx, cfg.Scenario.duration(cfg.LockTTL)+cfg.Chaos+margin)
	defer cancel()
	result = Result{
		Name: cfg.Scenario.Name, Injected: cfg.Scenario.Injects, Seed: cfg.Seed, Violations: []string{}, BoundMS: ms(cfg.Scenario.Recovers(cfg.LockTTL)),
	}
	w, err := startWorld(ctx, &cfg)
	if err != nil {
		return result, fmt.Errorf("%s: %w", cfg.Scenario.Name, err)
	}
	r := &run{
		Config: cfg, Scenario: *cfg.Scenario, world: w, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), timeline: newTimeline(), successful: map[history.Kind]time.Time{},
		result: result,
	}
	r.result.Database = w.stack.Database()
	if cfg.Scenario.needs.network {
		r.result.Network = w.net().String()
	}
	err = r.play(ctx)
	if err != nil {
		err = fmt.Errorf("%s: %w", cfg.Scenario.Name, errors.Join(err, w.fleet.Dead()))
	}
	left := r.end(ctx, before)
	r.result.Violations = append(r.result.Violations, left...)
	r.result.OK = len(r.result.Violations) == 0 && err == nil
	return r.result, err
}

// run is one run. Its Scenario is the fault that is being made, of several with chaos.
type run struct {
	Config
	Scenario
	*world
	rng      *rand.Rand
	timeline *timeline
	result   Result
	pids     []int

	seller   int
	failing  int // the database server that a fault hits, of several
	stranger *stranger
	// hot is the SKU of the orders that are counted. A new attempt has a new one.
	hot string
	// sales and answered count the orders of the current hot SKU.
	sales, answered atomic.Int64
	// fresh are sales of orders that were sent after since, in nanoseconds.
	fresh, since atomic.Int64
	// at is when the fault began, and healed when it had ended.
	at, healed time.Time

	mu sync.Mutex
	// successful has the last success of each kind of mixed call.
	successful map[history.Kind]time.Time
	// asked and answers cover all orders for hot SKUs: answers[i] belongs to asked[i].
	hots    []string
	asked   []attack.Order
	answers []attack.Answer
	single  int // orders outside of an attack, for their seeds
}

// play sends the load, makes the fault, and checks everything.
func (r *run) play(ctx context.Context) error {
	r.pids = r.fleet.Pids()
	mixed, err := history.Start(ctx, history.Config{
		URLs: r.fleet.URLs(), AdminToken: r.fleet.AdminToken, JWTSecret: r.fleet.JWTSecret, Name: "mixed", SKUs: mixedSKUs, Rate: r.Mixed * max(1, r.storm), Seed: r.Seed,
		OnAnswer: r.countMixed,
	})
	if err != nil {
		return err
	}
	load, err := r.attempt(ctx)
	calls := mixed.Stop()
	if err != nil {
		return err
	}
	return r.assess(ctx, load, calls)
}

// mixedSKUs is how many small SKUs get mixed calls at a time.
const mixedSKUs = 8

// attempt makes the fault under load, until it has hit the state that it is meant for.
func (r *run) attempt(ctx context.Context) (load *attack.Result, err error) {
	for try := range attempts {
		r.hot = fmt.Sprintf("hot-%d", try+1)
		r.seller = int(r.Seed % replicas)
		if load, err = r.attack(ctx); err == nil || !errors.Is(err, errOtherSeller) && !errors.Is(err, errNotReached) {
			return load, err
		}
		r.note("attempt %d: %s", try+1, err)
	}
	return load, err
}

// disturb waits for sales, makes the fault, ends it, and waits for the recovery.
func (r *run) disturb(ctx context.Context) error {
	if err := r.awaitSales(ctx, r.sales.Load()+warmSales); err != nil {
		return err
	}
	if err := sleep.For(ctx, moment+rand.N(moment)); err != nil {
		return err
	}
	find := r.findSeller
	if r.away { // the load avoids this replica
		find = r.checkSeller
	}
	if err := find(ctx); err != nil {
		return err
	}
	sequence := r.sequence
	if sequence == nil {
		sequence = func(ctx context.Context, r *run) error { return r.cycle(ctx) }
	}
	if err := sequence(ctx, r); err != nil {
		return err
	}
	if err := sleep.For(ctx, aftermath-sample); err != nil {
		return err
	}
	sold, answered, err := r.count(ctx)
	if sold*10 < answered*9 {
		r.late("%s after all replicas sold again, only %d of %d answers were sales", aftermath, sold, answered)
	}
	for _, kind := range r.missing() {
		r.late("after the recovery, no call was successful of the kind %s", kind)
	}
	return err
}

// cycle makes the fault, ends it, and waits until every replica sells.
func (r *run) cycle(ctx context.Context) error {
	failed := r.inject(ctx, r)
	if failed == nil && !r.instant {
		failed = r.outlast(ctx, time.Now())
	}
	// Heal after an error as well: the next attempt goes on with these replicas and servers.
	healing, cancel := context.WithTimeout(context.WithoutCancel(ctx), margin)
	defer cancel()
	if err := r.heal(healing, r); err != nil {
		return fmt.Errorf("heal: %w (%v)", err, failed) //nolint:errorlint // not another attempt
	}
	if failed != nil {
		return failed
	}
	if r.healed = time.Now(); r.instant {
		r.healed = r.at
	}
	return r.recover(ctx)
}

// begin marks the moment of the fault.
func (r *run) begin() { r.at = time.Now() }

// outlast waits until the fault, which is in place since inPlace, has lasted long enough.
// Orders must flow in spite of it, unless it halts the sale: then it must do so.
func (r *run) outlast(ctx context.Context, inPlace time.Time) error {
	end := inPlace.Add(r.duration(r.LockTTL))
	if !r.halts {
		if err := r.flow(ctx); err != nil {
			return err
		}
		return sleep.For(ctx, time.Until(end))
	}
	if err := sleep.For(ctx, time.Until(end)-sample); err != nil {
		return err
	}
	sold, _, err := r.count(ctx)
	if sold > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d orders were sold", errNotReached, sold))
	}
	return err
}

// flowing is how many orders, sent later than a moment, are sold when orders flow.
const flowing = 20

// flow waits until orders flow that are sent from now on.
func (r *run) flow(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r.since.Store(time.Now().UnixNano())
	r.fresh.Store(0)
	for r.fresh.Load() < flowing {
		if err := sleep.For(limited, poll); ctx.Err() != nil {
			return err
		} else if err != nil {
			r.late("%s: orders do not flow: %d in %s", r.Name, r.fresh.Load(), patience)
			return nil
		}
	}
	return nil
}

// recover waits until every replica sells, and records how long that took.
func (r *run) recover(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	failed := make([]error, len(r.fleet.Replicas))
	var all sync.WaitGroup
	for i := range r.fleet.Replicas {
		all.Go(func() { failed[i] = r.sellAt(limited, i) })
	}
	all.Wait()
	took, sells := time.Since(r.healed), errors.Join(failed...) == nil
	r.timeline.span(r.Name, r.at, r.healed, took, sells)
	r.result.HealedInMS = max(r.result.HealedInMS, ms(took))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !sells {
		r.late("%s after %s had ended: %s", patience, r.Name, errors.Join(failed...))
		return nil
	}
	if bound := r.Recovers(r.LockTTL); took > bound {
		r.late("it took %s after %s had ended until every replica sold again, more than %s", took.Round(time.Millisecond), r.Name, bound)
	}
	return r.flow(ctx)
}

// violate records what is wrong with the service.
func (r *run) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.result.Violations = append(r.result.Violations, text)
	r.result.Wrong = append(r.result.Wrong, text)
}

// late records what did not happen in time. A busy machine may be the reason.
func (r *run) late(format string, args ...any) {
	r.result.Violations = append(r.result.Violations, fmt.Sprintf(format, args...))
}

// note records what people should know about the run.
func (r *run) note(format string, args ...any) {
	r.result.Notes = append(r.result.Notes, fmt.Sprintf(format, args...))
}

func (r *run) sellerReplica() *sandbox.Replica { return r.fleet.Replicas[r.seller] }

// sameProcesses reports whether no replica was started again.
func (r *run) sameProcesses() bool { return slices.Equal(r.pids, r.fleet.Pids()) }
