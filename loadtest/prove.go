package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"flashsale/internal/backend"
	"flashsale/internal/order"
	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/lockserver"
	"flashsale/loadtest/proof"
)

type proveCmd struct {
	Strategies []string `default:"none,process,etcd" placeholder:"NAME" help:"Strategies to run, in turn, or all (default ${default}). There are ${strategies}."`
	Fence      string   `default:"claim" placeholder:"off|write|claim" help:"What MySQL does with fencing tokens, where the lock yields them (default ${default})."`
	replicaFlags
	databaseFlags
	clusterFlags
	loadFlags
	MySQLDSN      string   `name:"mysql-dsn" placeholder:"DSN" help:"MySQL of your own: user:password@tcp(host:port)/. Each run makes a database there, and drops it. Without it, a private server is started."`
	EtcdEndpoints []string `name:"etcd-endpoints" placeholder:"URL" help:"etcd of your own. Without it, a private one is started."`
}

// Run proves each strategy in turn, on the same servers, with a database and
// replicas of its own.
func (c *proveCmd) Run(ctx context.Context, s streams) error {
	strategies, fence, err := c.parse()
	if err != nil {
		return err
	}
	plan, err := c.plan("http://replica")
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	if c.MySQLDSN != "" && c.MySQLNodes > 1 {
		return errors.New("--mysql-nodes is for a private database; leave it out with --mysql-dsn, which may list several hosts")
	}
	if err := lockserver.Check(strategies...); err != nil {
		return err
	}
	progress := newMeter(s.err)
	defer progress.stop()
	progress.say("Starting the servers ...")
	servers, err := startServers(ctx, sandbox.Config{Database: c.Database, MySQLNodes: c.MySQLNodes}, c.MySQLDSN, c.EtcdEndpoints)
	if err != nil {
		return err
	}
	defer servers.stop()
	nameDatabase(s, servers.version)
	if servers.allWrite() {
		if strategies, err = c.onSeveralWriters(strategies); err != nil {
			return err
		}
	}

	p := &proof.Proof{Seed: plan.Seed, Database: servers.version}
	for _, row := range strategies {
		run, err := c.prove(ctx, servers, progress, row, fence, plan)
		if err != nil {
			return fmt.Errorf("%s: %w", row.Name, err)
		}
		p.Runs = append(p.Runs, run)
	}
	progress.stop()
	return c.publish(s, p)
}

func (c *proveCmd) parse() ([]strategy.Strategy, strategy.Fence, error) {
	fence, err := strategy.ParseFence(c.Fence)
	if err != nil {
		return nil, "", fmt.Errorf("--fence: %w", err)
	}
	list, err := findStrategies(c.Strategies)
	return list, fence, err
}

// onSeveralWriters leaves out, where all strategies are asked for, those that are right
// with one primary alone, and which replicas refuse.
func (c *proveCmd) onSeveralWriters(list []strategy.Strategy) (fit []strategy.Strategy, err error) {
	for _, row := range list {
		switch {
		case !row.OnePrimary:
			fit = append(fit, row)
		case !slices.Equal(c.Strategies, []string{"all"}):
			return nil, fmt.Errorf("--strategies: %s is not right on Galera, where several servers take writes; leave it out, or run with --database mysql", row.Name)
		}
	}
	return fit, nil
}

// findStrategies finds those of the names, or all of them.
func findStrategies(names []string) ([]strategy.Strategy, error) {
	if slices.Equal(names, []string{"all"}) {
		return strategy.All(), nil
	}
	var list []strategy.Strategy
	for _, name := range names {
		row, err := strategy.Find(strings.TrimSpace(name))
		if err != nil {
			return nil, fmt.Errorf("--strategies: %w", err)
		}
		if slices.Contains(list, row) {
			return nil, fmt.Errorf("--strategies: %q stands twice", row.Name)
		}
		list = append(list, row)
	}
	if len(list) == 0 {
		return nil, errors.New("--strategies names none")
	}
	return list, nil
}

