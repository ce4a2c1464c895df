package bench

import (
	"context"
	"errors"
	"runtime"

	"golang.org/x/sync/errgroup"

	"flashsale/loadtest/attack"
)

// tokens are the customers' tokens, which are signed before the first run and used
// in all runs. They have the same length and share one slice, which the garbage
// collector does not scan.
type tokens struct {
	text   []byte
	length int
}

func mint(ctx context.Context, seed uint64, secret string, n int) (*tokens, error) {
	plan := attack.Plan{Targets: []string{""}, SKUs: []string{""}, MaxQuantity: 1, Seed: seed}
	first, err := attack.Token(plan.Order(0).Customer, secret)
	if err != nil {
		return nil, err
	}
	t := &tokens{text: make([]byte, n*len(first)), length: len(first)}
	group, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() error {
			for seq := w; seq < n; seq += workers {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				token, err := attack.Token(plan.Order(seq).Customer, secret)
				if err != nil {
					return err
				}
				if copy(t.of(seq), token) != t.length || len(token) != t.length {
					return errors.New("the customers' tokens differ in length")
				}
			}
			return nil
		})
	}
	return t, group.Wait()
}

func (t *tokens) of(seq int) []byte { return t.text[seq*t.length : (seq+1)*t.length] }

func (t *tokens) count() int { return len(t.text) / t.length }
