package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
)

// Config holds the settings of one run.
type Config struct {
	Fault Fault
	// SKU is the start of the names of the SKUs that the run creates.
	SKU string
	// Fleet is all replicas of the service. Replica Seller, counted from 0, is made the
	// seller.
	Fleet  *sandbox.Fleet
	Seller int
	// Network is of the kind that the fault needs.
	Network *sandbox.Network
	// DSN and Name are those of the replicas' database. Cluster has its servers; a fault
	// of the Seller needs none.
	DSN, Name string
	Cluster   *sandbox.Cluster
	// Rate is in orders a second. Buyers bounds the orders under way.
	Rate, Buyers int
	// Lasts is the least duration of the fault. It lasts until orders flow again.
	Lasts time.Duration
	// Seed determines customers, idempotency keys and quantities.
	Seed uint64
}

const (
	// tries bounds how often a run starts over because the seller changed before the
	// fault.
	tries = 5
	// units are more than a run can sell.
	units       = 1_000_000_000
	maxQuantity = 2
	// moment is the least time between the first sales and the fault. Up to as much is
	// added at random, so that the fault hits every phase of a tick.
	moment = 300 * time.Millisecond
	// aftermath is how long the load continues after the fault has healed: a seller that
	// was stopped has then tried to continue.
	aftermath = 2 * time.Second
	// poll is the pause between two looks at the number of sales.
	poll = 2 * time.Millisecond
	// tryPause is the pause between two orders at a replica that does not sell.
	tryPause = 50 * time.Millisecond
)

// warmSales returns the number of sales before the fault: links and connections exist by
// then.
func (c *Config) warmSales() int64 { return max(50, int64(c.Rate)/4) }

// flowing returns the number of further sales after which orders count as flowing again.
// It exceeds those that may be under way.
func (c *Config) flowing() int64 { return int64(c.Buyers) + 20 + int64(c.Rate)/25 }

// Run makes one run. It leaves all replicas and servers running.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	for try := range tries {
		again := cfg
		again.SKU = fmt.Sprintf("%s-%d", cfg.SKU, try+1)
		again.Seed += uint64(try) << 24 // beyond any number of orders
		if result, err = runOnce(ctx, again); !errors.Is(err, errOtherSeller) {
			break
		}
	}
	return result, err
}

type run struct {
	Config
	service *attack.Service
	// failing is the database server that a fault hits.
	failing int
	// at is the moment of the fault; begun is closed then.
	at    time.Time
	begun chan struct{}
	// writable, unless nil, gets the time of the first write after the fault.
	writable   chan time.Time
	firstWrite time.Time
	background sync.WaitGroup
	sales      atomic.Int64
	// asked and answers cover all orders: answers[i] belongs to asked[i].
	asked   []attack.Order
	answers []attack.Answer
	// paid is what came of the payments; nil if buyers do not pay.
	payments *payments
}

func runOnce(ctx context.Context, cfg Config) (Result, error) {
	r := &run{Config: cfg, begun: make(chan struct{}), service: &attack.Service{
		URL: cfg.Fleet.Replicas[cfg.Seller].URL, AdminToken: cfg.Fleet.AdminToken, JWTSecret: cfg.Fleet.JWTSecret,
	}}
	defer r.background.Wait()
	ctx, cancel := context.WithTimeout(ctx, cfg.Lasts+cfg.Fault.table.margin)
	defer cancel()
	pids := r.Fleet.Pids()
	if err := r.service.PutOnSale(ctx, cfg.SKU, units); err != nil {
		return Result{}, err
	}
	load, err := r.attack(ctx)
	if err != nil {
		return Result{}, err
	}
	result, err := r.assess(ctx, load)
	if r.Fleet.Dead() != nil || !r.Fault.restarts && !slices.Equal(pids, r.Fleet.Pids()) {
		result.Examples = append(result.Examples, "a replica exited or was started again")
	}
	return result, err
}

func (r *run) begin() {
	r.at = time.Now()
	close(r.begun)
}

func (r *run) seller() *sandbox.Replica { return r.Fleet.Replicas[r.Seller] }
func (r *run) server() *sandbox.MySQL   { return r.Cluster.Nodes[r.failing] }

