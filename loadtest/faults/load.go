package faults

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/history"
)

// attack sends orders for a new hot SKU, and makes the fault.
func (r *run) attack(ctx context.Context) (load *attack.Result, err error) {
	r.hots = append(r.hots, r.hot)
	r.sales.Store(0)
	if err := r.service.PutOnSale(ctx, r.hot, units); err != nil {
		return nil, err
	}
	plan := attack.Plan{
		SKUs: []string{r.hot}, MaxQuantity: maxQuantity, Rate: r.Rate, Duration: r.loaded(), Seed: r.Seed<<8 + uint64(len(r.hots)),
	}
	for i, replica := range r.fleet.Replicas {
		if i != r.seller || !r.away {
			plan.Targets = append(plan.Targets, replica.URL)
		}
	}
	var began time.Time // the earliest estimate: answers may be read late
	stop, done := make(chan struct{}), make(chan struct{})
	loaded, end := context.WithCancel(ctx) // ends with the load
	defer end()
	go func() {
		defer close(done)
		defer end()
		load, err = attack.Run(ctx, attack.Config{
			Plan: plan, JWTSecret: r.fleet.JWTSecret, Buyers: r.Buyers, Stop: stop,
			// The first replica with an order takes the lock, and keeps it while orders come.
			Before: func() error { return r.sellAt(ctx, r.seller) },
			OnAnswer: func(a attack.Answer) {
				r.timeline.hot(&a)
				r.answered.Add(1)
				if at := time.Now().Add(-a.Done); began.IsZero() || at.Before(began) {
					began = at
				}
				if a.Outcome != attack.Accepted {
					return
				}
				r.sales.Add(1)
				if began.Add(a.Sent).UnixNano() > r.since.Load() {
					r.fresh.Add(1)
				}
			},
		})
	}()
	failed := r.disturb(loaded)
	close(stop)
	<-done
	if load != nil {
		r.keep(&plan, load)
	}
	return load, errors.Join(err, failed)
}

// loaded is how long the load can last. Each order has a token that is made beforehand.
func (r *run) loaded() time.Duration {
	d := r.duration(r.LockTTL) + 2*patience
	if r.sequence != nil {
		d += r.Chaos
	}
	if r.needs.databases > 1 { // servers that join again take their time
		d += 2 * patience
	}
	return d
}

// count counts the sales and all answers for a moment.
func (r *run) count(ctx context.Context) (sold, answered int64, err error) {
	sold, answered = r.sales.Load(), r.answered.Load()
	err = sleep.For(ctx, sample)
	return r.sales.Load() - sold, r.answered.Load() - answered, err
}

// countMixed notes the kinds of mixed calls that were successful.
func (r *run) countMixed(a history.Answer) {
	r.timeline.add(kindMixed)
	if a.Status < 200 || a.Status > 299 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.successful[a.Kind] = time.Now()
}

// missing lists the kinds of mixed calls that were successful, and are not any more.
func (r *run) missing() (kinds []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for kind, last := range r.successful {
		if last.Before(r.healed) {
			kinds = append(kinds, string(kind))
		}
	}
	return kinds
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
		r.mu.Lock()
		r.single++
		seed := r.Seed<<8 + uint64(r.single)<<32
		r.mu.Unlock()
		// A plan of one order.
		plan := attack.Plan{Targets: []string{r.fleet.Replicas[replica].URL}, SKUs: []string{r.hot}, MaxQuantity: 1, Rate: 100, Duration: 10 * time.Millisecond, Seed: seed}
		// The order has its own bound, so that its answer counts.
		result, err := attack.Run(context.WithoutCancel(ctx), attack.Config{Plan: plan, JWTSecret: r.fleet.JWTSecret})
		if err != nil { // on a machine that stood still, nothing was sent
			if sleep.For(ctx, tryPause) != nil {
				return err
			}
			continue
		}
		r.keep(&plan, result)
		a := &result.Answers[0]
		if a.Outcome == attack.Accepted {
			r.sales.Add(1)
			return nil
		}
		if err := sleep.For(ctx, tryPause); err != nil {
			return fmt.Errorf("%s does not sell: %d %s: %w", r.fleet.Replicas[replica].Name, a.Status, a.Reason, err)
		}
	}
}

// keep adds the orders and answers of an attack to those of the run.
func (r *run) keep(plan *attack.Plan, result *attack.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for seq := range result.Answers {
		r.asked = append(r.asked, plan.Order(seq))
	}
	r.answers = append(r.answers, result.Answers...)
}

// countOrders counts the rows of the hot SKU.
func (r *run) countOrders(ctx context.Context) (n int64, err error) {
	err = r.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM orders WHERE sku = ?", []byte(r.hot)).Scan(&n)
	return n, err
}
