package stock

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"flashsale/internal/strategy"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrSchemaNewer says that the database was migrated by a newer program.
var ErrSchemaNewer = errors.New("the database's schema is newer than this program")

// ErrNoSchema says that the database has no tables of this program.
var ErrNoSchema = errors.New("this database has no tables of flashsale yet: is it the right one? (a first replica, or `api migrate`, makes them)")

// Tables are those that the migrations make, each with a column that may be written.
var Tables = map[string]string{
	"stock": "seq", "orders": "status", "archived_orders": "status", "restocks": "units", "late_payments": "received_at",
	"leases": "token", "guard": "since", "serves": "least",
}

// migrateWait bounds the wait for another replica that migrates. A migration
// of a large table can take its time; a hung one should be seen.
const migrateWait = 60 * time.Second

// Migrate brings the schema up to this program's version. Replicas may call it
// at once: one migrates, under a lock that ends with its connection, and the
// others wait for it. It may be repeated after any error: what was done stands.
func (db *DB) Migrate(ctx context.Context) error {
	return db.OnConn(ctx, func(conn *sql.Conn) error {
		name := "flashsale.migrate." + db.Name
		if len(name) > 64 { // MySQL's limit for the name of a lock
			name = name[:64]
		}
		var got sql.NullInt64
		if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, ?)", name, int(migrateWait.Seconds())).Scan(&got); err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
		if got.Int64 != 1 {
			return fmt.Errorf("lock migrations: another replica has been migrating for %s", migrateWait)
		}
		migrateErr := db.migrate(ctx, migrations)
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_, unlockErr := conn.ExecContext(undo, "DO RELEASE_LOCK(?)", name)
		return errors.Join(migrateErr, unlockErr)
	})
}

