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

	"flashsale/internal/order"
	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/lockserver"
	"flashsale/loadtest/proof"
)

type proveCmd struct {
	Strategies []string `default:"none,process,etcd" placeholder:"NAME" help:"Strategies to run, one after the other, or all (default ${default}). One or more of ${strategies}."`
	Fence      string   `default:"claim" placeholder:"off|write|claim" help:"What MySQL does with the fencing tokens of locks that have them (default ${default}). off: nothing. write: compares the token at each write. claim: stores it before the stock is read."`
	replicaFlags
	databaseFlags
	clusterFlags
	loadFlags
	MySQLDSN      string   `name:"mysql-dsn" placeholder:"DSN" help:"Your own MySQL, instead of a private server: user:password@tcp(host:port)/. Each run creates a database there and drops it."`
	EtcdEndpoints []string `name:"etcd-endpoints" placeholder:"URL" help:"Your own etcd, instead of a private one."`
}

// Run proves one strategy after the other, on the same servers. Each has its own
// database and replicas.
func (c *proveCmd) Run(ctx context.Context, s streams) (err error) {
	defer func() { err = c.end("prove", err) }()
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
		return errors.New("--mysql-nodes is for a private database; omit it with --mysql-dsn, which may list several hosts")
	}
	if err := c.begin(); err != nil {
		return err
	}
	if err := lockserver.Check(strategies...); err != nil {
		return err
	}
	servers, err := c.servers(ctx, s)
	if err != nil {
		return err
	}
	defer servers.stop()
	progress := newMeter(s.err)
	defer progress.stop()
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

// servers starts a private database unless the user named one.
func (c *proveCmd) servers(ctx context.Context, s streams) (own *servers, err error) {
	if c.MySQLDSN == "" {
		own, err = startServers(ctx, s, sandbox.Config{Database: c.Database, MySQLNodes: c.MySQLNodes})
	} else {
		own = &servers{dsn: c.MySQLDSN}
		if err = own.exec(ctx, "SELECT 1"); err != nil {
			err = fmt.Errorf("--mysql-dsn: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	own.etcd = c.EtcdEndpoints
	return own, nil
}

func (c *proveCmd) parse() ([]strategy.Strategy, strategy.Fence, error) {
	fence, err := strategy.ParseFence(c.Fence)
	if err != nil {
		return nil, "", fmt.Errorf("--fence: %w", err)
	}
	list, err := findStrategies(c.Strategies)
	return list, fence, err
}

// onSeveralWriters removes the strategies that need a single primary; replicas refuse to
// start with them. It returns an error if one was named.
func (c *proveCmd) onSeveralWriters(list []strategy.Strategy) (fit []strategy.Strategy, err error) {
	for _, row := range list {
		switch {
		case !row.OnePrimary:
			fit = append(fit, row)
		case !slices.Equal(c.Strategies, []string{"all"}):
			return nil, fmt.Errorf("--strategies: %s is not safe on Galera, where several servers accept writes; omit it, or use --database mysql", row.Name)
		}
	}
	return fit, nil
}

func lockStrategies(names []string) ([]strategy.Strategy, error) {
	named, err := findStrategies(names)
	if err != nil {
		return nil, err
	}
	rows := slices.DeleteFunc(named, func(s strategy.Strategy) bool { return s.Lock == strategy.NoLock })
	if len(rows) == 0 {
		return nil, errors.New("--strategies must name at least one strategy that takes a lock")
	}
	return rows, nil
}

// findStrategies returns the strategies with the given names, or all for "all".
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
			return nil, fmt.Errorf("--strategies: duplicate strategy %q", row.Name)
		}
		list = append(list, row)
	}
	if len(list) == 0 {
		return nil, errors.New("--strategies must name at least one strategy")
	}
	return list, nil
}

// prove makes one run. It stops the replicas, which finish their requests, before it
// audits the database, so that nothing changes during the audit.
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
	cfg, err := servers.replica(ctx, row.Name, c.API, dsn)
	if err != nil {
		return run, err
	}
	cfg.Fence = string(setting.Fence)
	fleet, err := startFleet(ctx, cfg, c.Replicas)
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
	load := attack.Config{Plan: plan, JWTSecret: fleet.JWTSecret}
	result, samples, err := watched(ctx, db, progress, label, load)
	if err != nil {
		return run, err
	}
	rounds, err := c.challenge(ctx, progress, row.Name+": ", load, func(skus *attack.Plan) error {
		return putOnSale(ctx, service, skus, int64(len(skus.SKUs)))
	})
	if err != nil {
		return run, err
	}
	if err := errors.Join(fleet.Dead(), fleet.Stop()); err != nil {
		return run, err
	}
	all, err := db.Records(ctx, append(proof.SKUs(rounds), plan.SKUs...))
	if err != nil {
		return run, err
	}
	if row.Write == strategy.EtcdCompareAndSwap {
		more, err := servers.auditBoth(ctx, c.API, dsn, row)
		if err != nil {
			return run, err
		}
		all.Violations = append(all.Violations, more...)
	}
	records := all.Of(plan.SKUs)
	records.Samples = samples
	run = proof.Assess(setting, result, records)
	run.Weigh(proof.Challenged(rounds, all))
	return run, nil
}

// auditBoth runs the service's own audit, which compares the two stores of a strategy
// that has two.
func (s *servers) auditBoth(ctx context.Context, api, dsn string, row strategy.Strategy) ([]stock.Violation, error) {
	at, err := s.lockServer(ctx, row)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, api, append([]string{"audit", "--json"}, at.Flags()...)...)
	cmd.Env = append(os.Environ(), "FLASHSALE_MYSQL_DSN="+dsn)
	text, err := cmd.Output()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return nil, err
	}
	var report stock.Report
	if jsonErr := json.Unmarshal(text, &report); jsonErr != nil { // the audit failed; the reason is on stderr
		return nil, fmt.Errorf("%s audit: %w", api, errors.Join(err, jsonErr))
	}
	var found []stock.Violation
	for _, v := range report.Violations {
		if v.Invariant == order.NoGap || strings.HasPrefix(v.Detail, "etcd") { // proof finds the others
			found = append(found, v)
		}
	}
	return found, nil
}

// watched runs an attack and samples the stock during it, if there is a database.
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

func putOnSale(ctx context.Context, service *attack.Service, plan *attack.Plan, units int64) error {
	for i, sku := range plan.SKUs {
		if err := service.PutOnSale(ctx, sku, share(units, len(plan.SKUs), i)); err != nil {
			return err
		}
	}
	return nil
}

// databaseName returns a name that needs no quotes.
func databaseName(seed uint64, strategy string) string {
	return fmt.Sprintf("flashsale_%x_%s", seed, strings.ReplaceAll(strategy, "-", "_"))
}
