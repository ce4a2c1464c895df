package stock_test

import (
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/stock"
	"flashsale/internal/strategy"
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

// Wherever a migration ended that was not done, the next one goes on from there:
// each statement is committed by itself, and the version comes last.
func TestMigrationThatEndedHalfWayIsDoneAgain(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	whole := schemaOf(t, db)
	for _, done := range []string{
		"SELECT 1", // all but the version
		"DROP TABLE serves, guard", "DROP TABLE archived_orders, late_payments, restocks, leases", "DROP TABLE orders",
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

// schemaOf is all columns and keys.
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

// Buyers wait behind a migration that waits for a table: not for long.
func TestMigrationDoesNotWaitForeverForATable(t *testing.T) {
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

func TestNewerSchemaMaySayThatItServesThisProgram(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1), (1000, 1)")
	exec(t, db, "INSERT INTO serves (version, least) VALUES (999, 1)")
	if err := db.Migrate(t.Context()); !errors.Is(err, stock.ErrSchemaNewer) {
		t.Errorf("a schema that does not say: got %v, want %v", err, stock.ErrSchemaNewer)
	}
	exec(t, db, "INSERT INTO serves (version, least) VALUES (1000, 1)")
	if err := db.Migrate(t.Context()); err != nil {
		t.Errorf("a schema that serves it: %v", err)
	}
	exec(t, db, "UPDATE serves SET least = 1000 WHERE version = 1000")
	if err := db.Migrate(t.Context()); !errors.Is(err, stock.ErrSchemaNewer) {
		t.Errorf("a schema that serves later ones: got %v, want %v", err, stock.ErrSchemaNewer)
	}
}

func TestGuardOfAnotherKindIsRefusedUntilAdopted(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	first := stock.Binding{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 1"}
	for range 2 { // the second replica finds what the first wrote
		if err := db.Bind(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, db, "UPDATE stock SET fence = 900")
	for _, other := range []stock.Binding{
		{Strategy: "conditional", Fence: strategy.FenceOff},
		{Strategy: "etcd", Fence: strategy.FenceOff, TokenSource: "etcd cluster 1"},
		{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 2"},
	} {
		err := db.Bind(t.Context(), other)
		if refused, ok := errors.AsType[*stock.BindingError](err); !ok || refused.Have != first || refused.Want != other {
			t.Errorf("bind %+v: got %v, want a BindingError", other, err)
		}
	}
	second := stock.Binding{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 2"}
	if err := db.Adopt(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if err := db.Bind(t.Context(), second); err != nil {
		t.Error(err)
	}
	row, err := db.Get(t.Context(), "sku")
	if err != nil {
		t.Fatal(err)
	}
	if row.Fence != 0 || row.Seq != 1 {
		t.Errorf("after adopting: fence %d, seq %d; want 0, 1", row.Fence, row.Seq)
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

func TestAdoptIsRefusedWhileAReplicaAttends(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	first := stock.Binding{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 1"}
	second := stock.Binding{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 2"}
	if err := db.Bind(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	var replicas []*stock.ReplicaLock
	for range 2 { // they do not hold each other up
		p, err := db.LockReplica(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		replicas = append(replicas, p)
	}
	if _, err := db.LockReplica(t.Context(), second); err == nil {
		t.Error("a replica of another guard attends")
	}
	// A table that some transaction has used cannot be altered.
	exec(t, db, "ALTER TABLE guard COMMENT = 'no transaction is open'")
	for _, p := range replicas {
		if err := db.Adopt(t.Context(), second); !errors.Is(err, stock.ErrInUse) {
			t.Errorf("adopt beside a replica: got %v, want %v", err, stock.ErrInUse)
		}
		if err := p.Check(t.Context()); err != nil {
			t.Error(err)
		}
		p.Release()
	}
	awaitAdopt(t, db, second)
}

// awaitAdopt adopts as soon as the server has seen that connections are closed.
func awaitAdopt(t *testing.T, db *stock.DB, want stock.Binding) {
	t.Helper()
	for {
		err := db.Adopt(t.Context(), want)
		if err == nil {
			return
		}
		if !errors.Is(err, stock.ErrInUse) {
			t.Fatal(err)
		}
	}
}

// Both wait for the guard's row: the replica has its place by then, and the adoption
// has not looked at the places yet.
func TestReplicaThatComesDuringAnAdoptionIsSeen(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	first, second := stock.Binding{Strategy: "conditional", Fence: strategy.FenceOff}, stock.Binding{Strategy: "row-lock", Fence: strategy.FenceOff}
	if err := db.Bind(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		adopted, attended := make(chan error, 1), make(chan error, 1)
		err := db.InTx(t.Context(), func(conn *sql.Conn) error {
			var id int
			if err := conn.QueryRowContext(t.Context(), "SELECT id FROM guard FOR UPDATE").Scan(&id); err != nil {
				return err
			}
			go func() { adopted <- db.Adopt(t.Context(), second) }()
			awaitStatement(t, db, "UPDATE guard SET strategy")
			go func() {
				p, err := db.LockReplica(t.Context(), first)
				if err == nil {
					defer p.Release()
				}
				attended <- err
			}()
			for until := time.Now().Add(10 * time.Second); ; {
				id, err := db.ReplicaConnection(t.Context(), conn)
				if err != nil || id != 0 {
					return err
				}
				if time.Now().After(until) {
					return errors.New("no place was taken: the guard is read first")
				}
			}
		})
		adoptErr, attendErr := <-adopted, <-attended
		switch {
		case err != nil:
			t.Fatal(err)
		case try < 20 && (stock.IsRetryable(adoptErr) || stock.IsRetryable(attendErr)): // a slow machine: they waited for a second
			continue
		case !errors.Is(adoptErr, stock.ErrInUse) || attendErr != nil:
			t.Errorf("adopt: %v, want %v; attend: %v, want nil", adoptErr, stock.ErrInUse, attendErr)
		}
		return
	}
}

// awaitStatement waits until some connection to the database runs a statement that
// begins so.
func awaitStatement(t *testing.T, db *stock.DB, begins string) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		all, err := servers.MySQL.Connections(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.Database == db.Name && strings.HasPrefix(c.Info, begins) {
				return
			}
		}
	}
	t.Fatalf("nobody runs %s", begins)
}

func TestReplicaSeesThatTheGuardWasChanged(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	guard := stock.Binding{Strategy: "conditional", Fence: strategy.FenceOff}
	if err := db.Bind(t.Context(), guard); err != nil {
		t.Fatal(err)
	}
	p, err := db.LockReplica(t.Context(), guard)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	exec(t, db, "UPDATE guard SET strategy = 'version'") // as through another node of a cluster
	err = p.Check(t.Context())
	if changed, ok := errors.AsType[*stock.BindingError](err); !ok || changed.Have.Strategy != "version" {
		t.Errorf("got %v, want a BindingError", err)
	}
}
