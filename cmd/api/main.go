// Command api is one replica of the order service, and its tools.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/jedib0t/go-pretty/v6/table"

	"flashsale/internal/exact"
	"flashsale/internal/order"
	"flashsale/internal/settings"
	"flashsale/internal/strategy"
	"flashsale/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// Whoever asks a second time does not want to wait: the signal ends the
	// process, as if nobody had listened for it.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err == nil {
		return
	}
	if !errors.Is(err, errSaid) {
		fmt.Fprintf(os.Stderr, "api: %v\n", err)
	}
	os.Exit(1)
}

// defaultAddr is where a replica listens, and where its health is asked for.
const defaultAddr = ":8080"

// errSaid ends the program with status 1 when what is wrong was printed as the
// command's own output.
var errSaid = errors.New("said")

type cli struct {
	Config configFlag `help:"JSON file with flags by name; flags and environment win over it." placeholder:"FILE"`

	Serve      serveCmd      `cmd:"" default:"withargs" help:"Serve orders: one replica. This is done if no command is named."`
	Migrate    migrateCmd    `cmd:"" help:"Bring the database's schema up to this program's version."`
	Strategies strategiesCmd `cmd:"" help:"Print the ways to guard an order."`
	Audit      auditCmd      `cmd:"" help:"Check the database against the invariants; exit 1 on a violation."`
	Locks      locksCmd      `cmd:"" help:"List who holds which SKU's lock, over all replicas, and who waits."`
	Settings   configCmd     `cmd:"" name:"config" help:"Show or change what all replicas take from etcd while they run."`
	Fence      fenceCmd      `cmd:"" help:"Show or change how the database is guarded."`
	Doctor     doctorCmd     `cmd:"" help:"Examine MySQL and the strategy's server, and say what to do; exit 1 on a fault."`
	Health     healthCmd     `cmd:"" help:"Ask a replica whether it is ready; exit 1 if not. For a container's health check."`
	Purge      purgeCmd      `cmd:"" help:"Move orders that were final before a time, and their keys, to the archive."`
	Version    versionCmd    `cmd:"" help:"Print the program's version, commit and date."`
}

// streams are what commands write to.
type streams struct{ out, err io.Writer }

// run is the program: it parses args and runs the command that they name until
// it is done or ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c cli
	exited := false
	parser, err := kong.New(&c,
		kong.Name("api"),
		kong.Description("A flash-sale order service that cannot oversell. Every flag can be set by its FLASHSALE_ variable."),
		kong.DefaultEnvars("FLASHSALE"),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"addr": defaultAddr, "purge_recent": inHours(purgeRecent), "quantum": order.DefaultQuantum.String(), "settings": joined(settings.Names()), "strategies": joined(strategy.Names()), "strategy": strategy.Default},
	)
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(args)
	if exited { // --help
		return nil
	}
	if err != nil {
		return wrongUse(err, args)
	}
	if err := exact.Check(parsed.Flags()); err != nil {
		return err
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(streams{stdout, stderr})
}

// wrongUse says what is wrong with the arguments, and whose help tells more.
func wrongUse(err error, args []string) error {
	// The parser's word for the end of the arguments is nobody else's.
	what := strings.Replace(err.Error(), ` but got "EOL" (<EOL>)`, ", but none was given", 1)
	help := "api"
	if parse, ok := errors.AsType[*kong.ParseError](err); ok {
		for _, step := range parse.Context.Path {
			// What is no command is taken for an argument of the default one.
			if step.Command == nil || strings.HasPrefix(what, "unexpected argument") && !slices.Contains(args, step.Command.Name) {
				continue
			}
			help += " " + step.Command.Name
		}
	}
	return fmt.Errorf("%s (see %s --help)", what, help)
}

type versionCmd struct{}

func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, version.Line())
	return err
}

type strategiesCmd struct {
	JSON bool `help:"Print JSON."`
}

func (c strategiesCmd) Run(s streams) error {
	if c.JSON {
		return printJSON(s.out, strategy.All())
	}
	t := table.NewWriter()
	t.SetOutputMirror(s.out)
	t.AppendHeader(table.Row{"name", "lock", "server", "write", "token", "right up to", "servers of MySQL", "shows"})
	for _, row := range strategy.All() {
		lock, server, token := cmp.Or(string(row.Lock), "-"), cmp.Or(string(row.Server), "-"), "-"
		if row.Token {
			token = "yes"
		}
		t.AppendRow(table.Row{row.Name, lock, server, row.Write, token, rightUpTo(row), row.Servers(), row.Shows})
	}
	t.Render()
	return nil
}

func rightUpTo(row strategy.Strategy) string {
	switch {
	case row.Replicas < 0:
		return "any"
	case row.Replicas == 1:
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", row.Replicas)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
