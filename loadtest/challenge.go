package main

import (
	"context"
	"fmt"
	"time"

	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

const (
	// roundLimit bounds the bursts of a round. They take a second or two, or most of this
	// with a slow lock.
	roundLimit = time.Minute
	// maxAtOnce bounds the buyers of --until-contended. Each has a connection.
	maxAtOnce = 256
)

// challenge lets buyers order last units at once, as proof.Challenge describes: the
// evidence that a run was exact by design and not by chance. offer puts the SKUs of a plan
// on sale, with one unit each. An error comes with the rounds before it.
func (f *loadFlags) challenge(ctx context.Context, progress *meter, name string, plan attack.Plan, secret string,
	stop <-chan struct{}, offer func(*attack.Plan) error) (rounds []proof.Round, err error) {
	contended := 0
	for buyers := proof.BurstBuyers; buyers <= maxAtOnce; buyers *= 2 {
		var skus []string
		for i := range proof.Bursts {
			skus = append(skus, fmt.Sprintf("last-%x-%d", plan.Seed, len(rounds)*proof.Bursts+i+1))
		}
		round := proof.Round{Plan: plan.Bursts(skus, buyers), Units: proof.Bursts}
		if err := offer(&round.Plan); err != nil {
			return rounds, err
		}
		step, end := progress.task(fmt.Sprintf("%s%d buyers at once for a last unit", name, buyers), proof.ContendedBursts)
		began := time.Now()
		round.Answers, err = attack.Bursts(ctx, round.Plan, secret, func(burst []attack.Answer) bool {
			if proof.IsContended(burst, len(plan.Targets)) {
				contended++
				step()
			}
			return contended < proof.ContendedBursts && time.Since(began) < roundLimit && !closed(stop)
		})
		end()
		if err != nil {
			return rounds, err
		}
		rounds = append(rounds, round)
		if !f.UntilContended || contended >= proof.ContendedBursts || closed(stop) {
			break
		}
	}
	return rounds, nil
}

func closed(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// sold returns all SKUs that were put on sale.
func sold(rounds []proof.Round) (skus []string) {
	for _, r := range rounds {
		skus = append(skus, r.Plan.SKUs...)
	}
	return skus
}