func (db *DB) migrate(ctx context.Context, all fs.FS) error {
	files, err := fs.Sub(all, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectMySQL, db.SQL, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	sources := provider.ListSources()
	newest := sources[len(sources)-1].Version
	switch current, err := provider.GetDBVersion(ctx); {
	case err != nil:
		return fmt.Errorf("read schema version: %w", err)
	case current > newest:
		return db.served(ctx, newest, current)
	}
	_, err = provider.Up(ctx)
	if serverError(err) == errLockWaitTimeout {
		return fmt.Errorf("migrate: a transaction that did not end within %s has used the table (see SHOW PROCESSLIST; "+
			"an audit takes its time): end it, and start again: %w", tableWait, err)
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// Schema is the version of a database's tables, and the newest that this program
// knows. Version 0 is a database without tables.
type Schema struct{ Version, Program int64 }

// Schema reads the version, and makes nothing. ErrSchemaNewer says that this program
// must not run on it.
func (db *DB) Schema(ctx context.Context) (s Schema, err error) {
	if s.Program, err = newestMigration(); err != nil {
		return s, err
	}
	err = db.SQL.QueryRowContext(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version").Scan(&s.Version)
	switch {
	case serverError(err) == errNoSuchTable:
		return s, nil
	case err != nil:
		return s, fmt.Errorf("read schema version: %w", err)
	case s.Version > s.Program:
		return s, db.served(ctx, s.Program, s.Version)
	}
	return s, nil
}

// HasSchema is nil where the database has tables, else ErrNoSchema.
func (db *DB) HasSchema(ctx context.Context) error {
	s, err := db.Schema(ctx)
	if err == nil && s.Version == 0 {
		return ErrNoSchema
	}
	return err
}

func newestMigration() (newest int64, err error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		version, err := goose.NumericComponent(file)
		if err != nil {
			return 0, fmt.Errorf("read migrations: %w", err)
		}
		newest = max(newest, version)
	}
	return newest, nil
}

// served returns nil where the schema, which is newer than this program, still
// serves it: a rolling upgrade restarts the replicas of the old program, too.
func (db *DB) served(ctx context.Context, program, schema int64) error {
	var least, known int64
	err := db.SQL.QueryRowContext(ctx, "SELECT COALESCE(MAX(least), 0), COALESCE(MAX(version), 0) FROM serves WHERE version > ?", program).
		Scan(&least, &known)
	if err != nil {
		return fmt.Errorf("read which programs the schema serves: %w", err)
	}
	if least > program || known != schema { // one that does not say serves nobody
		return fmt.Errorf("%w: it is at version %d, the program knows %d; run the program that migrated it, or a later one", ErrSchemaNewer, schema, program)
	}
	return nil
}

// Binding is how a database is guarded: by which strategy and fence, and where
// the fencing tokens come from.
type Binding struct {
	Strategy    string
	Fence       strategy.Fence
	TokenSource string
}

// BindingError says that a database is guarded in another way than a replica asks.
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
	return fmt.Sprintf("this database is guarded by %s %q, this replica would use %q: two of them cannot guard the same stock "+
		"(to change it, stop all replicas and run `api fence adopt`)", what, have, want)
}

const insertBinding = "INSERT INTO guard (id, strategy, fence, token_source, since) VALUES (1, ?, ?, ?, NOW(6))"

// Bind records how the database is guarded, if it is not yet, and otherwise
// returns a BindingError when it is guarded in another way.
func (db *DB) Bind(ctx context.Context, want Binding) error {
	_, err := db.SQL.ExecContext(ctx, insertBinding, want.Strategy, string(want.Fence), want.TokenSource)
	if err == nil {
		return nil
	}
	if !IsDuplicate(err) {
		return fmt.Errorf("record the guard: %w", err)
	}
	have, err := db.Binding(ctx)
	if err != nil {
		return err
	}
	if have != want {
		return &BindingError{Have: have, Want: want}
	}
	return nil
}

// Binding reads how the database is guarded. The zero Binding: not at all yet.
func (db *DB) Binding(ctx context.Context) (Binding, error) {
	var g Binding
	err := db.SQL.QueryRowContext(ctx, "SELECT strategy, fence, token_source FROM guard WHERE id = 1").
		Scan(&g.Strategy, &g.Fence, &g.TokenSource)
	if errors.Is(err, sql.ErrNoRows) || serverError(err) == errNoSuchTable {
		return Binding{}, nil
	}
	if err != nil {
		return Binding{}, fmt.Errorf("read the guard: %w", err)
	}
	return g, nil
}

// HighestFence is the highest token that was admitted for any SKU.
func (db *DB) HighestFence(ctx context.Context) (uint64, error) {
	var fence sql.Null[uint64]
	if err := db.SQL.QueryRowContext(ctx, "SELECT MAX(fence) FROM stock").Scan(&fence); err != nil {
		return 0, fmt.Errorf("read fences: %w", err)
	}
	return fence.V, nil
}

// Adopt makes want the way in which the database is guarded. Tokens of another
// source say nothing about the old ones, so every fence starts again from zero:
// no replica may be running, and ErrInUse says that one is.
func (db *DB) Adopt(ctx context.Context, want Binding) error {
	return db.InTx(ctx, func(conn *sql.Conn) error {
		// First: from here on nobody attends under the old guard. See ReplicaLock.
		if err := record(ctx, conn, want); err != nil {
			return fmt.Errorf("record the guard: %w", err)
		}
		if err := db.noReplicaRuns(ctx, conn); err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, "UPDATE stock SET seq = seq + 1, fence = 0"); err != nil {
			return fmt.Errorf("reset fences: %w", err)
		}
		return nil
	})
}

// record writes the guard's row, whether or not there is one.
func record(ctx context.Context, conn *sql.Conn, want Binding) error {
	args := []any{want.Strategy, string(want.Fence), want.TokenSource}
	changed, err := exec(ctx, conn, "UPDATE guard SET strategy = ?, fence = ?, token_source = ?, since = NOW(6) WHERE id = 1", args...)
	if err == nil && changed == 0 {
		_, err = conn.ExecContext(ctx, insertBinding, args...)
	}
	return err
}
