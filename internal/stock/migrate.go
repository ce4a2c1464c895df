package stock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"flashsale/internal/mysqlsession"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrSchemaNewer means that a newer program migrated the database.
var ErrSchemaNewer = errors.New("the database's schema is newer than this program")

// ErrNoSchema means that the database has no tables of this program.
var ErrNoSchema = errors.New("this database has no tables of flashsale yet: check that it is the right one " +
	"(the first replica, or `api migrate`, creates them)")

// ErrNotMigrated means that the schema is older than this program, and that the account
// may not change it.
var ErrNotMigrated = errors.New("this account may not create tables: run `api migrate` with an account that may")

// Tables are the tables that the migrations create, each with a writable column.
var Tables = map[string]string{
	"stock": "seq", "orders": "status", "archived_orders": "status", "restocks": "units", "late_payments": "received_at", "payments": "order_id",
	"customers": "ordered_at", "leases": "token", "guard": "since", "serves": "least",
}

// migrateWait bounds the wait for another replica that migrates: long enough for a
// large table, and short enough to show a migration that hangs.
const migrateWait = 60 * time.Second

// Migrate brings the schema to this program's version. Replicas may call it at the
// same time: one migrates, under a lock that ends with its connection, and the others
// wait. After an error it may be called again: it continues from there. If nothing is to
// be done, the account need not be allowed to change tables.
func (db *DB) Migrate(ctx context.Context) error {
	if s, err := db.Schema(ctx); err != nil || s.Version >= s.Program {
		return err
	}
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
			return fmt.Errorf("lock migrations: another replica has held the lock for %s", migrateWait)
		}
		migrateErr := db.migrate(ctx, migrations)
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		if _, err := conn.ExecContext(undo, "DO RELEASE_LOCK(?)", name); err != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // the end of the connection releases it
		}
		return migrateErr
	})
}

func (db *DB) migrate(ctx context.Context, all fs.FS) error {
	provider, newest, err := db.provider(all)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	switch current, err := provider.GetDBVersion(ctx); {
	case err != nil:
		return fmt.Errorf("read schema version: %w", err)
	case current > newest:
		return db.served(ctx, newest, current)
	}
	_, err = provider.Up(ctx)
	if serverError(err) == errLockWaitTimeout {
		return fmt.Errorf("migrate: another transaction has used the table for more than %s (see SHOW PROCESSLIST; "+
			"it may be an audit): end it, and start again: %w", mysqlsession.TableWait, err)
	}
	return wrap("migrate", err)
}

// provider reads migrations, and returns the version of the newest.
func (db *DB) provider(all fs.FS) (provider *goose.Provider, newest int64, err error) {
	files, err := fs.Sub(all, "migrations")
	if err != nil {
		return nil, 0, err
	}
	provider, err = goose.NewProvider(goose.DialectMySQL, db.SQL, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, 0, err
	}
	sources := provider.ListSources()
	return provider, sources[len(sources)-1].Version, nil
}

// Schema is the version of a database's tables, and the newest that this program
// knows. Version 0 is a database without tables.
type Schema struct{ Version, Program int64 }

// Schema reads the version and changes nothing. It returns ErrSchemaNewer if this
// program must not run on the database.
func (db *DB) Schema(ctx context.Context) (s Schema, err error) {
	if _, s.Program, err = db.provider(migrations); err != nil {
		return s, fmt.Errorf("read migrations: %w", err)
	}
	err = db.SQL.QueryRowContext(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version").Scan(&s.Version)
	switch {
	case IsNoTable(err):
		return s, nil
	case err == nil && s.Version > s.Program:
		return s, db.served(ctx, s.Program, s.Version)
	}
	return s, wrap("read schema version", err)
}

// Migratable returns ErrNotMigrated, with the names of the missing migrations, if Migrate
// would fail for want of a right. All other faults are left to Migrate.
func (db *DB) Migratable(ctx context.Context) error {
	s, err := db.Schema(ctx)
	if err != nil || s.Version >= s.Program {
		return nil //nolint:nilerr // Migrate returns it
	}
	if err := db.TryCreate(ctx); !IsDenied(err) {
		return nil
	}
	provider, _, err := db.provider(migrations)
	if err != nil {
		return err
	}
	var missing []string
	for _, source := range provider.ListSources() {
		if source.Version > s.Version {
			missing = append(missing, path.Base(source.Path))
		}
	}
	return fmt.Errorf("the schema lacks %s, and %w", strings.Join(missing, ", "), ErrNotMigrated)
}

// TryCreate returns an error if the account cannot create tables. It prepares a
// statement, which checks the right and creates nothing.
func (db *DB) TryCreate(ctx context.Context) error {
	prepared, err := db.SQL.PrepareContext(ctx, "CREATE TABLE flashsale_doctor (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB")
	if err != nil {
		return err
	}
	defer prepared.Close() // it was only parsed
	return nil
}

// HasSchema returns ErrNoSchema if the database has no tables.
func (db *DB) HasSchema(ctx context.Context) error {
	s, err := db.Schema(ctx)
	if err == nil && s.Version == 0 {
		return ErrNoSchema
	}
	return err
}

// served returns nil if the schema, which is newer than this program, still serves
// it: during a rolling upgrade, replicas of the old program may restart.
func (db *DB) served(ctx context.Context, program, schema int64) error {
	var least, declared int64
	err := db.SQL.QueryRowContext(ctx, "SELECT COALESCE(MAX(least), 0), COALESCE(MAX(version), 0) FROM serves WHERE version > ?", program).
		Scan(&least, &declared)
	if err != nil {
		return fmt.Errorf("read which programs the schema serves: %w", err)
	}
	if least > program || declared != schema { // a schema that declares nothing serves no older program
		return fmt.Errorf("%w: it is at version %d, the program knows version %d; run the program that migrated it, or a later one",
			ErrSchemaNewer, schema, program)
	}
	return nil
}
