package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
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
	MySQLDSN   string   `name:"mysql-dsn" exact:"" env:"FLASHSALE_MYSQL_DSN" placeholder:"DSN" help:"The service's database, to audit it: user:password@tcp(host:port)/database. Without it, the service's list of orders is read. If it has none, the proof is partial: accepted orders are read back one by one."`
	Stages     []string `placeholder:"D:RATE" help:"Ramps, in place of --rate and --duration: in each stage the rate changes steadily to RATE, at first from 0. 10s:100,30s:2000,10s:0 ramps up twice, then down; 0s:500 jumps."`
	Mix        []string `placeholder:"CALL=SHARE" help:"Calls by shares, such as order=70,pay=15,cancel=5,browse=10. pay and cancel act on orders of this attack; while there are none, an order is placed. browse reads the list of SKUs or one SKU."`
	Results    []string `sep:"none" placeholder:"FILE" help:"Write the result of each request of the load; repeatable. FILE.jsonl is JSON lines; FILE.bin and FILE.json are vegeta's formats, for vegeta report and vegeta plot."`
	loadFlags

	onSale []string // to be withdrawn
}

// Help follows the command's one line.
func (*attackCmd) Help() string {
	return fmt.Sprintf(`It puts new SKUs on sale and sends orders at --rate. Then it challenges the service: in each burst, %d buyers order the only unit of a SKU at the same time. At the end it withdraws the SKUs.

Verdicts: exact, oversold, lost (an answer and its order do not match), undersold (units are left, but buyers were refused), failed (errors), and not-challenged (nothing broke, but fewer than %d bursts were contended). See docs/attack.md.

Exit status: 0 if the verdict is exact and all thresholds hold, 99 if it is exact and a threshold failed, 1 for every other verdict and for errors. SIGINT or SIGTERM ends the load, and the results so far are written; a second signal ends the program at once.

Examples (with --target, --jwt-secret and --admin-token):

  loadtest attack --rate 2000 --duration 30s --threshold 'p99<50ms' --threshold 'errors<0.1%%' --junit junit.xml

  loadtest attack --stages 10s:100,30s:2000,10s:0 --mix order=70,pay=15,cancel=5,browse=10

  loadtest attack --results results.bin --compare before/proof.json && vegeta plot results.bin > plot.html`,
		proof.BurstBuyers, proof.ContendedBursts)
}

const (
	// callers bounds the calls that put SKUs on sale, read orders back or withdraw SKUs at
	// the same time: enough to finish soon, too few to be a second attack.
	callers = 16
	// agreeTimeout bounds how long replicas may take to show a new SKU, and the stock
	// after the last order.
	agreeTimeout = 5 * time.Second
	agreePause   = 50 * time.Millisecond
	// closingTimeout bounds what is done after a signal: the answers that are still missing,
	// reading the orders, and the result.
	closingTimeout = time.Minute
	// withdrawTimeout bounds the withdrawal of what was put on sale.
	withdrawTimeout = 30 * time.Second
	// challengeReadLimit bounds reading the records of a challenge, from a service that answers
	// each call at the last moment. It is shorter than closingTimeout.
	challengeReadLimit = 30 * time.Second
	// refusedPatience bounds how long one call beside the load is repeated. It is longer than
	// the 10 s of a usual request limit, which the load may have used up.
	refusedPatience = 15 * time.Second
	// offerLimit bounds how long the SKUs of a challenge take. A limit of few requests an hour
	// would let each of them through, one after the other, for minutes.
	offerLimit = time.Minute
	// answerTimeout bounds the wait for one target, while there are others to ask.
	answerTimeout = 2 * time.Second
)

// Run attacks a running service. It creates new SKUs, does not touch others, and withdraws
// its own at the end. The first signal ends the load: what there is gets written. A second
// one ends the program at once.
func (c *attackCmd) Run(ctx context.Context, s streams) (err error) {
	defer func() { err = c.end("attack", err) }()
	for i, target := range c.Targets {
		if c.Targets[i], err = attack.ParseTarget(target); err != nil {
			return err
		}
	}
	plan, err := c.load()
	if err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	db, err := c.database(ctx)
	if err != nil {
		return err
	}
	if db != nil {
		defer func() { err = errors.Join(err, db.Close()) }()
	}
	for _, target := range plan.Targets {
		if err := c.service(target).Check(ctx); err != nil {
			return err
		}
	}
	defer context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })()
	defer func() {
		stay := c.withdraw(ctx, s)
		if stay != nil && judged(err) {
			fmt.Fprintf(s.err, "loadtest: %v\n", stay) // main prints no error of a judged run
		}
		err = errors.Join(err, stay)
	}()
	return c.sell(ctx, s, db, plan)
}

