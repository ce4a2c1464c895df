package proof

import (
	"context"
	"fmt"
	"time"

	"flashsale/loadtest/attack"
)

const (
	// roundLimit bounds the bursts of a round. They take a second or two, or most of this
	// with a slow lock.
	roundLimit = time.Minute
	// MaxBuyers bounds the buyers of Trial.UntilContended. Each has a connection.
	MaxBuyers = 256
)

// Trial lets buyers order last units at once, as Challenge describes: the evidence that a
// run was exact by design and not by chance.
type Trial struct {
	// Load is the attack before it, to the same targets. The SKUs and the customers are
	// others. Load.Stop also ends the bursts.
	Load attack.Config
	// Offer puts the SKUs of a plan on sale, with one unit each.
	Offer func(*attack.Plan) error
	// UntilContended repeats the bursts with twice as many buyers, up to MaxBuyers, until
	// enough of them were contended.
	UntilContended bool
	// Show, if set, is called before each round. step is then called for each contended
	// burst, and end at the end of the round.
	Show func(buyers int) (step, end func())
}

// Run returns the rounds with their answers, for Challenged. An error comes with the rounds
// before it.
func (t *Trial) Run(ctx context.Context) (rounds []Round, err error) {
	contended := 0
	for buyers := BurstBuyers; buyers <= MaxBuyers; buyers *= 2 {
		var skus []string
		for i := range Bursts {
			skus = append(skus, fmt.Sprintf("last-%x-%d", t.Load.Plan.Seed, len(rounds)*Bursts+i+1))
		}
		round := Round{Plan: t.Load.Plan.Bursts(skus, buyers), Units: Bursts}
		if err := t.Offer(&round.Plan); err != nil {
			return rounds, err
		}
		step, end := func() {}, func() {}
		if t.Show != nil {
			step, end = t.Show(buyers)
		}
		cfg := attack.Config{Plan: round.Plan, JWTSecret: t.Load.JWTSecret, Dial: t.Load.Dial}
		began := time.Now()
		round.Answers, err = attack.Bursts(ctx, cfg, func(burst []attack.Answer) bool {
			if IsContended(burst, len(round.Plan.Targets)) {
				contended++
				step()
			}
			return contended < ContendedBursts && time.Since(began) < roundLimit && !t.stopped()
		})
		end()
		if err != nil {
			return rounds, err
		}
		rounds = append(rounds, round)
		if !t.UntilContended || contended >= ContendedBursts || t.stopped() {
			break
		}
	}
	return rounds, nil
}

func (t *Trial) stopped() bool {
	select {
	case <-t.Load.Stop:
		return true
	default:
		return false
	}
}

// SKUs returns all SKUs that were put on sale for the rounds.
func SKUs(rounds []Round) (skus []string) {
	for _, r := range rounds {
		skus = append(skus, r.Plan.SKUs...)
	}
	return skus
}