// prove makes one run. The replicas are stopped, and have finished what they
// were serving, before the database is audited: nothing moves any more.
func (c *proveCmd) prove(ctx context.Context, servers *servers, progress *meter, row strategy.Strategy,
	fence strategy.Fence, plan attack.Plan) (run proof.Run, err error) {
	setting := proof.Setting{
		Strategy: row.Name, Fence: row.FenceFor(fence), Replicas: c.Replicas,
		Expected: row.Expect(c.Replicas), Stock: c.units(row, &plan),
	}
	dsn, drop, err := servers.database(ctx, databaseName(plan.Seed, row.Name))
	if err != nil {
		return run, err
	}
	defer drop()
	at, err := servers.lockServer(ctx, row)
	if err != nil {
		return run, err
	}
	fleet, err := startFleet(ctx, sandbox.ReplicaConfig{
		Program: c.API, MySQLDSN: dsn, Strategy: row.Name, Fence: string(setting.Fence),
		Args: append(at.Flags(), "--log-level=warn"),
	}, c.Replicas)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, fleet.Stop()) }()
	plan.Targets = fleet.URLs()
	setting.Plan = plan
	db, err := proof.Open(dsn)
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	service := &attack.Service{URL: plan.Targets[0], AdminToken: fleet.AdminToken, JWTSecret: fleet.JWTSecret}
	if err := putOnSale(ctx, service, &plan, setting.Stock); err != nil {
		return run, err
	}
	label := fmt.Sprintf("%s: %d buyers for %d units", row.Name, plan.Requests(), setting.Stock)
	result, samples, err := watched(ctx, db, progress, label, attack.Config{Plan: plan, JWTSecret: fleet.JWTSecret})
	if err != nil {
		return run, err
	}
	if err := errors.Join(fleet.Dead(), fleet.Stop()); err != nil {
		return run, err
	}
	books, err := db.Records(ctx, plan.SKUs)
	if err != nil {
		return run, err
	}
	books.Samples = samples
	if row.Write == strategy.EtcdCompareAndSwap {
		more, err := auditBoth(ctx, c.API, dsn, at)
		if err != nil {
			return run, err
		}
		books.Violations = append(books.Violations, more...)
	}
	return proof.Assess(setting, result, books), nil
}

// auditBoth asks the service's own audit what is wrong between the two stores of
// a strategy that has two.
func auditBoth(ctx context.Context, api, dsn string, at *backend.Servers) ([]stock.Violation, error) {
	cmd := exec.CommandContext(ctx, api, append([]string{"audit", "--json"}, at.Flags()...)...)
	cmd.Env = append(os.Environ(), "FLASHSALE_MYSQL_DSN="+dsn)
	text, err := cmd.Output()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return nil, err
	}
	var report stock.Report
	if jsonErr := json.Unmarshal(text, &report); jsonErr != nil { // it said why on stderr
		return nil, fmt.Errorf("%s audit: %w", api, errors.Join(err, jsonErr))
	}
	var found []stock.Violation
	for _, v := range report.Violations {
		if v.Invariant == order.NoGap || strings.HasPrefix(v.Detail, "etcd") { // the rest is in the books
			found = append(found, v)
		}
	}
	return found, nil
}

// watched attacks, and samples the stock meanwhile if there is a database.
func watched(ctx context.Context, db *proof.Database, progress *meter, label string, cfg attack.Config) (*attack.Result, []proof.Sample, error) {
	step, end := progress.task(label, cfg.Plan.Requests())
	defer end()
	cfg.OnAnswer = func(attack.Answer) { step() }
	if db == nil {
		result, err := attack.Run(ctx, cfg)
		return result, nil, err
	}
	stop := db.Watch(ctx, cfg.Plan.SKUs)
	result, err := attack.Run(ctx, cfg)
	return result, stop(), err
}

// putOnSale creates the plan's SKUs, with the units shared out among them.
func putOnSale(ctx context.Context, service *attack.Service, plan *attack.Plan, units int64) error {
	for i, sku := range plan.SKUs {
		if err := service.PutOnSale(ctx, sku, share(units, len(plan.SKUs), i)); err != nil {
			return err
		}
	}
	return nil
}

// databaseName is in the letters that need no quoting anywhere.
func databaseName(seed uint64, strategy string) string {
	return fmt.Sprintf("flashsale_%x_%s", seed, strings.ReplaceAll(strategy, "-", "_"))
}
