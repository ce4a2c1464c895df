package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"flashsale/internal/backend"
	"flashsale/internal/httpapi"
	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// toolTimeout bounds the tools' waits for a server; an audit of a large
// database takes its time.
const toolTimeout = 10 * time.Minute

type migrateCmd struct {
	mysqlFlags
}

func (c *migrateCmd) Run(ctx context.Context, s streams) error {
	return withDB(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) error {
		if err := db.Migrate(ctx); err != nil {
			return err
		}
		_, err := fmt.Fprintln(s.out, "the schema is up to date")
		return err
	})
}

func withDB(ctx context.Context, flags *mysqlFlags, f func(context.Context, *stock.DB) error) error {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	db, err := flags.open()
	if err != nil {
		return err
	}
	err = pingNamed(ctx, flags, db)
	if err == nil {
		err = f(ctx, db)
	}
	return errors.Join(err, db.Close())
}

// pingNamed finds a server that does not answer, and says which it is.
func pingNamed(ctx context.Context, flags *mysqlFlags, db *stock.DB) error {
	ctx, cancel := context.WithTimeout(ctx, awaitAttempt)
	defer cancel()
	err := db.Ping(ctx)
	if stock.IsReadOnly(err) { // what only reads may go on
		_, err = db.Now(ctx)
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", flags.address(), cmp.Or(stock.Refused(err), err))
}

// withSchema is withDB for a database that replicas have used, or api migrate.
func withSchema(ctx context.Context, flags *mysqlFlags, f func(context.Context, *stock.DB) error) error {
	return withDB(ctx, flags, func(ctx context.Context, db *stock.DB) error {
		if err := db.HasSchema(ctx); err != nil {
			return fmt.Errorf("%s, database %s: %w", flags.address(), db.Name, err)
		}
		return f(ctx, db)
	})
}

type auditCmd struct {
	mysqlFlags
	backend.Servers
	JSON bool `help:"Print JSON."`
}

func (c *auditCmd) Run(ctx context.Context, s streams) error {
	return withSchema(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) error {
		report, err := c.audit(ctx, db)
		if err != nil {
			return err
		}
		if err := printAudit(s, report, c.JSON); err != nil {
			return err
		}
		if !report.OK {
			return errSaid
		}
		return nil
	})
}

// audit reads etcd, too, where the stock is kept there.
func (c *auditCmd) audit(ctx context.Context, db *stock.DB) (report stock.Report, err error) {
	guarded, err := db.Binding(ctx)
	if err != nil {
		return report, err
	}
	// One that is not known, or none yet, keeps nothing in etcd.
	row, _ := strategy.Find(guarded.Strategy)
	if row.Write != strategy.EtcdCompareAndSwap {
		return stock.Audit(ctx, db)
	}
	opened, err := openBackend(ctx, row, c.Servers, &c.mysqlFlags, db)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, closeBackend(ctx, opened)) }()
	units, err := unitsInEtcd(opened, &c.Servers, db)
	if err != nil {
		return report, err
	}
	return order.AuditUnits(ctx, db, units)
}

func printAudit(s streams, report stock.Report, asJSON bool) error {
	if asJSON {
		return printJSON(s.out, report)
	}
	t := table.NewWriter()
	t.SetOutputMirror(s.out)
	t.AppendHeader(table.Row{"SKU", "units", "available", "reserved", "paid", "returned", "oversold", "ok"})
	for _, b := range report.SKUs {
		t.AppendRow(table.Row{b.SKU, b.Units, b.Available, b.Reserved, b.Paid, b.Returned, b.Oversold, b.OK})
	}
	t.Render()
	for _, v := range report.Violations {
		if _, err := fmt.Fprintf(s.out, "VIOLATED %s: SKU %s: %s\n", v.Invariant, v.SKU, v.Detail); err != nil {
			return err
		}
	}
	if report.OK {
		_, err := fmt.Fprintln(s.out, "every invariant holds")
		return err
	}
	return nil
}

type locksCmd struct {
	mysqlFlags
	backend.Servers
	JSON bool `help:"Print JSON."`
}

// Run asks the server of the strategy that guards the database.
func (c *locksCmd) Run(ctx context.Context, s streams) error {
	return withSchema(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) (err error) {
		row, err := guardingStrategy(ctx, db)
		if err != nil {
			return err
		}
		opened, err := openBackend(ctx, row, c.Servers, &c.mysqlFlags, db)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeBackend(ctx, opened)) }()
		inspector := opened.Inspector()
		if inspector == nil {
			return fmt.Errorf("strategy %s takes no lock, or one whose server does not tell who holds it", row.Name)
		}
		held, err := inspector.Inspect(ctx)
		if err != nil {
			return err
		}
		return printLocks(s, held, c.JSON)
	})
}

