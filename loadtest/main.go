// Command loadtest attacks replicas of the order service with far more buyers
// than there are units, and proves from the database that nothing was oversold
// or lost. It knows the service as a stranger does: by HTTP and by its tables.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"flashsale/internal/exact"
	"flashsale/internal/sandbox/etcdnode"
	"flashsale/internal/strategy"
	"flashsale/internal/version"
	"flashsale/loadtest/bench"
	"flashsale/loadtest/failover"
	"flashsale/loadtest/lesson"
	"flashsale/loadtest/lesson/testbed"
	"flashsale/loadtest/peer"
	"flashsale/loadtest/takeover"
	"flashsale/loadtest/zombie"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil:
		return
	case errors.Is(err, errNotProven): // said in full by the table
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "loadtest: interrupted")
	default:
		fmt.Fprintf(os.Stderr, "loadtest: %v\n", err)
	}
	os.Exit(1)
}

// errNotProven ends the program with status 1 after it has said why.
var errNotProven = errors.New("not proven")

type cli struct {
	Prove      proveCmd      `cmd:"" help:"Sell out under each of several strategies, on private servers and replicas, and prove what came of it."`
	Attack     attackCmd     `cmd:"" help:"Sell out on a service that already runs, and prove what came of it."`
	Bench      benchCmd      `cmd:"" help:"Measure the service beside its rivals, on private servers."`
	Zombies    zombiesCmd    `cmd:"" help:"Stop a holder of each lock past its lease, under each fence, and count what its late write does."`
	Soak       soakCmd       `cmd:"" help:"Send random calls to private replicas that are killed and stopped meanwhile, and check every answer against a model."`
	Handover   handoverCmd   `cmd:"" help:"Measure how long each lock takes from one holder to the next."`
	Takeover   takeoverCmd   `cmd:"" help:"Kill, stop or cut off the replica that sells, and measure how long nothing is sold."`
	Failover   failoverCmd   `cmd:"" help:"Fail a server of a clustered database, and measure how long nothing is sold."`
	Strategies strategiesCmd `cmd:"" hidden:""`
	Up         upCmd         `cmd:"" help:"Run private servers and replicas to try things on, until Ctrl-C."`
	Env        envCmd        `cmd:"" help:"Print the addresses and secrets of a running stack for a shell to evaluate."`
	Token      tokenCmd      `cmd:"" help:"Print a customer's token, to try calls with."`
	Lesson     lessonCmd     `cmd:"" help:"Play one lesson: a race that breaks, and its cure, step by step."`
	Lessons    lessonsCmd    `cmd:"" help:"List the lessons, or play them all."`
	Version    versionCmd    `cmd:"" help:"Print the program's version, commit and date."`
	// Peer is what a bench's rivals run as.
	Peer peerCmd `cmd:"" hidden:""`
	// EtcdNode is what a private etcd runs as. run never parses it.
	EtcdNode struct{} `cmd:"" name:"etcd-node" hidden:""`
	// ZombieHolder is one process of a run of zombies. Nor this.
	ZombieHolder struct{} `cmd:"" name:"zombie-holder" hidden:""`
	// LessonReplica is what a lesson's replicas run as. run never parses it.
	LessonReplica struct{} `cmd:"" name:"lesson-replica" hidden:""`
}

const description = `Attack replicas of the flash-sale service with far more buyers than units, and prove from the database what came of it.

It exits with 0 only if every run came out as the strategy's registry says, the oversells included.`

// streams are what commands write to: results to out, progress to err.
type streams struct{ out, err io.Writer }

// run is the program: it parses args and runs the command that they name until
// it is done or ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "etcd-node" {
		return etcdnode.Main(ctx, args[1:], stderr)
	}
	if len(args) > 0 && args[0] == zombieHolder {
		return zombie.Serve(ctx, os.Stdin, stdout)
	}
	if len(args) > 0 && args[0] == testbed.ReplicaCommand {
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
			"lessons": strings.Join(lesson.Names(), ", "), "faults": strings.Join(takeover.FaultNames(), ","),
			"failovers": strings.Join(failover.FaultNames(), ",")},
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