// load returns the plan with its stages and calls.
func (c *attackCmd) load() (attack.Plan, error) {
	plan, err := c.plan(c.Targets...)
	if err != nil {
		return plan, err
	}
	for _, file := range c.Results {
		if err := attack.CheckResults(file); err != nil {
			return plan, err
		}
	}
	if plan.Mix, err = attack.ParseMix(c.Mix); err != nil {
		return plan, err
	}
	stages, err := attack.ParseStages(c.Stages)
	if err != nil {
		return plan, err
	}
	if len(stages) > 0 {
		plan.Ramp(stages)
	}
	return plan, plan.Check()
}

// results opens the files of --results. closed closes them, and returns what could not be
// written.
func (c *attackCmd) results() (list []*attack.Results, closed func() error, err error) {
	var files []*os.File
	closed = func() error {
		var errs []error
		for i, f := range files {
			if err := errors.Join(list[i].Err(), f.Close()); err != nil {
				errs = append(errs, fmt.Errorf("--results %s: %w", c.Results[i], err))
			}
		}
		return errors.Join(errs...)
	}
	for _, name := range c.Results {
		f, err := os.Create(name)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("--results: %w", err), closed())
		}
		files, list = append(files, f), append(list, attack.NewResults(name, f))
	}
	return list, closed, nil
}

// sell puts SKUs on sale, attacks and publishes the proof.
func (c *attackCmd) sell(signalled context.Context, s streams, db *proof.Database, plan attack.Plan) (err error) {
	// The service's strategy is unknown: assume the default.
	row, err := strategy.Find(strategy.Default)
	if err != nil {
		return err
	}
	setting := proof.Setting{
		Replicas: len(c.Targets), Expected: strategy.Exact, Stock: c.units(row, &plan), Plan: plan,
	}
	listed, err := c.conforms(signalled, &plan)
	if err != nil {
		return err
	}
	// Opening the files empties them: a service that cannot be attacked must not cost the
	// earlier results.
	results, closed, err := c.results()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closed()) }()
	if err := c.offer(signalled, &plan, setting.Stock); err != nil {
		return err
	}
	ctx, cancel := outlive(signalled, closingTimeout)
	defer cancel()
	progress := newMeter(s.err)
	defer progress.stop()
	label := fmt.Sprintf("%d buyers for %d units", plan.Orders(), setting.Stock)
	load := attack.Config{Plan: plan, JWTSecret: c.JWTSecret, Stop: signalled.Done(), Before: signalled.Err, Results: results}
	result, samples, err := watched(ctx, db, progress, label, load)
	if err != nil {
		return cmp.Or(context.Cause(signalled), err)
	}
	var rounds []proof.Round
	var failed error // of the challenge
	if signalled.Err() == nil {
		c.preferAnswering(ctx)
		rounds, failed = c.challenge(ctx, progress, "", load, func(skus *attack.Plan) error {
			ctx, cancel := context.WithTimeoutCause(signalled, offerLimit, fmt.Errorf("its SKUs were not on sale within %s", offerLimit))
			defer cancel()
			return c.offer(ctx, skus, int64(len(skus.SKUs)))
		})
	}
	interrupted := signalled.Err() != nil
	progress.stop()
	c.preferAnswering(ctx)
	all := proof.Round{Plan: plan, Answers: result.Answers, Units: setting.Stock}
	records, err := c.read(ctx, db, listed, []proof.Round{all})
	if err != nil {
		return err
	}
	if len(rounds) > 0 {
		reading, cancel := context.WithTimeout(ctx, challengeReadLimit)
		defer cancel()
		more, err := c.read(reading, db, listed, rounds)
		if err != nil {
			// The load's figures do not depend on the records of the challenge.
			failed, rounds = cmp.Or(failed, err), nil
		}
		records.Append(more)
	}
	ours := records.Of(plan.SKUs)
	ours.Samples = samples
	run := proof.Assess(setting, result, ours)
	run.Interrupted = interrupted
	challenge := proof.Challenged(rounds, records)
	if failed != nil {
		challenge.Failed = failed.Error()
	}
	run.Weigh(challenge)
	return c.publish(s, &proof.Proof{Seed: plan.Seed, Partial: db == nil && !listed, Runs: []proof.Run{run}})
}

// outlive returns a context that ends some time after ctx does.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		_ = sleep.For(longer, by) // it ends early with longer
		cancel()
	})
	return longer, cancel
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
