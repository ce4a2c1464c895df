package stock_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/stock"
)

func TestReplicasMayMigrateAtOnce(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	var group errgroup.Group
	for range 5 {
		db := open(t, dsn)
		group.Go(func() error { return db.Migrate(t.Context()) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// An interrupted migration continues from where it ended: each statement is committed by
// itself, and the version is written last.
func TestInterruptedMigrationContinues(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	whole := schemaOf(t, db)
	for _, done := range []string{
		"SELECT 1", // all but the version was done
		"DROP TABLE serves, guard", "DROP TABLE archived_orders, payments, late_payments, restocks, customers, leases", "DROP TABLE orders",
	} {
		exec(t, db, done)
		exec(t, db, "DELETE FROM goose_db_version WHERE version_id > 0")
		if err := db.Migrate(t.Context()); err != nil {
			t.Fatalf("after %s: %v", done, err)
		}
		if got := schemaOf(t, db); got != whole {
			t.Errorf("after %s: got\n%s\nwant\n%s", done, got, whole)
		}
	}
}

// schemaOf describes all columns and keys.
func schemaOf(t *testing.T, db *stock.DB) (all string) {
	t.Helper()
	exec(t, db, "SET SESSION group_concat_max_len = 1000000")
	err := db.SQL.QueryRowContext(t.Context(), `SELECT GROUP_CONCAT(line ORDER BY line SEPARATOR '\n') FROM (
		SELECT CONCAT_WS(' ', table_name, column_name, column_type, is_nullable, column_default) AS line
			FROM information_schema.COLUMNS WHERE table_schema = DATABASE()
		UNION ALL SELECT CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name)
			FROM information_schema.STATISTICS WHERE table_schema = DATABASE()) every_line`).Scan(&all)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Orders wait behind a migration that waits for a table, so its wait is short.
func TestMigrationWaitsBrieflyForATable(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	tx, err := db.SQL.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	var n int
	if err := tx.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM orders").Scan(&n); err != nil {
		t.Fatal(err)
	}
	const change = "ALTER TABLE orders ADD COLUMN note INT NULL;"
	err = db.MigrateBy(t.Context(), change)
	if err == nil || !strings.Contains(err.Error(), "another transaction has used the table for more than 5s") {
		t.Fatalf("got %v", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := db.MigrateBy(t.Context(), change); err != nil {
		t.Error(err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")
	if err := db.Migrate(t.Context()); !errors.Is(err, stock.ErrSchemaNewer) {
		t.Errorf("got %v, want %v", err, stock.ErrSchemaNewer)
	}
}

func TestNewerSchemaMayServeThisProgram(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1), (1000, 1)")
	exec(t, db, "INSERT INTO serves (version, least) VALUES (999, 1)")
	if err := db.Migrate(t.Context()); !errors.Is(err, stock.ErrSchemaNewer) {
		t.Errorf("a schema that declares nothing: got %v, want %v", err, stock.ErrSchemaNewer)
	}
	exec(t, db, "INSERT INTO serves (version, least) VALUES (1000, 1)")
	if err := db.Migrate(t.Context()); err != nil {
		t.Errorf("a schema that serves this program: %v", err)
	}
	exec(t, db, "UPDATE serves SET least = 1000 WHERE version = 1000")
	if err := db.Migrate(t.Context()); !errors.Is(err, stock.ErrSchemaNewer) {
		t.Errorf("a schema that serves later programs only: got %v, want %v", err, stock.ErrSchemaNewer)
	}
}

func TestMalformedDSNIsRefused(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"", "nonsense", "root@tcp(127.0.0.1:3306)", "root@tcp(127.0.0.1:3306)/", "mysql://root@host/db"} {
		if db, err := stock.Open(dsn, 2); err == nil {
			t.Errorf("DSN %q was taken for database %q", dsn, db.Name)
		}
	}
}
