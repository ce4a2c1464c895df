package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// Both programs of these tests have the current code: "previous" is unchanged, and "next"
// has one more migration. The tests show that the current program runs beside a newer
// schema. They do not test a released program with older code: they would have to
// download its sources and modules, but tests need neither history nor network.

// nextVersion is the schema version of the next program.
const nextVersion = 9000

// migrationsDir is the folder of the migrations in the module.
const migrationsDir = "internal/stock/migrations"

// thisVersion returns the newest schema version that this program knows.
func thisVersion(t *testing.T) (version int) {
	t.Helper()
	files, err := filepath.Glob("../../" + migrationsDir + "/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("no migrations: %v", err)
	}
	if _, err := fmt.Sscanf(filepath.Base(files[len(files)-1]), "%d_", &version); err != nil {
		t.Fatal(err)
	}
	return version
}

// buildNext builds the next program: the current one with one more migration, which
// changes the schema and says which programs it still serves.
func buildNext(t *testing.T, change string, least int) string {
	t.Helper()
	migration := fmt.Sprintf("-- +goose Up\n%s\nINSERT INTO serves (version, least) VALUES (%d, %d);\n", change, nextVersion, least)
	return sandboxtest.BuildChanged(t, "api", map[string]string{fmt.Sprintf("%s/%05d_next.sql", migrationsDir, nextVersion): migration})
}

// While buyers buy, two replicas of the previous program sell, two of the next one start
// and migrate, a previous one restarts on the newer schema, and the previous ones stop.
func TestRollingUpgradeServesBothVersions(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	next := buildNext(t, `ALTER TABLE orders ADD COLUMN note VARBINARY(64) NULL;
ALTER TABLE stock ADD COLUMN colour VARBINARY(16) NOT NULL DEFAULT '';
CREATE TABLE notes (id BINARY(16) NOT NULL, PRIMARY KEY (id));`, thisVersion(t))
	previous := []*client{start(t, replicaConfig(dsn, "previous-a", strategy.Default)), start(t, replicaConfig(dsn, "previous-b", strategy.Default))}
	previous[0].putSKU("lamp", 1_000_000)
	b := startBuyers(t, 6, "lamp", previous...)
	b.await(50)

	var newer []*client
	for _, name := range []string{"next-a", "next-b"} {
		cfg := replicaConfig(dsn, name, strategy.Default)
		cfg.Program = next
		newer = append(newer, start(t, cfg))
		b.use(append(previous, newer...)...)
		b.await(50)
	}
	if got := schemaVersion(t, dsn); got != nextVersion {
		t.Errorf("the schema is at version %d, want %d", got, nextVersion)
	}
	if err := previous[0].Restart(t.Context()); err != nil {
		t.Fatalf("the previous program on the newer schema: %v", err)
	}
	b.await(100)
	// It also changes a SKU, which the next program reads.
	previous[0].putSKU("sofa", 3)
	if status, err := newer[0].order("sofa", "ann"); err != nil || status != 201 {
		t.Errorf("a SKU of the previous program at the next one: got %d, %v", status, err)
	}
	for _, c := range previous {
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		b.await(50)
	}
	b.use(newer...)
	b.await(50)
	b.check(dsn, 0)
}

func schemaVersion(t *testing.T, dsn string) (version int) {
	t.Helper()
	if err := openDB(t, dsn).SQL.QueryRowContext(t.Context(), "SELECT MAX(version_id) FROM goose_db_version").Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

// A program does not start on a schema that no longer serves it.
func TestSchemaThatNoLongerServesThisProgramIsRefused(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	c := start(t, replicaConfig(dsn, "previous", "conditional"))
	c.putSKU("lamp", 10)
	next := buildNext(t, "ALTER TABLE orders ADD COLUMN note VARBINARY(64) NULL;", nextVersion)
	migrate := exec.CommandContext(t.Context(), next, "migrate")
	migrate.Env = append(os.Environ(), "FLASHSALE_MYSQL_DSN="+dsn)
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg := replicaConfig(dsn, "previous", "conditional")
	cfg.Program = sandboxtest.Build(t, "api")
	_, err := sandbox.StartReplica(t.Context(), cfg)
	if err == nil {
		t.Fatal("the replica started")
	}
	for _, want := range []string{"the database's schema is newer than this program", fmt.Sprintf("version %d", nextVersion),
		fmt.Sprintf("the program knows version %d", thisVersion(t)), "exit status 1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, which lacks %q", err, want)
		}
	}
	cfg.Program = next
	start(t, cfg)
}
