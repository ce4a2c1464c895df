package main

import (
	"context"
	"fmt"

	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// challenge makes the trial after a load, and shows its progress. offer puts the SKUs of a
// plan on sale, with one unit each.
func (f *loadFlags) challenge(ctx context.Context, progress *meter, name string, load attack.Config, offer func(*attack.Plan) error) ([]proof.Round, error) {
	trial := proof.Trial{
		Load: load, Offer: offer, UntilContended: f.UntilContended,
		Show: func(buyers int) (step, end func()) {
			return progress.task(fmt.Sprintf("%s%d buyers at once for a last unit", name, buyers), proof.ContendedBursts)
		},
	}
	return trial.Run(ctx)
}
