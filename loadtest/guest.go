package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/sleep"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// The calls of an attack beside its load: it puts SKUs on sale, withdraws them, and reads the
// orders.

func (c *attackCmd) service(target string) *attack.Service {
	return &attack.Service{URL: target, AdminToken: c.AdminToken, JWTSecret: c.JWTSecret, Patience: refusedPatience}
}

// preferAnswering moves the first target that answers to the front: the calls beside the
// load go there, and the load may have brought a target down.
func (c *attackCmd) preferAnswering(ctx context.Context) {
	if len(c.Targets) == 1 {
		return
	}
	for i, target := range c.Targets {
		asked, cancel := context.WithTimeout(ctx, answerTimeout)
		answers := c.service(target).Answers(asked)
		cancel()
		if answers {
			c.Targets = slices.Concat(c.Targets[i:], c.Targets[:i]) // the plan keeps its own order
			return
		}
	}
}

// offer puts the SKUs of a plan on sale, and waits until each target shows them.
func (c *attackCmd) offer(ctx context.Context, plan *attack.Plan, units int64) error {
	service := c.service(c.Targets[0])
	for i, sku := range plan.SKUs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// A signal must not leave it unknown whether the SKU was created.
		// Nor must an answer that does not arrive: only a definite one removes the SKU again.
		c.onSale = append(c.onSale, sku)
		if err := service.PutOnSale(context.WithoutCancel(ctx), sku, share(units, len(plan.SKUs), i)); err != nil {
			if _, ok := errors.AsType[*attack.NotCreatedError](err); ok {
				c.onSale = c.onSale[:len(c.onSale)-1]
			}
			return err
		}
	}
	last := plan.SKUs[len(plan.SKUs)-1]
	for _, target := range plan.Targets {
		err := until(ctx, func() (bool, error) {
			_, err := c.service(target).Stock(ctx, last)
			return !errors.Is(err, attack.ErrNotFound), err
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("--target %s does not show the SKU that was created at %s; are both replicas of one service? %w", target, c.Targets[0], err)
		}
	}
	return nil
}

// conforms checks the calls that the verdict relies on, with a SKU of their own. It returns
// whether the service lists orders.
func (c *attackCmd) conforms(ctx context.Context, plan *attack.Plan) (listed bool, err error) {
	trial := plan.Bursts([]string{fmt.Sprintf("check-%x", plan.Seed)}, 2)
	if err := c.offer(ctx, &trial, 1); err != nil {
		return false, err
	}
	return c.service(plan.Targets[0]).Conforms(ctx, &trial)
}

// withdraw takes off sale what offer put on sale. Other services may not offer that: it
// then only says what stays on sale.
func (c *attackCmd) withdraw(ctx context.Context, s streams) error {
	if len(c.onSale) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	c.preferAnswering(ctx)
	service := c.service(c.Targets[0])
	var group errgroup.Group
	group.SetLimit(callers)
	for _, sku := range c.onSale {
		group.Go(func() error { return service.Withdraw(ctx, sku) })
	}
	err := group.Wait()
	if err == nil {
		return nil
	}
	stay := fmt.Errorf("SKUs of this test may still be on sale, %s to %s: %w", c.onSale[0], c.onSale[len(c.onSale)-1], err)
	if errors.Is(err, attack.ErrNoWithdrawal) {
		fmt.Fprintf(s.err, "loadtest: %v\n", stay)
		return nil
	}
	return stay
}

