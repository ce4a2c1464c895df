package main

import (
	"cmp"
	"context"
	"fmt"

	"flashsale/internal/backend"
	"flashsale/internal/stock"
)

type fenceCmd struct {
	Show  fenceShowCmd  `cmd:"" help:"Print the strategy, fence and token source that the database is bound to."`
	Adopt fenceAdoptCmd `cmd:"" help:"Bind the database to another strategy, fence or lock server. Stop all replicas first."`
}

type fenceShowCmd struct {
	mysqlFlags
}

func (c *fenceShowCmd) Run(ctx context.Context, s streams) error {
	return c.withSchema(ctx, func(ctx context.Context, db *stock.DB) error {
		bound, err := db.Binding(ctx)
		if err != nil {
			return err
		}
		if bound.Strategy == "" {
			_, err := fmt.Fprintln(s.out, errUnused)
			return err
		}
		newest, err := db.HighestFence(ctx)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s, admitted up to %d\n", bindingText(bound), newest)
		return err
	})
}

func bindingText(b stock.Binding) string {
	return fmt.Sprintf("strategy %s, fence %s, tokens of %s", b.Strategy, b.Fence, cmp.Or(b.TokenSource, "no source"))
}

type fenceAdoptCmd struct {
	backendFlags
	strategyFlags
}

func (c *fenceAdoptCmd) Run(ctx context.Context, s streams) error {
	row, fence, err := c.parse()
	if err != nil {
		return err
	}
	want := stock.Binding{Strategy: row.Name, Fence: fence}
	return c.withSchema(ctx, func(ctx context.Context, db *stock.DB) error {
		err := c.withBackend(ctx, row, db, func(b *backend.Backend) error {
			want.TokenSource = b.Source
			return nil
		})
		if err == nil {
			err = db.Adopt(ctx, want)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s; every fence starts from zero\n", bindingText(want))
		return err
	})
}
