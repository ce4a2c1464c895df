// Package takeover measures how long buyers wait when the replica that sells a SKU
// fails.
//
// A run puts a SKU on sale and makes one replica its seller. Buyers then order at
// the other replicas, the fault comes, and is healed once orders flow again. The
// run measures the longest time without a sale and the longest wait of a buyer,
// and joins every answer with its row in the database. How replicas are started is
// left to the caller; how orders are sent is package attack's, what the database
// must hold package proof's.
package takeover

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// Config is one run.
type Config struct {
	Fault Fault
	// SKU begins the names of the run's own SKUs. The run creates them.
	SKU string
	// Replicas are all of the service. Replicas[Seller] is made the seller.
	Replicas []*sandbox.Replica
	Seller   int
	// Relays are the ways to the replicas' forward addresses. Only a fault of the
	// network needs them.
	Relays []*Relay
	// AdminToken and JWTSecret are the replicas'.
	AdminToken, JWTSecret string
	Database              *proof.Database
	// Rate is in orders a second. Buyers bounds the orders under way.
	Rate, Buyers int
	// Lasts is how long the fault lasts at least. It lasts longer until orders flow.
	Lasts time.Duration
	// Seed makes customers, idempotency keys and quantities.
	Seed uint64
}

// Result is what came of a run.
type Result struct {
	Fault  string `json:"fault"`
	Seller string `json:"seller"`
	// GapMS is the longest time without a sale, from the fault on.
	GapMS float64 `json:"gap_ms"`
	// WaitMS is the longest wait of a buyer whose answer came after the fault.
	WaitMS float64 `json:"wait_ms"`
	Sold   int     `json:"sold"`
	// Errors are the orders that were answered 503 or 504. Reasons counts all
	// answers but sales, by kind.
	Errors  int            `json:"errors"`
	Reasons []proof.Reason `json:"reasons"`
	// Wrong are the answers that no buyer may get, however replicas fail: all but
	// sales, 503 and 504.
	Wrong   int              `json:"wrong"`
	Verdict strategy.Verdict `json:"verdict"`
	// Examples are in words what is wrong with the answers and their rows.
	Examples []string `json:"examples"`
}

// OK reports whether every buyer got a right answer, and every answer has its row.
func (r *Result) OK() bool { return r.Verdict == strategy.Exact && r.Wrong == 0 }

const (
	// tries are how often a run is begun again whose seller changed before the fault.
	tries = 5
	// units are more than a run can sell.
	units = 1_000_000_000
	// maxQuantity is the largest order's.
	maxQuantity = 2
	// spare is the time that a run has beyond that of its fault.
	spare = 90 * time.Second
	// warmSales are made before the fault: links and connections stand then. The
	// moment after them is random, so that the fault meets every phase of a tick.
	warmSales = 500
	moment    = 300 * time.Millisecond
	// flowing are the sales after which orders are taken to flow again, beyond those
	// that may have been under way at the fault.
	flowing = 100
	// aftermath is how long the load goes on once all is healed: a seller that was
	// stopped has then tried to go on.
	aftermath = time.Second
	// poll is between two looks at the number of sales.
	poll = 2 * time.Millisecond
	// tryPause is between two tries to order at one replica.
	tryPause = 50 * time.Millisecond
)

// Run makes one run. It leaves all replicas running.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	for try := range tries {
		again := cfg
		again.SKU = fmt.Sprintf("%s-%d", cfg.SKU, try+1)
		again.Seed += uint64(try) << 24 // beyond any number of orders
		if result, err = once(ctx, again); !errors.Is(err, errElsewhere) {
			break
		}
	}
	return result, err
}

// errElsewhere ends a run before its fault, which would meet nobody.
var errElsewhere = errors.New("another replica sells")

func once(ctx context.Context, cfg Config) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Lasts+spare)
	defer cancel()
	r := &run{Config: cfg, service: &attack.Service{URL: cfg.Replicas[cfg.Seller].URL, AdminToken: cfg.AdminToken, JWTSecret: cfg.JWTSecret}}
	if err := r.service.PutOnSale(ctx, cfg.SKU, units); err != nil {
		return Result{}, err
	}
	load, err := r.attack(ctx)
	if err != nil {
		return Result{}, err
	}
	return r.assess(ctx, load)
}

// run is a run on its way.
type run struct {
	Config
	service *attack.Service
	// at is the moment of the fault.
	at time.Time
	// sales are those of the load so far.
	sales atomic.Int64
	// asked and answers are of all orders: answers[i] is the one to asked[i].
	asked   []attack.Order
	answers []attack.Answer
}

func (r *run) seller() *sandbox.Replica { return r.Replicas[r.Seller] }

// checkSeller returns errElsewhere unless the replica still sells: on a busy machine
// another may have taken its short silence for a long one.
func (r *run) checkSeller(ctx context.Context) error {
	holder, err := r.service.Holder(ctx, r.SKU)
	if want := r.seller().Name; err == nil && holder != want {
		err = fmt.Errorf("%w: %q and not %s sells %s", errElsewhere, holder, want, r.SKU)
	}
	return err
}

// order sends orders to one replica, one after the other, until it has sold.
func (r *run) order(ctx context.Context, replica int) error {
	for {
		// A plan of one order.
		plan := attack.Plan{Targets: []string{r.Replicas[replica].URL}, SKUs: []string{r.SKU}, MaxQuantity: 1, Rate: 100, Duration: 10 * time.Millisecond,
			Seed: r.Seed + uint64(len(r.asked)) + 1}
		result, err := attack.Run(ctx, attack.Config{Plan: plan, JWTSecret: r.JWTSecret})
		if err != nil {
			return err
		}
		r.keep(&plan, result)
		if result.Answers[0].Outcome == attack.Accepted {
			return nil
		}
		if err := sleep.For(ctx, tryPause); err != nil {
			a := &result.Answers[0]
			return fmt.Errorf("%s does not sell: %d %s: %w", r.Replicas[replica].Name, a.Status, a.Reason, err)
		}
	}
}

