package stock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"flashsale/internal/strategy"
)

// Binding is what a database is bound to: one strategy, its fence, and the lock
// server that its fencing tokens come from.
type Binding struct {
	Strategy    string
	Fence       strategy.Fence
	TokenSource string
}

// BindingError means that a database is bound to something else than a replica wants.
type BindingError struct{ Have, Want Binding }

func (e *BindingError) Error() string {
	what, have, want := "strategy", e.Have.Strategy, e.Want.Strategy
	switch {
	case have != want:
	case e.Have.Fence != e.Want.Fence:
		what, have, want = "fence", string(e.Have.Fence), string(e.Want.Fence)
	default:
		what, have, want = "token source", e.Have.TokenSource, e.Want.TokenSource
	}
	return fmt.Sprintf("this database uses %s %q, this replica is configured for %q: they must be equal "+
		"(to change the database's, stop all replicas and run `api fence adopt`)", what, have, want)
}

const (
	selectBinding = "SELECT strategy, fence, token_source FROM guard WHERE id = 1"
	insertBinding = "INSERT INTO guard (id, strategy, fence, token_source, since) VALUES (1, ?, ?, ?, NOW(6))"
)

// Bind binds the database if it is not bound yet. Otherwise it returns a
// BindingError if the database is bound to something else.
func (db *DB) Bind(ctx context.Context, want Binding) error {
	_, err := db.SQL.ExecContext(ctx, insertBinding, want.Strategy, string(want.Fence), want.TokenSource)
	if !IsDuplicate(err) {
		return wrap("bind the database", err)
	}
	have, err := db.Binding(ctx)
	if err == nil && have != want {
		err = &BindingError{Have: have, Want: want}
	}
	return err
}

// Binding reads what the database is bound to; the zero Binding if it is not bound.
func (db *DB) Binding(ctx context.Context) (Binding, error) {
	b, err := scanBinding(db.SQL.QueryRowContext(ctx, selectBinding))
	if errors.Is(err, sql.ErrNoRows) || IsNoTable(err) {
		return Binding{}, nil
	}
	return b, err
}

func scanBinding(row *sql.Row) (b Binding, err error) {
	err = row.Scan(&b.Strategy, &b.Fence, &b.TokenSource)
	return b, wrap("read the database's binding", err)
}

// HighestFence is the highest token that was admitted for any SKU.
func (db *DB) HighestFence(ctx context.Context) (uint64, error) {
	var fence sql.Null[uint64]
	err := db.SQL.QueryRowContext(ctx, "SELECT MAX(fence) FROM stock").Scan(&fence)
	return fence.V, wrap("read fences", err)
}

// Adopt binds the database to something else. Tokens of two sources cannot be
// compared, so every fence starts again from zero. No replica may run: Adopt
// returns ErrInUse if one does.
func (db *DB) Adopt(ctx context.Context, want Binding) error {
	return db.InTx(ctx, func(conn *sql.Conn) error {
		// First: from here on no replica starts under the old binding. See ReplicaLock.
		args := []any{want.Strategy, string(want.Fence), want.TokenSource}
		changed, err := exec(ctx, conn, "UPDATE guard SET strategy = ?, fence = ?, token_source = ?, since = NOW(6) WHERE id = 1", args...)
		if err == nil && changed == 0 {
			_, err = conn.ExecContext(ctx, insertBinding, args...)
		}
		if err != nil {
			return fmt.Errorf("bind the database: %w", err)
		}
		if err := db.noReplicaRuns(ctx, conn); err != nil {
			return err
		}
		_, err = conn.ExecContext(ctx, "UPDATE stock SET seq = seq + 1, fence = 0")
		return wrap("reset fences", err)
	})
}
