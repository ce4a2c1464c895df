// Command loadtest attacks replicas of the order service with far more buyers than
// units, and proves from the database that nothing was oversold or lost. It uses only
// the service's HTTP API and its tables.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"flashsale/internal/exact"
	"flashsale/internal/mutant"
	"flashsale/internal/sandbox/etcdnode"
	"flashsale/internal/strategy"
	"flashsale/internal/version"
	"flashsale/loadtest/bench"
	"flashsale/loadtest/exercise"
	"flashsale/loadtest/faults"
	"flashsale/loadtest/lesson"
	"flashsale/loadtest/lesson/testbed"
	"flashsale/loadtest/peer"
	"flashsale/loadtest/pods"
	"flashsale/loadtest/proof"
	"flashsale/loadtest/zombie"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil:
		return
	case errors.Is(err, errNotProven), errors.Is(err, errThreshold): // the output explains it
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "loadtest: interrupted")
	default:
		fmt.Fprintf(os.Stderr, "loadtest: %v\n", err)
	}
	if errors.Is(err, pods.ErrNoNode) || errors.Is(err, errNotChecked) {
		os.Exit(2)
	}
	if errors.Is(err, errThreshold) {
		os.Exit(statusThreshold)
	}
	os.Exit(1)
}

// statusThreshold is k6's exit status when a threshold failed.
const statusThreshold = 99

// errThreshold ends the program with statusThreshold. The output has already said why.
var errThreshold = errors.New("a threshold failed")

// errNotProven ends the program with status 1. The output has already said why.
var errNotProven = errors.New("not proven")

type cli struct {
	Prove      proveCmd      `cmd:"" help:"Sell out under each of several strategies, on private servers, and prove from the database what was sold."`
	Attack     attackCmd     `cmd:"" help:"Sell out on a running service, and prove what was sold."`
	Bench      benchCmd      `cmd:"" help:"Compare the service with other ways to sell, on private servers."`
	Zombies    zombiesCmd    `cmd:"" help:"Stop the holder of each kind of lock until its lease has expired, and count what its late write does under each fence."`
	Soak       soakCmd       `cmd:"" help:"Send random calls to private replicas, kill and stop the replicas meanwhile, and check every answer against a model."`
	Handover   handoverCmd   `cmd:"" help:"Measure how long each kind of lock takes to pass from one holder to the next."`
	Faults     faultsCmd     `cmd:"" help:"Make one part after another fail, on private servers, and prove that nothing was lost."`
	Kubernetes kubernetesCmd `cmd:"" help:"Sell on a real Kubernetes of one node, and update it and delete pods under load."`
	Lab        labCmd        `cmd:"" help:"Serve the race lab: pages that run replicas and show how they sell the same unit, until Ctrl-C."`
	Page       pageCmd       `cmd:"" hidden:""`
	Streams    streamsCmd    `cmd:"" help:"Measure what thousands of open event streams cost a replica, and how long an update takes to reach all of them."`
	Strategies strategiesCmd `cmd:"" hidden:""`
	Up         upCmd         `cmd:"" help:"Run private servers and replicas to try things out, until Ctrl-C."`
	Env        envCmd        `cmd:"" help:"Print the addresses and secrets of a stack started by up, as shell commands for eval."`
	Token      tokenCmd      `cmd:"" help:"Print a customer's token, to try the API."`
	Lesson     lessonCmd     `cmd:"" help:"Play one lesson: a race that oversells, and its fix, step by step."`
	Lessons    lessonsCmd    `cmd:"" help:"List the lessons, or play all of them."`
	Exercise   exerciseCmd   `cmd:"" help:"Exercises after the lessons: list them, start one, check your code on real servers."`
	Version    versionCmd    `cmd:"" help:"Print the program's version, commit and date."`
	Verdicts   verdictsCmd   `cmd:"" hidden:"" help:"Measure how often the verdicts of attack are right, on services whose faults are known."`
	Peer       peerCmd       `cmd:"" hidden:""` // a child process of the bench
}

const description = `Attack replicas of the flash-sale service with far more buyers than units, and prove from the database what was sold.

The exit status is 0 only if every run had the result that is expected of its strategy. An oversell is expected of some.`

// streams are where commands write: results to out, progress to err.
type streams struct{ out, err io.Writer }

// run parses args and runs the command that they name, until it is done or ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	switch strings.Join(args[:min(len(args), 1)], "") { // the other child processes have no flags of kong
	case "etcd-node":
		return etcdnode.Main(ctx, args[1:], stderr)
	case zombieHolder:
		return zombie.Serve(ctx)
	case testbed.ReplicaCommand:
		return testbed.ReplicaMain(ctx)
	}
	var c cli
	exited := false
	parser, err := kong.New(&c,
		kong.Name("loadtest"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }),
		kong.WithHyphenPrefixedParameters(true), // "--rate -1" is a number out of range, not a flag
		kong.Vars{"strategies": strings.Join(strategy.Names(), ", "), "strategy": strategy.Default,
			"peers": strings.Join(peer.Names(), ", "), "loads": strings.Join(bench.LoadNames, ", "),
			"lessons": strings.Join(lesson.Names(), ", "), "scenarios": strings.Join(faults.Names(faults.All()), ", "),
			"exercises": strings.Join(exercise.Names(), ", "), "mutants": strings.Join(mutant.Names(), ", "), "max_buyers": strconv.Itoa(proof.MaxBuyers)},
	)
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(args)
	if exited { // --help
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w (see loadtest --help)", err)
	}
	if err := exact.Check(parsed.Flags()); err != nil {
		return err
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(streams{stdout, stderr})
}

type versionCmd struct{}

func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, version.Line())
	return err
}