// guardingStrategy is the strategy that the replicas of a database use.
func guardingStrategy(ctx context.Context, db *stock.DB) (strategy.Strategy, error) {
	guarded, err := db.Binding(ctx)
	if err != nil {
		return strategy.Strategy{}, err
	}
	if guarded.Strategy == "" {
		return strategy.Strategy{}, errors.New("no replica has used this database yet")
	}
	return strategy.Find(guarded.Strategy)
}

func printLocks(s streams, held []lock.Info, asJSON bool) error {
	if asJSON {
		return printJSON(s.out, httpapi.PresentLocks(held, nil))
	}
	t := table.NewWriter()
	t.SetOutputMirror(s.out)
	t.AppendHeader(table.Row{"SKU", "holder", "replica", "token", "since", "queue", "takes orders at"})
	for _, l := range held {
		since := ""
		if !l.Since.IsZero() {
			since = l.Since.UTC().Format(time.RFC3339Nano)
		}
		t.AppendRow(table.Row{l.Name, l.Holder, l.Replica, l.Token, since, joined(l.Queue), l.Addr})
	}
	t.Render()
	return nil
}

type fenceCmd struct {
	Show  fenceShowCmd  `cmd:"" help:"Print the strategy, the fence and the source of tokens that guard the database."`
	Adopt fenceAdoptCmd `cmd:"" help:"Guard the database in another way, or by another lock server: stop all replicas first."`
}

type fenceShowCmd struct {
	mysqlFlags
}

func (c *fenceShowCmd) Run(ctx context.Context, s streams) error {
	return withSchema(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) error {
		guard, err := db.Binding(ctx)
		if err != nil {
			return err
		}
		if guard.Strategy == "" {
			_, err := fmt.Fprintln(s.out, "no replica has used this database yet")
			return err
		}
		newest, err := db.HighestFence(ctx)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "strategy %s, fence %s, tokens of %s, admitted up to %d\n", guard.Strategy, guard.Fence, sourceText(guard), newest)
		return err
	})
}

func sourceText(g stock.Binding) string {
	if g.TokenSource == "" {
		return "no source"
	}
	return g.TokenSource
}

type fenceAdoptCmd struct {
	mysqlFlags
	backend.Servers
	guardFlags
}

func (c *fenceAdoptCmd) Run(ctx context.Context, s streams) error {
	row, fence, err := c.parse()
	if err != nil {
		return err
	}
	want := stock.Binding{Strategy: row.Name, Fence: fence}
	return withSchema(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) error {
		opened, err := openBackend(ctx, row, c.Servers, &c.mysqlFlags, db)
		if err != nil {
			return err
		}
		want.TokenSource = opened.Source
		if err := closeBackend(ctx, opened); err != nil {
			return err
		}
		if err := db.Adopt(ctx, want); err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "strategy %s, fence %s, tokens of %s; every fence starts from zero\n", want.Strategy, want.Fence, sourceText(want))
		return err
	})
}

// openBackend makes a strategy's lock for a tool, which takes none.
func openBackend(ctx context.Context, row strategy.Strategy, servers backend.Servers, mysql *mysqlFlags, db *stock.DB) (*backend.Backend, error) {
	if err := backend.Check(row, &servers); err != nil {
		return nil, err // the address would be missing from it
	}
	ctx, cancel := context.WithTimeout(ctx, awaitAttempt)
	defer cancel()
	g, err := backend.Open(ctx, backend.Config{
		Strategy: row, Servers: servers, DSN: mysql.DSN, Database: db.Name,
		Replica: "api", TTL: toolTTL, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		return g, nil
	}
	if advice, ok := backend.Refusal(err); ok {
		err = fmt.Errorf("%w; %s", err, advice)
	}
	if address := backend.Address(row, &servers); address != "" {
		err = fmt.Errorf("%s: %w", address, err)
	}
	return nil, err
}

// toolTTL is never waited for.
const toolTTL = 5 * time.Second

func closeBackend(ctx context.Context, g *backend.Backend) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	var err error
	if g.Locker != nil {
		err = g.Locker.Close(ctx)
	}
	return errors.Join(err, g.Close())
}
