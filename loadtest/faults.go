package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	Short     bool          `help:"Run only the scenarios of the short list: about 2 minutes for one run of each."`
	Runs      int           `default:"1" placeholder:"N" help:"Runs of each scenario, but at least 3 of one with a goal for the time without a sale (default ${default}). With 3 or more, the median time without a sale must meet the scenario's goal, if it has one. Ignored with --mutants."`
	Mutants   bool          `help:"Break one rule in the service's code at a time (a mutant), and show which scenario or test catches it. Needs Go, and the source code in the current folder."`
	Only      []string      `placeholder:"NAME" help:"With --mutants: only these mutants (default: all): ${mutants}."`
	Chaos     time.Duration `default:"10m" placeholder:"D" help:"For the scenario chaos: how long to make one random fault after another (default ${default})."`
	LockTTL   time.Duration `name:"lock-ttl" default:"2s" placeholder:"D" help:"How long a lock outlives a replica that died: at least 2s (default ${default})."`
	Rate      int           `default:"500" placeholder:"N" help:"Orders per second for the hot SKU, which does not sell out (default ${default})."`
	Buyers    int           `default:"4096" placeholder:"N" help:"Largest number of orders for the hot SKU that wait for an answer at the same time (default ${default})."`
	Mixed     int           `default:"100" placeholder:"N" help:"Mixed calls per second on SKUs with few units: orders, repeats, payments, cancellations and restocks (default ${default})."`
	seedFlag
	outFlag `embed:"" set:"file=faults.json and faults.html"`
}

// Help is shown by --help.
func (*faultsCmd) Help() string {
	return `Each scenario starts its own servers and three replicas. It sends orders for one hot SKU, and mixed calls on SKUs with few units. It makes one thing fail, ends the fault, and waits until every replica sells again. Then it checks everything: each answer agrees with its row, the audit finds nothing, the history of each SKU with few units is linearizable, and no process, lease, key, connection or goroutine is left.

If you are root, replicas and servers have network namespaces of their own, and packets between them are dropped. Otherwise TCP relays hold back what is sent. The first line of the output says which. disk-full and clocks-jump need root, and are left out without it, which the second line says. clocks-jump also needs Go and the source code in the current folder.

The exit status is 1 if an invariant broke, if a replica did not sell again in time, if a median missed its goal, if a mutant survived, or if a run could not be made.`
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
	if list, err = c.possible(s, list); err != nil {
		return err
	}
	builds, remove, err := sandbox.TempFolder()
	if err != nil {
		return err
	}
	defer func() { _ = remove() }()
	cfg := faults.Config{
		API: c.API, Database: c.Database, Network: network, LockTTL: c.LockTTL, Rate: c.Rate, Buyers: c.Buyers, Mixed: c.Mixed, Seed: c.Seed, Chaos: c.Chaos,
		Visual: c.Out,
	}
	if c.Mutants {
		err = c.runMutants(ctx, s, cfg, builds, &figures)
	} else {
		err = c.runScenarios(ctx, s, cfg, list, builds, &figures)
	}
	figures.Settle()
	// After an error, what is known so far is worth keeping.
	if err := errors.Join(err, faults.Save(c.Out, &figures), figures.Write(s.out)); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Written: %[1]s/%[2]s and %[1]s/%[3]s\n", c.Out, faults.ResultFile, faults.PageFile)
	if !figures.OK {
		fmt.Fprintln(s.out, "\nNot proven: see the verdicts above that are not ok.")
		return errNotProven
	}
	return nil
}

// list returns the scenarios that the flags name.
func (c *faultsCmd) list() ([]faults.Scenario, error) {
	if _, err := mutant.Find(c.Only); err != nil {
		return nil, fmt.Errorf("--only: %w", err)
	}
	switch {
	case c.Mutants && (c.Short || len(c.Scenarios) > 0):
		return nil, errors.New("--mutants chooses the scenarios: leave out --scenarios and --short")
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

// possible leaves out the scenarios that only root can run, and says so. It is an error if
// the flags name one.
func (c *faultsCmd) possible(s streams, list []faults.Scenario) ([]faults.Scenario, error) {
	if os.Geteuid() == 0 || c.Mutants {
		return list, nil
	}
	impossible := slices.DeleteFunc(slices.Clone(list), func(f faults.Scenario) bool { return !f.NeedsRoot() })
	if len(impossible) == 0 {
		return list, nil
	}
	left := strings.Join(faults.Names(impossible), ", ")
	if len(c.Scenarios) > 0 {
		return nil, fmt.Errorf("--scenarios: only root can run %s", left)
	}
	fmt.Fprintf(s.out, "Left out, because only root can run them: %s.\n", left)
	return slices.DeleteFunc(slices.Clone(list), func(f faults.Scenario) bool { return f.NeedsRoot() }), nil
}

func (c *faultsCmd) command() string {
	text := fmt.Sprintf("bin/loadtest faults --runs %d --chaos %s --lock-ttl %s --rate %d --buyers %d --mixed %d --seed %d", c.Runs, c.Chaos, c.LockTTL, c.Rate, c.Buyers, c.Mixed, c.Seed)
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
	for i := range list {
		cfg.Scenario = &list[i]
		if cfg.Scenario.Clocks() && cfg.ClockAPI == "" {
			fmt.Fprintln(s.err, "Building a replica whose clock can jump ...")
			if cfg.ClockAPI, err = mutant.Build(ctx, root, builds, &mutant.Clock, "./cmd/api"); err != nil {
				return fmt.Errorf("%s: %w", cfg.Scenario.Name, err)
			}
		}
		runs := c.Runs
		if cfg.Scenario.NoSale > 0 { // the goal is a median
			runs = max(runs, faults.EnoughRuns)
		}
		for run := range runs {
			result, err := faults.Run(ctx, cfg)
			if ctx.Err() != nil {
				return err
			}
			if err != nil {
				result.Violations = append(result.Violations, fmt.Sprintf("the run could not be made: %s", err))
			}
			result.Run = run + 1
			cfg.Seed++
			figures.Scenarios = append(figures.Scenarios, result)
			fmt.Fprintf(s.out, "%d/%d %s\n", run+1, runs, &result)
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
		return err
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
