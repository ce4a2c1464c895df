package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

type migrateCmd struct {
	mysqlFlags
	StartTimeout time.Duration `default:"60s" help:"Maximum wait until MySQL accepts writes."`
}

func (c *migrateCmd) Run(ctx context.Context, s streams) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	db, err := c.open(nil)
	if err != nil {
		return err
	}
	ping := func(ctx context.Context) error { return c.ping(ctx, db) }
	err = await(ctx, slog.New(slog.NewTextHandler(s.err, nil)), c.address(), c.StartTimeout, ping)
	if err == nil {
		err = db.Migrate(ctx)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, "the schema is up to date")
	return err
}