func (r *run) attack(ctx context.Context) (load *attack.Result, err error) {
	plan := attack.Plan{
		SKUs: []string{r.SKU}, MaxQuantity: maxQuantity, Rate: r.Rate, Duration: r.Lasts + r.Fault.table.margin, Seed: r.Seed,
	}
	for i, replica := range r.Fleet.Replicas {
		if i != r.Seller || !r.Fault.sellerDown {
			plan.Targets = append(plan.Targets, replica.URL)
		}
	}
	if r.Fault.table.pays {
		r.payments = startPayments(r.Fleet, &plan)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	loaded, end := context.WithCancel(ctx) // ends with the load
	defer end()
	go func() {
		defer close(done)
		defer end()
		load, err = attack.Run(ctx, attack.Config{
			Plan: plan, JWTSecret: r.Fleet.JWTSecret, Buyers: r.Buyers, Stop: stop,
			// The first replica with an order takes the lock, and keeps it while orders come.
			Before: func() error { return r.sellAt(ctx, r.Seller) },
			OnAnswer: func(a attack.Answer) {
				if a.Outcome == attack.Accepted {
					r.sales.Add(1)
					r.payments.pay(&a)
				}
			},
		})
	}()
	failed := r.disturb(loaded)
	close(stop)
	<-done
	r.payments.wait()
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	r.keep(&plan, load)
	return load, nil
}

// disturb injects the fault and heals it, and returns when all replicas sell.
func (r *run) disturb(ctx context.Context) error {
	if err := r.awaitSales(ctx, r.warmSales()); err != nil {
		return err
	}
	if choose := r.Fault.table.choose; choose != nil {
		if err := choose(ctx, r); err != nil {
			return err
		}
	}
	if err := sleep.For(ctx, moment+rand.N(moment)); err != nil {
		return err
	}
	if check := r.Fault.table.check; check != nil {
		if err := check(ctx, r); err != nil {
			return err
		}
	}
	if err := r.Fault.inject(ctx, r); err != nil {
		return err
	}
	err := r.outlast(ctx)
	// Heal after an error as well: the caller goes on with these replicas and servers.
	if err := errors.Join(err, r.Fault.heal(context.WithoutCancel(ctx), r)); err != nil {
		return err
	}
	for i := range r.Fleet.Replicas {
		if err := r.sellAt(ctx, i); err != nil {
			return err
		}
	}
	if err := sleep.For(ctx, aftermath); err != nil {
		return err
	}
	return r.awaitSales(ctx, r.sales.Load()+r.flowing())
}

// outlast waits until orders flow again, the fault has lasted long enough, and the
// database has taken a write.
func (r *run) outlast(ctx context.Context) error {
	if err := r.awaitSales(ctx, r.sales.Load()+r.flowing()); err != nil {
		return err
	}
	if r.writable != nil {
		r.firstWrite = <-r.writable // ends with ctx
	}
	return sleep.For(ctx, time.Until(r.at.Add(r.Lasts)))
}

func (r *run) awaitSales(ctx context.Context, n int64) error {
	for r.sales.Load() < n {
		if err := sleep.For(ctx, poll); err != nil {
			return fmt.Errorf("sold %d of %d orders: %w", r.sales.Load(), n, err)
		}
	}
	return nil
}

// sellAt sends orders to one replica, one after the other, until one is accepted.
func (r *run) sellAt(ctx context.Context, replica int) error {
	for {
		// A plan of one order.
		plan := attack.Plan{Targets: []string{r.Fleet.Replicas[replica].URL}, SKUs: []string{r.SKU}, MaxQuantity: 1, Rate: 100, Duration: 10 * time.Millisecond,
			Seed: r.Seed + uint64(len(r.asked)) + 1}
		result, err := attack.Run(ctx, attack.Config{Plan: plan, JWTSecret: r.Fleet.JWTSecret})
		if err != nil {
			return err
		}
		r.keep(&plan, result)
		if result.Answers[0].Outcome == attack.Accepted {
			return nil
		}
		if err := sleep.For(ctx, tryPause); err != nil {
			a := &result.Answers[0]
			return fmt.Errorf("%s does not sell: %d %s: %w", r.Fleet.Replicas[replica].Name, a.Status, a.Reason, err)
		}
	}
}

// keep adds the orders and answers of an attack to those of the run.
func (r *run) keep(plan *attack.Plan, result *attack.Result) {
	for seq := range result.Answers {
		r.asked = append(r.asked, plan.Order(seq))
	}
	r.answers = append(r.answers, result.Answers...)
}
