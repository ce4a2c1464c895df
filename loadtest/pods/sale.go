package pods

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"flashsale/internal/sleep"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

const (
	rate = 200 // orders a second
	// soldOut is how long a sale without a disturbance lasts, and sells for how much of it there is
	// stock, at the strategy's rate. longest is how long a sale with a disturbance can last.
	soldOut = 2 * time.Second
	sells   = time.Second
	longest = 3 * time.Minute
	// slow is the rate of a slow lock, in orders a second.
	slow = 20
	// plenty never sells out.
	plenty = 1_000_000_000
	// Before a disturbance, and again after it, as many orders must be accepted as are sent in
	// this time.
	around = 500 * time.Millisecond
	// refusedShare is the largest share of orders that an update may refuse.
	refusedShare = 0.005
)

// sell attacks the service, and disturbs it meanwhile.
func (s *shop) sell(ctx context.Context, number int, during *disturbance) (*Sale, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	row, err := strategy.Find(s.strategy)
	if err != nil {
		return nil, err
	}
	s.sku = fmt.Sprintf("sale-%d", number+1)
	// Under a slow lock, more orders would only wait for their time-out.
	plan := attack.Plan{Targets: []string{s.service.URL}, SKUs: []string{s.sku}, MaxQuantity: 1, Rate: min(rate, max(slow, row.UnitsPerSecond)), Duration: soldOut,
		Seed: s.cfg.Seed + uint64(number)}
	stock := min(int64(float64(row.UnitsPerSecond)*sells.Seconds()), int64(plan.Requests()/2))
	if during != nil {
		stock, plan.Duration = plenty, longest
	}
	if err := s.whole(ctx); err != nil { // one part is missing at a time
		return nil, err
	}
	if err := s.service.PutOnSale(ctx, s.sku, stock); err != nil {
		return nil, err
	}
	sale := &Sale{Strategy: s.strategy, Violations: []string{}}
	var accepted atomic.Int64
	some := int64(float64(plan.Rate) * around.Seconds())
	var ending string // pods at the end of the load
	stop, failed := make(chan struct{}), make(chan error, 1)
	began := make(chan time.Time, 1)
	cfg := attack.Config{
		Plan: plan, JWTSecret: s.service.JWTSecret, Stop: stop, Dial: s.node.Dial,
		Before: func() error { began <- time.Now(); return nil },
		OnAnswer: func(a attack.Answer) {
			if a.Outcome == attack.Accepted {
				accepted.Add(1)
			}
		},
	}
	var at time.Duration // of the disturbance
	attacked, end := context.WithCancelCause(ctx)
	defer end(nil)
	if during != nil {
		sale.During = during.name
		go func() {
			defer close(stop)
			err := s.awaitSales(attacked, &accepted, some)
			if err == nil {
				at = time.Since(<-began)
				sale.Did, err = during.do(attacked, s)
			}
			if err == nil {
				err = s.awaitSales(attacked, &accepted, accepted.Load()+some)
			}
			if err == nil {
				ending, err = s.ending(attacked)
			}
			failed <- err
		}()
	}
	result, err := attack.Run(ctx, cfg)
	end(errors.New("the attack has ended"))
	if during != nil {
		err = errors.Join(err, <-failed)
	}
	if err != nil {
		return nil, err
	}
	dsn, err := s.dsn(ctx)
	if err != nil {
		return nil, err
	}
	rounds, err := s.challenge(ctx, cfg)
	if err != nil {
		return nil, err
	}
	records, err := proof.ReadRecords(ctx, dsn, append(proof.SKUs(rounds), plan.SKUs...))
	if err != nil {
		return nil, err
	}
	sale.Run = proof.Assess(proof.Setting{Strategy: s.strategy, Fence: row.FenceFor(strategy.FenceClaim), Replicas: 3, Expected: strategy.Exact, Stock: stock, Plan: plan},
		result, records.Of(plan.SKUs))
	if during != nil {
		sale.NoSaleMS = proof.Millis(attack.LongestGap(result.Answers, at))
	}
	sale.Ending = strings.Fields(ending)
	sale.judge(during, proof.Challenged(rounds, records))
	return sale, nil
}

// challenge lets buyers order last units at once, through the same address. A busy machine
// may send too few of them together at first, so it is repeated with more buyers. What was
// deleted may still be coming back: the service sells without it.
func (s *shop) challenge(ctx context.Context, load attack.Config) ([]proof.Round, error) {
	if err := s.answers(ctx); err != nil {
		return nil, err
	}
	load.Stop = nil // it has stopped the load
	trial := proof.Trial{Load: load, UntilContended: true, Offer: func(plan *attack.Plan) error {
		for _, sku := range plan.SKUs {
			if err := s.service.PutOnSale(ctx, sku, 1); err != nil {
				return err
			}
		}
		return nil
	}}
	return trial.Run(ctx)
}

func (s *shop) awaitSales(ctx context.Context, accepted *atomic.Int64, n int64) error {
	for accepted.Load() < n {
		if err := sleep.For(ctx, poll); err != nil {
			return fmt.Errorf("sold %d of %d orders: %w", accepted.Load(), n, context.Cause(ctx))
		}
	}
	return nil
}

// judge finds what no disturbance excuses. The verdict is exact only after a challenge.
func (s *Sale) judge(during *disturbance, challenge *proof.Challenge) {
	violate := func(format string, args ...any) { s.Violations = append(s.Violations, fmt.Sprintf(format, args...)) }
	if during != nil {
		s.Unserved = 0 // units are left on purpose
		s.Verdict = proof.Judge(s.Counts, s.Findings)
	}
	if s.Weigh(challenge); s.Verdict != s.Expected {
		violate("%s", s.Sentence())
	}
	if during == nil {
		return
	}
	if len(s.Ending) > 0 {
		violate("the load ended before %s had ended", strings.Join(s.Ending, ", "))
	}
	if s.SoldOut > 0 {
		violate("%d orders were refused as sold out, though %d units were left", s.SoldOut, s.Available)
	}
	for _, reason := range s.Reasons {
		if !during.excuses(reason) {
			violate("%d orders were answered %d %s", reason.Count, reason.Status, reason.Slug)
		}
	}
	if refused := s.Errors + s.Ambiguous; during.most > 0 && float64(refused) > during.most*float64(s.Offered) {
		violate("%d of %d orders were refused, more than %.1f %%", refused, s.Offered, during.most*100)
	}
	if during.noSale > 0 && s.NoSaleMS > proof.Millis(during.noSale) {
		violate("nothing was sold for %.1f s, and at most %.0f s are allowed", s.NoSaleMS/1e3, during.noSale.Seconds())
	}
}

// excuses reports whether a disturbance may cause such an answer.
func (d *disturbance) excuses(reason proof.Reason) bool {
	switch reason.Status {
	case http.StatusServiceUnavailable:
		return reason.Slug == "unavailable" || reason.Slug == "busy"
	case http.StatusGatewayTimeout:
		return !d.planned
	}
	return false
}

// String describes the sale in a line, and what is wrong in further lines.
func (s *Sale) String() string {
	text := s.Strategy + ": " + s.Sentence()
	if s.During != "" {
		text = fmt.Sprintf("%s, %s (%s): %d orders sold, %d refused, no sale for %.2f s", s.Strategy, s.During, s.Did, s.Accepted, s.Errors+s.Ambiguous, s.NoSaleMS/1e3)
	}
	for _, v := range s.Violations {
		text += "\n    VIOLATION: " + v
	}
	return text
}
