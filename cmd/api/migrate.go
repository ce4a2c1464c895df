package main

import (
	"context"
	"fmt"

	"flashsale/internal/stock"
)

type migrateCmd struct {
	mysqlFlags
}

func (c *migrateCmd) Run(ctx context.Context, s streams) error {
	return c.withDB(ctx, func(ctx context.Context, db *stock.DB) error {
		if err := db.Migrate(ctx); err != nil {
			return err
		}
		_, err := fmt.Fprintln(s.out, "the schema is up to date")
		return err
	})
}
