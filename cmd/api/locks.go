package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"flashsale/internal/backend"
	"flashsale/internal/httpapi"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

type locksCmd struct {
	backendFlags
	JSON bool `help:"Print JSON."`
}

func (c *locksCmd) Run(ctx context.Context, s streams) error {
	return c.withSchema(ctx, func(ctx context.Context, db *stock.DB) error {
		return c.withBound(ctx, db, func(row strategy.Strategy, b *backend.Backend) error {
			inspector := b.Inspector()
			if inspector == nil {
				return fmt.Errorf("strategy %s has no lock, or its lock server does not list holders", row.Name)
			}
			held, err := inspector.Inspect(ctx)
			if err != nil {
				return err
			}
			if c.JSON {
				return s.json(httpapi.PresentLocks(held, nil))
			}
			t := s.table("SKU", "holder", "replica", "token", "since", "queue", "forward address")
			for _, l := range held {
				since := ""
				if !l.Since.IsZero() {
					since = l.Since.UTC().Format(time.RFC3339Nano)
				}
				t.AppendRow(table.Row{l.Name, l.Holder, l.Replica, l.Token, since, strings.Join(l.Queue, ", "), l.Addr})
			}
			t.Render()
			return nil
		})
	})
}
