package main

import (
	"context"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"

	"flashsale/internal/backend"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

type auditCmd struct {
	backendFlags
	JSON bool `help:"Print JSON."`
}

func (c *auditCmd) Run(ctx context.Context, s streams) error {
	return c.withSchema(ctx, func(ctx context.Context, db *stock.DB) error {
		report, err := c.audit(ctx, db)
		if err != nil {
			return err
		}
		if err := printAudit(s, report, c.JSON); err != nil || report.OK {
			return err
		}
		return errReported
	})
}

// audit also reads etcd if the strategy keeps stock there.
func (c *auditCmd) audit(ctx context.Context, db *stock.DB) (report stock.Report, err error) {
	bound, err := db.Binding(ctx)
	if err != nil {
		return report, err
	}
	row, _ := strategy.Find(bound.Strategy) // an unknown strategy keeps nothing in etcd
	if row.Write != strategy.EtcdCompareAndSwap {
		return stock.Audit(ctx, db)
	}
	err = c.withBackend(ctx, row, db, func(b *backend.Backend) (err error) {
		report, err = order.AuditUnits(ctx, db, unitsInEtcd(b, &c.Servers, db))
		return err
	})
	return report, err
}

func printAudit(s streams, report stock.Report, asJSON bool) error {
	if asJSON {
		return s.json(report)
	}
	t := s.table("SKU", "units", "available", "reserved", "paid", "returned", "oversold", "ok")
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
