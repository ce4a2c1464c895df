// Command api is one replica of the order service, and its tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"flashsale/internal/exact"
	"flashsale/internal/limit"
	"flashsale/internal/order"
	"flashsale/internal/settings"
	"flashsale/internal/strategy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal restores the default handling: a second one ends the process
	// at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintf(os.Stderr, "api: %v\n", err)
	}
	os.Exit(1)
}

// defaultAddr is the default of --addr for api serve and api health.
const defaultAddr = ":8080"

// errReported ends the program with status 1 after a command has printed what is
// wrong as its output.
var errReported = errors.New("reported")

type cli struct {
	Config configFlag `help:"JSON file of flags by name. The command line and the environment take precedence." placeholder:"FILE"`

	Serve      serveCmd      `cmd:"" default:"withargs" help:"Run a replica that serves orders. This is the default command."`
	Migrate    migrateCmd    `cmd:"" help:"Migrate the database's schema to this program's version."`
	EtcdAuth   etcdAuthCmd   `cmd:"" name:"etcd-auth" help:"Make etcd require passwords: create its user root, and the user --etcd-username, which may use only the keys under --etcd-prefix."`
	Strategies strategiesCmd `cmd:"" help:"List the strategies, the ways to guard stock."`
	Audit      auditCmd      `cmd:"" help:"Check the database against the invariants. Exits with status 1 on a violation."`
	Locks      locksCmd      `cmd:"" help:"List the locks of all replicas, with their holders and queues."`
	ConfigCmd  configCmd     `cmd:"" name:"config" help:"Show or change the settings that all replicas read from etcd."`
	Fence      fenceCmd      `cmd:"" help:"Show or change the strategy, fence and token source that the database is bound to."`
	Doctor     doctorCmd     `cmd:"" help:"Examine MySQL and the lock server, and suggest what to do. Exits with status 1 on a fault."`
	Health     healthCmd     `cmd:"" help:"Ask a replica whether it is ready, for a container's health check. Exits with status 1 if it is not."`
	Purge      purgeCmd      `cmd:"" help:"Move old final orders and their idempotency keys to the archive tables. Its MySQL account must be one that may delete rows, such as that of migrate."`
	Version    versionCmd    `cmd:"" help:"Print the program's version, commit and date."`
}

// run parses args and runs the command until it is done or ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c cli
	exited := false
	parser, err := kong.New(&c,
		kong.Name("api"),
		kong.Description("A flash-sale order service that cannot oversell. Environment variables can set all flags: FLASHSALE_MYSQL_DSN sets --mysql-dsn."),
		kong.DefaultEnvars("FLASHSALE"),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"addr": defaultAddr, "ipv6_prefix": strconv.Itoa(limit.DefaultIPv6Prefix), "purge_recent": inHours(purgeRecent), "quantum": order.DefaultQuantum.String(),
			"settings": strings.Join(settings.Names(), ", "), "strategies": strings.Join(strategy.Names(), ", "), "strategy": strategy.Default},
	)
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(args)
	if exited { // --help
		return nil
	}
	if err != nil {
		return usageError(err, args)
	}
	if err := exact.Check(parsed.Flags()); err != nil {
		return err
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(streams{stdout, stderr})
}

// usageError adds to a parser's error which help to read.
func usageError(err error, args []string) error {
	what := strings.Replace(err.Error(), ` but got "EOL" (<EOL>)`, ", but none was given", 1)
	help := "api"
	if parse, ok := errors.AsType[*kong.ParseError](err); ok {
		for _, step := range parse.Context.Path {
			// An unknown command is parsed as an argument of the default command.
			if step.Command == nil || strings.HasPrefix(what, "unexpected argument") && !slices.Contains(args, step.Command.Name) {
				continue
			}
			help += " " + step.Command.Name
		}
	}
	return fmt.Errorf("%s (see %s --help)", what, help)
}