// read reads the database or, without one, what the service shows: the lists of orders or,
// if it has none, the accepted orders one by one.
func (c *attackCmd) read(ctx context.Context, db *proof.Database, listed bool, rounds []proof.Round) (records proof.Records, err error) {
	if db != nil {
		return db.Records(ctx, proof.SKUs(rounds))
	}
	service := c.service(c.Targets[0])
	// A replica may show stock from memory, a moment late: read until it agrees with the
	// orders. If it never does, that is the result.
	settling, cancel := context.WithTimeout(ctx, agreeTimeout)
	defer cancel()
	for _, round := range rounds {
		var rows []proof.Row
		var stocks []attack.Stock
		uncertain := round.Answers
		if listed {
			uncertain = nil
		} else if rows, err = c.readBack(ctx, &round.Plan, round.Answers); err != nil {
			return records, fmt.Errorf("read the accepted orders back: %w", err)
		}
		keys := sync.OnceValue(func() map[string]string { return keysOf(&round) })
		for i, sku := range round.Plan.SKUs {
			var stock attack.Stock
			others := rows
			err := until(settling, func() (_ bool, err error) {
				if listed {
					if rows, err = c.list(ctx, sku, others, keys); err != nil {
						return true, err
					}
				}
				stock, err = service.Stock(ctx, sku)
				return err != nil || stock.Available == stock.Units-proof.Held(rows, sku), err
			})
			if err != nil && !errors.Is(err, errNotYet) {
				return records, err
			}
			// A service that adds up its units from its orders would show no oversell.
			if put := share(round.Units, len(round.Plan.SKUs), i); stock.Units != put {
				records.Violations = append(records.Violations, proof.UnitsChanged(&stock, put))
				stock.Units = put
			}
			stocks = append(stocks, stock)
		}
		of := proof.RecordsOf(rows, stocks, &round.Plan, uncertain)
		records.Append(of)
	}
	return records, nil
}

// list appends a SKU's orders to rows. A service that does not show keys has one order for
// each customer: keys are those of the customers' requests.
func (c *attackCmd) list(ctx context.Context, sku string, rows []proof.Row, keys func() map[string]string) ([]proof.Row, error) {
	orders, err := c.service(c.Targets[0]).Orders(ctx, sku)
	if err != nil {
		return nil, err
	}
	for _, o := range orders {
		if o.Key == "" {
			o.Key = keys()[o.Customer]
		}
		rows = append(rows, proof.Row{ID: uuid.UUID(o.ID), SKU: o.SKU, Customer: o.Customer, Key: o.Key, Quantity: o.Quantity, Status: o.Status})
	}
	return rows, nil
}

// keysOf returns the key of each customer's request: each customer has one.
func keysOf(round *proof.Round) map[string]string {
	keys := make(map[string]string, len(round.Answers))
	for seq := range round.Answers {
		o := round.Plan.Order(seq)
		keys[o.Customer] = o.Key
	}
	return keys
}

// readBack reads each accepted order as its customer, from another replica than the one
// that accepted it, if there are several.
func (c *attackCmd) readBack(ctx context.Context, plan *attack.Plan, answers []attack.Answer) ([]proof.Row, error) {
	client := attack.NewClient(callers)
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var rows []proof.Row
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(callers)
	for seq := range answers {
		if answers[seq].Outcome != attack.Accepted {
			continue
		}
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			service := c.service(plan.Targets[(seq+1)%len(plan.Targets)])
			service.Client = client
			asked := plan.Order(seq)
			order, err := service.Order(ctx, answers[seq].OrderID, asked.Customer)
			if errors.Is(err, attack.ErrNotFound) {
				return nil // lost: proof.Join reports it
			}
			if err != nil {
				return err
			}
			// The service does not show the key and the customer, but only the customer may
			// read the order.
			mu.Lock()
			defer mu.Unlock()
			rows = append(rows, proof.Row{
				ID: order.ID, SKU: order.SKU, Customer: asked.Customer, Key: asked.Key, Quantity: order.Quantity, Status: order.Status,
			})
			return nil
		})
	}
	return rows, group.Wait()
}

var errNotYet = errors.New("not within " + agreeTimeout.String())

func until(ctx context.Context, look func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, agreeTimeout)
	defer cancel()
	for {
		done, err := look()
		if done {
			return err
		}
		if sleep.For(ctx, agreePause) != nil {
			if err == nil {
				return errNotYet
			}
			return fmt.Errorf("%w: %w", errNotYet, err)
		}
	}
}