// keep puts an attack's orders and answers with the others.
func (r *run) keep(plan *attack.Plan, result *attack.Result) {
	for seq := range result.Answers {
		r.asked = append(r.asked, plan.Order(seq))
	}
	r.answers = append(r.answers, result.Answers...)
}

// attack lets buyers order while the fault comes and goes.
func (r *run) attack(ctx context.Context) (load *attack.Result, err error) {
	plan := attack.Plan{SKUs: []string{r.SKU}, MaxQuantity: maxQuantity, Rate: r.Rate, Duration: r.Lasts + spare, Seed: r.Seed}
	for i, replica := range r.Replicas {
		if i != r.Seller || r.Fault.buyersEverywhere {
			plan.Targets = append(plan.Targets, replica.URL)
		}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	loaded, end := context.WithCancel(ctx) // ends with the load
	defer end()
	go func() {
		defer close(done)
		defer end()
		load, err = attack.Run(ctx, attack.Config{
			Plan: plan, JWTSecret: r.JWTSecret, Buyers: r.Buyers, Stop: stop,
			// Whoever is asked first takes the lock, and keeps it while orders come.
			Before: func() error { return r.order(ctx, r.Seller) },
			OnAnswer: func(a attack.Answer) {
				if a.Outcome == attack.Accepted {
					r.sales.Add(1)
				}
			},
		})
	}()
	failed := r.disturb(loaded)
	close(stop)
	<-done
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	r.keep(&plan, load)
	return load, nil
}

// disturb brings the fault and heals it, and returns when all replicas sell.
func (r *run) disturb(ctx context.Context) error {
	if err := r.awaitSales(ctx, warmSales); err != nil {
		return err
	}
	if err := sleep.For(ctx, moment+rand.N(moment)); err != nil {
		return err
	}
	if err := r.checkSeller(ctx); err != nil {
		return err
	}
	r.at = time.Now()
	if err := r.Fault.strike(r); err != nil {
		return err
	}
	over := time.NewTimer(r.Lasts)
	defer over.Stop()
	err := r.awaitSales(ctx, r.sales.Load()+int64(r.Buyers)+flowing)
	if err == nil {
		select {
		case <-over.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	// Also after an error: others go on with these replicas.
	if err := errors.Join(err, r.Fault.heal(context.WithoutCancel(ctx), r)); err != nil {
		return err
	}
	for i := range r.Replicas {
		if err := r.order(ctx, i); err != nil {
			return err
		}
	}
	return sleep.For(ctx, aftermath)
}

// awaitSales waits until the load has sold so often.
func (r *run) awaitSales(ctx context.Context, n int64) error {
	for r.sales.Load() < n {
		if err := sleep.For(ctx, poll); err != nil {
			return fmt.Errorf("%d of %d orders are sold: %w", r.sales.Load(), n, err)
		}
	}
	return nil
}

// assess measures the load, and compares all answers with the database.
func (r *run) assess(ctx context.Context, load *attack.Result) (Result, error) {
	books, err := r.Database.Records(ctx, []string{r.SKU})
	if err != nil {
		return Result{}, err
	}
	found := proof.Reconcile(func(seq int) attack.Order { return r.asked[seq] }, r.answers, books)
	found.Unserved = 0 // units are left on purpose
	counts := proof.Count(r.answers)
	fault := r.at.Sub(load.Began)
	result := Result{
		Fault: r.Fault.Name, Seller: r.seller().Name, GapMS: ms(longestGap(load.Answers, fault)), WaitMS: ms(longestWait(load.Answers, fault)),
		Sold: counts.Accepted, Reasons: counts.Reasons, Verdict: found.Verdict, Examples: found.Examples,
	}
	result.Wrong = counts.SoldOut
	for _, reason := range counts.Reasons {
		if reason.Status == http.StatusServiceUnavailable || reason.Status == http.StatusGatewayTimeout {
			result.Errors += reason.Count
		} else {
			result.Wrong += reason.Count
		}
	}
	for _, v := range found.Violations {
		result.Examples = append(result.Examples, fmt.Sprintf("%s: %s: %s", v.SKU, v.Invariant, v.Detail))
	}
	return result, nil
}

// longestGap is the longest time without a sale, from the fault to the last answer.
func longestGap(answers []attack.Answer, fault time.Duration) time.Duration {
	var times []time.Duration
	end := fault
	for i := range answers {
		a := &answers[i]
		end = max(end, a.Done)
		if a.Outcome == attack.Accepted && a.Done > fault {
			times = append(times, a.Done)
		}
	}
	slices.Sort(times)
	gap, last := time.Duration(0), fault
	for _, at := range append(times, end) {
		gap, last = max(gap, at-last), at
	}
	return gap
}

// longestWait is the longest time that a buyer waited whose answer came after the
// fault.
func longestWait(answers []attack.Answer, fault time.Duration) time.Duration {
	wait := time.Duration(0)
	for i := range answers {
		if a := &answers[i]; a.Done > fault {
			wait = max(wait, a.Done-a.Sent)
		}
	}
	return wait
}

// ms keeps three digits after the point: microseconds.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
