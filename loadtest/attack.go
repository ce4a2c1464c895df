package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

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
