// Package failover measures how long nothing is sold when a server of a clustered
// database fails, and checks that nothing acknowledged is lost.
//
// Buyers order at all replicas and pay what they have ordered. The fault strikes the
// database server that the replicas write to, and is healed once orders flow again.
// The run then joins every answer with its row in the database, and every payment that
// was taken with its order. How replicas and servers are started is left to the caller.
package failover

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
	// SKU is the run's own, which it creates.
	SKU string
	// Cluster has the replicas' database, named Name.
	Cluster *sandbox.Cluster
	Name    string
	// Replicas are all of the service.
	Replicas []*sandbox.Replica
	// AdminToken and JWTSecret are the replicas'.
	AdminToken, JWTSecret string
	// Rate is in orders a second. Buyers bounds the orders under way.
	Rate, Buyers int
	// Seed makes customers and idempotency keys.
	Seed uint64
}

// Result is what came of a run.
type Result struct {
	Fault string `json:"fault"`
	// Server is the one that the replicas wrote to, counted from 1.
	Server int `json:"server"`
	// WritableMS is from the fault to the first write that a server took which may
	// take writes next, asked every few milliseconds.
	WritableMS float64 `json:"writable_ms"`
	// OrdersMS is from the fault to the first sale of a buyer who ordered after it.
	// Where servers go on for a moment it says nothing.
	OrdersMS float64 `json:"orders_ms"`
	// GapMS is the longest time without a sale, from the fault to the end of the run,
	// by which all servers are back.
	GapMS float64 `json:"gap_ms"`
	Sold  int     `json:"sold"`
	Paid  int     `json:"paid"`
	// Lost are orders answered 201 without their row, and payments answered 200 whose
	// order is not paid.
	Lost int `json:"lost"`
	// Orders and Payments count the answers that were no success, by kind.
	Orders   []proof.Reason `json:"orders"`
	Payments []proof.Reason `json:"payments"`
	// Wrong are the answers that nobody may get, whatever befalls the database: all
	// but successes, 503 and 504.
	Wrong   int              `json:"wrong"`
	Verdict strategy.Verdict `json:"verdict"`
	// Examples are in words what is wrong.
	Examples []string `json:"examples"`
}

// OK reports whether every answer was right and has its row.
func (r *Result) OK() bool {
	return r.Verdict == strategy.Exact && r.Wrong == 0 && r.Lost == 0 && len(r.Examples) == 0
}

const (
	// limit bounds a run. A server of Galera may take a minute to come back on a
	// busy machine.
	limit = 4 * time.Minute
	// units are more than a run can sell.
	units = 1_000_000_000
	// warmSales are made before the fault, which comes at a random moment after.
	warmSales = 50
	moment    = 300 * time.Millisecond
	// flowing are the sales after which orders are taken to flow again, beyond those
	// that may have been under way at the fault.
	flowing = 20
	// aftermath is how long the load goes on once all is healed.
	aftermath = 2 * time.Second
	// maxExamples of lost payments are told in words.
	maxExamples = 3
	// poll is between two looks at the number of sales.
	poll = 5 * time.Millisecond
)

// run is a run on its way.
type run struct {
	Config
	service *attack.Service
	// struck is the server that the replicas write to.
	struck int
	// at is the moment of the fault; began is closed then.
	at    time.Time
	began chan struct{}
	sales atomic.Int64
}

// Run makes one run. It leaves all replicas and servers running.
func Run(ctx context.Context, cfg Config) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := &run{Config: cfg, began: make(chan struct{}),
		service: &attack.Service{URL: cfg.Replicas[0].URL, AdminToken: cfg.AdminToken, JWTSecret: cfg.JWTSecret}}
	pids := r.pids()
	if err := r.service.PutOnSale(ctx, cfg.SKU, units); err != nil {
		return Result{}, err
	}
	plan := attack.Plan{SKUs: []string{r.SKU}, MaxQuantity: 1, Rate: r.Rate, Duration: limit, Seed: r.Seed}
	for _, replica := range r.Replicas {
		plan.Targets = append(plan.Targets, replica.URL)
	}
	payments := newPayments(r, &plan)
	stop, loaded := make(chan struct{}), make(chan struct{})
	attacking, end := context.WithCancel(ctx)
	var load *attack.Result
	var err error
	go func() {
		defer close(loaded)
		defer end()
		load, err = attack.Run(attacking, attack.Config{
			Plan: plan, JWTSecret: r.JWTSecret, Buyers: r.Buyers, Stop: stop,
			OnAnswer: func(a attack.Answer) {
				if a.Outcome == attack.Accepted {
					r.sales.Add(1)
					payments.of(&a)
				}
			},
		})
	}()
	writable, failed := r.disturb(attacking)
	close(stop)
	<-loaded
	taken := payments.end()
	if err := errors.Join(err, failed); err != nil {
		return Result{}, err
	}
	result, err := r.assess(ctx, &plan, load, taken)
	result.WritableMS = ms(writable.Sub(r.at))
	if !slices.Equal(pids, r.pids()) {
		result.Examples = append(result.Examples, "a replica has ended or was started again")
	}
	return result, err
}

