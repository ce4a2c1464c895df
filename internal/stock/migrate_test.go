package stock_test

import (
	"errors"
	"testing"

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
	exec(t, db, "INSERT INTO serves (version, least) VALUES (999, 2)")
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
	first := stock.Guard{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 1"}
	for range 2 { // the second replica finds what the first wrote
		if err := db.Bind(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, db, "UPDATE stock SET fence = 900")
	for _, other := range []stock.Guard{
		{Strategy: "conditional", Fence: strategy.FenceOff},
		{Strategy: "etcd", Fence: strategy.FenceOff, TokenSource: "etcd cluster 1"},
		{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 2"},
	} {
		err := db.Bind(t.Context(), other)
		if refused, ok := errors.AsType[*stock.GuardError](err); !ok || refused.Have != first || refused.Want != other {
			t.Errorf("bind %+v: got %v, want a GuardError", other, err)
		}
	}
	second := stock.Guard{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 2"}
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
	first := stock.Guard{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 1"}
	second := stock.Guard{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 2"}
	if err := db.Bind(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	var replicas []*stock.Presence
	for range 2 { // they do not hold each other up
		p, err := db.Attend(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		replicas = append(replicas, p)
	}
	if _, err := db.Attend(t.Context(), second); err == nil {
		t.Error("a replica of another guard attends")
	}
	for _, p := range replicas {
		if err := db.Adopt(t.Context(), second); !errors.Is(err, stock.ErrInUse) {
			t.Errorf("adopt beside a replica: got %v, want %v", err, stock.ErrInUse)
		}
		if err := p.Check(t.Context()); err != nil {
			t.Error(err)
		}
		p.Leave()
	}
	if err := db.Adopt(t.Context(), second); err != nil {
		t.Error(err)
	}
}
