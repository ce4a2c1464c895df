package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// backendFlags name the database and the lock servers.
type backendFlags struct {
	mysqlFlags
	backend.Servers
}

// errUnused means that no replica has bound the database to a strategy.
var errUnused = errors.New("no replica has used this database yet")

// withBound calls do with the strategy that the database is bound to, and its backend.
func (f *backendFlags) withBound(ctx context.Context, db *stock.DB, do func(strategy.Strategy, *backend.Backend) error) error {
	bound, err := db.Binding(ctx)
	if err != nil {
		return err
	}
	if bound.Strategy == "" {
		return errUnused
	}
	row, err := strategy.Find(bound.Strategy)
	if err != nil {
		return err
	}
	return f.withBackend(ctx, row, db, func(b *backend.Backend) error { return do(row, b) })
}

// commandTTL is the TTL of a command's session. A command takes no lock.
const commandTTL = 5 * time.Second

// withBackend calls do with the backend of a strategy.
func (f *backendFlags) withBackend(ctx context.Context, row strategy.Strategy, db *stock.DB, do func(*backend.Backend) error) error {
	if err := backend.Check(row, &f.Servers); err != nil {
		return err
	}
	opening, cancel := context.WithTimeout(ctx, awaitAttempt)
	defer cancel()
	b, err := backend.Open(opening, backend.Config{
		Strategy: row, Servers: f.Servers, DSN: f.DSN, Database: db.Name,
		Replica: "api", TTL: commandTTL, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		if advice, ok := backend.Refusal(err); ok {
			err = fmt.Errorf("%w; %s", err, advice)
		}
		if address := backend.Address(row, &f.Servers); address != "" {
			err = fmt.Errorf("%s: %w", address, err)
		}
		return err
	}
	err = do(b)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if b.Locker != nil {
		err = errors.Join(err, b.Locker.Close(closing))
	}
	return errors.Join(err, b.Close())
}
