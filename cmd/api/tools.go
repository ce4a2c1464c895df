package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

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
	return errors.Join(f(ctx, db), db.Close())
}

type auditCmd struct {
	mysqlFlags
	JSON bool `help:"Print JSON."`
}

func (c *auditCmd) Run(ctx context.Context, s streams) error {
	return withDB(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) error {
		report, err := stock.Audit(ctx, db)
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

type fenceCmd struct {
	Show  fenceShowCmd  `cmd:"" help:"Print the strategy, the fence and the source of tokens that guard the database."`
	Adopt fenceAdoptCmd `cmd:"" help:"Guard the database in another way, or by another etcd: stop all replicas first."`
}

type fenceShowCmd struct {
	mysqlFlags
}

func (c *fenceShowCmd) Run(ctx context.Context, s streams) error {
	return withDB(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) error {
		guard, err := db.Guard(ctx)
		if err != nil {
			return err
		}
		if guard.Strategy == "" {
			_, err := fmt.Fprintln(s.out, "no replica has used this database yet")
			return err
		}
		_, err = fmt.Fprintf(s.out, "strategy %s, fence %s, tokens of %s\n", guard.Strategy, guard.Fence, sourceText(guard))
		return err
	})
}

func sourceText(g stock.Guard) string {
	if g.TokenSource == "" {
		return "no source"
	}
	return g.TokenSource
}

type fenceAdoptCmd struct {
	mysqlFlags
	etcdFlags
	guardFlags
}

func (c *fenceAdoptCmd) Run(ctx context.Context, s streams) error {
	row, fence, err := c.parse()
	if err != nil {
		return err
	}
	want := stock.Guard{Strategy: row.Name, Fence: fence}
	if row.Lock == strategy.Etcd || row.Lock == strategy.EtcdTextbook {
		if want.TokenSource, err = c.source(ctx); err != nil {
			return err
		}
	}
	return withDB(ctx, &c.mysqlFlags, func(ctx context.Context, db *stock.DB) error {
		if err := db.Adopt(ctx, want); err != nil {
			return err
		}
		_, err := fmt.Fprintf(s.out, "strategy %s, fence %s, tokens of %s; every fence starts from zero\n", want.Strategy, want.Fence, sourceText(want))
		return err
	})
}

func (c *fenceAdoptCmd) source(ctx context.Context) (string, error) {
	if err := c.check(); err != nil {
		return "", err
	}
	client, err := c.etcdFlags.open()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, awaitAttempt)
	defer cancel()
	source, _, err := tokenSource(ctx, client)
	if err != nil {
		err = fmt.Errorf("etcd at %s: %w", joined(c.Endpoints), err)
	}
	return source, errors.Join(err, client.Close())
}
