package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flashsale/internal/mutant"
	"flashsale/internal/sandbox"
	"flashsale/loadtest/faults"
)

type faultsCmd struct {
	databaseFlags
	apiFlag
	Scenarios []string      `placeholder:"NAME" help:"Scenarios to run (default: all): ${scenarios}."`
	Short     bool          `help:"Run the short list only, in at most 2 minutes."`
	Runs      int           `default:"1" placeholder:"N" help:"Runs of each scenario (default ${default}). From 3 on, the median of the time without a sale has to meet its goal."`
	Mutants   bool          `help:"Seed faults in the service's code, one at a time, and show which scenario catches each. Needs Go and the source code in this folder."`
	Only      []string      `placeholder:"NAME" help:"With --mutants: these mutants only (default: all): ${mutants}."`
	Chaos     time.Duration `default:"10m" placeholder:"D" help:"How long the scenario chaos makes one random fault after another (default ${default})."`
	LockTTL   time.Duration `name:"lock-ttl" default:"2s" placeholder:"D" help:"How long a lock outlives a replica that died (default ${default})."`
	Rate      int           `default:"500" placeholder:"N" help:"Orders per second for the hot SKU (default ${default})."`
	Buyers    int           `default:"4096" placeholder:"N" help:"Maximum number of orders for the hot SKU that wait for an answer (default ${default})."`
	Mixed     int           `default:"100" placeholder:"N" help:"Orders, retries, payments, cancellations and restocks per second on small SKUs (default ${default})."`
	seedFlag
	outFlag `embed:"" set:"file=faults.json and faults.html"`
}

// Help is shown by --help.
func (*faultsCmd) Help() string {
	return `Each scenario starts its own servers and three replicas, sends orders and mixed calls, makes one thing fail, ends the fault, and waits until every replica sells again. Then everything is checked: each answer has its row, the audit finds nothing, the history of each small SKU is linearizable, and no process, lease, key, connection or goroutine is left.

As root, replicas and servers have network namespaces of their own, and packets between them are dropped. Otherwise TCP relays hold back what is sent, and the report says so.

The exit status is 1 if an invariant broke, if orders did not flow again in time, or if a mutant survived.`
}

const (
	maxFaultRuns = 1000
	maxBuyers    = 8192
)

func (c *faultsCmd) check() error {
	return cmp.Or(between("--runs", c.Runs, 1, maxFaultRuns), between("--buyers", c.Buyers, 1, maxBuyers), atLeast("--rate", c.Rate, 1), atLeast("--mixed", c.Mixed, 1),
		atLeast("--chaos", c.Chaos, time.Second), atLeast("--lock-ttl", c.LockTTL, 2*time.Second))
}

// Run makes all runs of each scenario.
func (c *faultsCmd) Run(ctx context.Context, s streams) error {
	if err := c.check(); err != nil {
		return err
	}
	list, err := c.list()
	if err != nil {
		return err
	}
	if err := cmp.Or(c.find(), c.create()); err != nil {
		return err
	}
	c.pick()
	network, why := sandbox.BestNetwork()
	if why != "" {
		why = " (" + why + ")"
	}
	figures := faults.Figures{Command: c.command(), Date: today(), Machine: machine(), Network: string(network)}
	fmt.Fprintf(s.out, "Links are cut by %s%s. Seed %d.\n", network, why, c.Seed)
	builds, err := os.MkdirTemp("", "loadtest-builds-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(builds) }()
	cfg := faults.Config{
		API: c.API, Database: c.Database, Network: network, LockTTL: c.LockTTL, Rate: c.Rate, Buyers: c.Buyers, Mixed: c.Mixed, Seed: c.Seed, Chaos: c.Chaos,
		Visual: c.Out,
	}
	if c.Mutants {
		err = c.runMutants(ctx, s, cfg, builds, &figures)
	} else {
		err = c.runScenarios(ctx, s, cfg, list, builds, &figures)
	}
	if err != nil {
		return err
	}
	figures.Settle()
	if err := faults.Save(c.Out, &figures); err != nil {
		return err
	}
	if err := figures.Write(s.out); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Written: %[1]s/%[2]s and %[1]s/%[3]s\n", c.Out, faults.ResultFile, faults.PageFile)
	if !figures.OK {
		fmt.Fprintln(s.out, "\nNot proven: see what is not ok.")
		return errNotProven
	}
	return nil
}

// list returns the scenarios that the flags name.
func (c *faultsCmd) list() ([]faults.Scenario, error) {
	switch {
	case c.Mutants && (c.Short || len(c.Scenarios) > 0):
		return nil, errors.New("--mutants chooses the scenarios itself: leave out --scenarios and --short")
	case len(c.Only) > 0 && !c.Mutants:
		return nil, errors.New("--only names mutants: add --mutants")
	case c.Short && len(c.Scenarios) > 0:
		return nil, errors.New("--short and --scenarios exclude each other")
	case c.Short:
		return faults.Short(), nil
	case len(c.Scenarios) == 0:
		return faults.All(), nil
	}
	list, err := faults.Find(c.Scenarios)
	if err != nil {
		return nil, fmt.Errorf("--scenarios: %w", err)
	}
	return list, nil
}

func (c *faultsCmd) command() string {
	text := fmt.Sprintf("bin/loadtest faults --runs %d --lock-ttl %s --rate %d --buyers %d --mixed %d --seed %d", c.Runs, c.LockTTL, c.Rate, c.Buyers, c.Mixed, c.Seed)
	for flag, list := range map[string][]string{" --scenarios ": c.Scenarios, " --mutants --only ": c.Only} {
		if len(list) > 0 {
			text += flag + strings.Join(list, ",")
		}
	}
	if c.Short {
		text += " --short"
	}
	if c.Mutants && len(c.Only) == 0 {
		text += " --mutants"
	}
	if c.Database != "" {
		text += " --database " + string(c.Database)
	}
	return text
}

func (c *faultsCmd) runScenarios(ctx context.Context, s streams, cfg faults.Config, list []faults.Scenario, builds string, figures *faults.Figures) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	for run := range c.Runs {
		for i := range list {
			cfg.Scenario = &list[i]
			if cfg.Scenario.Clocks() && cfg.ClockAPI == "" {
				fmt.Fprintln(s.err, "Building a replica whose clock can jump ...")
				if cfg.ClockAPI, err = mutant.Build(ctx, root, builds, &mutant.Clock, "./cmd/api"); err != nil {
					return fmt.Errorf("%s: %w", cfg.Scenario.Name, err)
				}
			}
			result, err := faults.Run(ctx, cfg)
			if err != nil {
				return err
			}
			result.Run = run + 1
			cfg.Seed++
			figures.Scenarios = append(figures.Scenarios, result)
			fmt.Fprintf(s.out, "%d/%d %s\n", run+1, c.Runs, &result)
		}
	}
	return nil
}

func (c *faultsCmd) runMutants(ctx context.Context, s streams, cfg faults.Config, builds string, figures *faults.Figures) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	list, err := mutant.Find(c.Only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	for i := range list {
		m := &list[i]
		dir := filepath.Join(builds, m.Name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		result, err := faults.RunMutant(ctx, cfg, m, root, dir, func(r *faults.Result) { fmt.Fprintf(s.err, "%s: %s\n", m.Name, r) })
		if err != nil {
			return err
		}
		cfg.Seed += 100
		figures.Mutants = append(figures.Mutants, result)
		fmt.Fprintf(s.out, "%s: %s\n", m.Name, result.String())
	}
	return nil
}
