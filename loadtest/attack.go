package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sleep"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

type attackCmd struct {
	Targets    []string `name:"target" required:"" placeholder:"URL" help:"Base URLs of the replicas. Requests go to each in turn."`
	JWTSecret  string   `name:"jwt-secret" exact:"" required:"" env:"FLASHSALE_JWT_SECRET" placeholder:"SECRET" help:"The service's HS256 secret. Customers' tokens are signed with it."`
	AdminToken string   `exact:"" required:"" env:"FLASHSALE_ADMIN_TOKEN" placeholder:"TOKEN" help:"The service's administrator token, to put the SKUs on sale."`
	MySQLDSN   string   `name:"mysql-dsn" exact:"" env:"FLASHSALE_MYSQL_DSN" placeholder:"DSN" help:"The service's database, to audit it: user:password@tcp(host:port)/database. Without it, the proof is partial: accepted orders are read back through the service."`
	loadFlags
}

const (
	// readers bounds the orders that are read back at the same time: enough to finish
	// soon, too few to be a second attack.
	readers = 16
	// agreeTimeout bounds how long replicas may take to show a new SKU, and the stock
	// after the last order.
	agreeTimeout = 5 * time.Second
	agreePause   = 50 * time.Millisecond
)

// Run attacks a running service. It creates new SKUs and does not touch others.
func (c *attackCmd) Run(ctx context.Context, s streams) (err error) {
	for i, target := range c.Targets {
		if c.Targets[i], err = attack.ParseTarget(target); err != nil {
			return err
		}
	}
	plan, err := c.plan(c.Targets...)
	if err != nil {
		return err
	}
	db, err := c.database(ctx)
	if err != nil {
		return err
	}
	if db != nil {
		defer func() { err = errors.Join(err, db.Close()) }()
	}
	// The service's strategy is unknown: assume the default.
	row, err := strategy.Find(strategy.Default)
	if err != nil {
		return err
	}
	setting := proof.Setting{
		Replicas: len(c.Targets), Expected: strategy.Exact, Stock: c.units(row, &plan), Plan: plan,
	}
	if err := c.prepare(ctx, setting); err != nil {
		return err
	}
	progress := newMeter(s.err)
	defer progress.stop()
	label := fmt.Sprintf("%d buyers for %d units", plan.Requests(), setting.Stock)
	result, samples, err := watched(ctx, db, progress, label, attack.Config{Plan: plan, JWTSecret: c.JWTSecret})
	if err != nil {
		return err
	}
	progress.stop()
	records, err := c.read(ctx, db, setting, result.Answers)
	if err != nil {
		return err
	}
	records.Samples = samples
	p := &proof.Proof{Seed: plan.Seed, Partial: db == nil, Runs: []proof.Run{proof.Assess(setting, result, records)}}
	return c.publish(s, p)
}

// database opens --mysql-dsn. It returns nil if there is none.
func (c *attackCmd) database(ctx context.Context) (*proof.Database, error) {
	if c.MySQLDSN == "" {
		return nil, nil
	}
	db, err := proof.Open(c.MySQLDSN)
	if err != nil {
		return nil, fmt.Errorf("--mysql-dsn: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, ownServerTimeout)
	defer cancel()
	if err := db.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("--mysql-dsn: %w", err), db.Close())
	}
	return db, nil
}

func (c *attackCmd) service(target string) *attack.Service {
	return &attack.Service{URL: target, AdminToken: c.AdminToken, JWTSecret: c.JWTSecret}
}

// prepare puts the SKUs on sale. It reports what would make the attack meaningless: a
// target that is down or belongs to another service, a wrong secret.
func (c *attackCmd) prepare(ctx context.Context, setting proof.Setting) error {
	plan := &setting.Plan
	for _, target := range plan.Targets {
		if err := c.service(target).Check(ctx); err != nil {
			return err
		}
	}
	if err := putOnSale(ctx, c.service(plan.Targets[0]), plan, setting.Stock); err != nil {
		return err
	}
	last := plan.SKUs[len(plan.SKUs)-1]
	for _, target := range plan.Targets {
		err := until(ctx, func() (bool, error) {
			_, err := c.service(target).Stock(ctx, last)
			return !errors.Is(err, attack.ErrNotFound), err
		})
		if err != nil {
			return fmt.Errorf("--target %s does not show the SKU that was created at %s; are both replicas of one service? %w", target, plan.Targets[0], err)
		}
	}
	return nil
}

// read reads the database or, without one, what the service shows.
func (c *attackCmd) read(ctx context.Context, db *proof.Database, setting proof.Setting, answers []attack.Answer) (proof.Records, error) {
	if db != nil {
		return db.Records(ctx, setting.Plan.SKUs)
	}
	rows, err := c.readBack(ctx, &setting.Plan, answers)
	if err != nil {
		return proof.Records{}, fmt.Errorf("read the accepted orders back: %w", err)
	}
	service := c.service(setting.Plan.Targets[0])
	var stocks []attack.Stock
	for _, sku := range setting.Plan.SKUs {
		// A replica may show stock from memory, a moment late: read until it agrees with
		// the orders. If it never does, that is the result.
		var stock attack.Stock
		err := until(ctx, func() (bool, error) {
			var err error
			stock, err = service.Stock(ctx, sku)
			return err != nil || stock.Available == stock.Units-proof.Held(rows, sku), err
		})
		if err != nil && !errors.Is(err, errNotYet) {
			return proof.Records{}, err
		}
		stocks = append(stocks, stock)
	}
	return proof.RecordsOf(rows, stocks, &setting.Plan, answers), nil
}

// readBack reads each accepted order as its customer, from another replica than the one
// that accepted it, if there are several.
func (c *attackCmd) readBack(ctx context.Context, plan *attack.Plan, answers []attack.Answer) ([]proof.Row, error) {
	client := attack.NewClient(readers)
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var rows []proof.Row
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
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