// begin is called at the moment of the fault.
func (r *run) begin() {
	r.at = time.Now()
	close(r.began)
}

func (r *run) server() *sandbox.MySQL { return r.Cluster.Nodes[r.struck] }

// another is a server that the replicas do not write to.
func (r *run) another() int { return (r.struck + 1) % len(r.Cluster.Nodes) }

// pids are the processes of all replicas, without those that have ended.
func (r *run) pids() []int {
	var pids []int
	for _, replica := range r.Replicas {
		select {
		case <-replica.Done():
		default:
			pids = append(pids, replica.Pid())
		}
	}
	return pids
}

// disturb brings the fault and heals it, and returns when orders were taken after
// both, with the moment at which the database took writes again.
func (r *run) disturb(ctx context.Context) (writable time.Time, err error) {
	if err := r.awaitSales(ctx, warmSales); err != nil {
		return writable, err
	}
	if r.struck, err = r.busiest(ctx); err != nil {
		return writable, err
	}
	p, err := newProbe(ctx, r)
	if err != nil {
		return writable, err
	}
	defer p.close()
	if err := sleep.For(ctx, rand.N(moment)); err != nil {
		return writable, err
	}
	probed := make(chan time.Time, 1)
	go func() { probed <- p.firstWrite(ctx) }()
	before := r.sales.Load()
	if err := r.Fault.strike(ctx, r); err != nil {
		return writable, err
	}
	err = r.awaitSales(ctx, max(before, r.sales.Load())+int64(r.Buyers)+flowing)
	select {
	case writable = <-probed:
	case <-ctx.Done():
	}
	// Also after an error: others go on with these servers.
	if healed := r.Fault.heal(context.WithoutCancel(ctx), r); err == nil {
		err = healed
	}
	if err != nil {
		return writable, err
	}
	if err := sleep.For(ctx, aftermath); err != nil {
		return writable, err
	}
	return writable, r.awaitSales(ctx, r.sales.Load()+flowing)
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

// busiest is the server that has most of the replicas' connections.
func (r *run) busiest(ctx context.Context) (server int, err error) {
	most := 0
	for i, m := range r.Cluster.Nodes {
		all, err := m.Connections(ctx)
		if err != nil {
			return 0, err
		}
		n := 0
		for _, c := range all {
			if c.Database == r.Name {
				n++
			}
		}
		if n > most {
			server, most = i, n
		}
	}
	if most == 0 {
		return 0, errors.New("no database server has connections of the replicas")
	}
	return server, nil
}

// assess measures the load, and compares all answers with the database.
func (r *run) assess(ctx context.Context, plan *attack.Plan, load *attack.Result, taken *payments) (Result, error) {
	books, err := r.books(ctx)
	if err != nil {
		return Result{}, err
	}
	found := proof.Reconcile(plan.Order, load.Answers, books)
	found.Unserved = 0 // units are left on purpose
	counts := proof.Count(load.Answers)
	first, gap := salesAfter(load.Answers, r.at.Sub(load.Began))
	result := Result{
		Fault: r.Fault.Name, Server: r.struck + 1, OrdersMS: ms(first), GapMS: ms(gap),
		Sold: counts.Accepted, Paid: len(taken.paid), Lost: found.Lost, Orders: counts.Reasons, Payments: taken.reasons(),
		Verdict: found.Verdict, Examples: found.Examples,
	}
	result.Wrong = counts.SoldOut
	for _, reason := range slices.Concat(result.Orders, result.Payments) {
		if reason.Status != http.StatusServiceUnavailable && reason.Status != http.StatusGatewayTimeout {
			result.Wrong += reason.Count
		}
	}
	missing := unpaid(taken.paid, &books)
	result.Lost += len(missing)
	result.Examples = append(result.Examples, missing[:min(len(missing), maxExamples)]...)
	differing, err := r.differing(ctx, &books)
	if err != nil {
		return Result{}, err
	}
	result.Examples = append(result.Examples, differing...)
	for _, v := range found.Violations {
		result.Examples = append(result.Examples, fmt.Sprintf("%s: %s: %s", v.SKU, v.Invariant, v.Detail))
	}
	return result, nil
}

// salesAfter is the time from the fault to the first sale of a buyer who ordered after
// it, and the longest time without a sale from the fault on.
func salesAfter(answers []attack.Answer, fault time.Duration) (first, gap time.Duration) {
	var times []time.Duration
	for i := range answers {
		a := &answers[i]
		if a.Outcome != attack.Accepted || a.Done <= fault {
			continue
		}
		times = append(times, a.Done)
		if a.Sent >= fault && (first == 0 || a.Done-fault < first) {
			first = a.Done - fault
		}
	}
	slices.Sort(times)
	last := fault
	for _, at := range times {
		gap, last = max(gap, at-last), at
	}
	return first, gap
}

// ms keeps three digits after the point: microseconds.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
