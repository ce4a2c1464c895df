package stock_test

import (
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

func TestOtherBindingIsRefusedUntilAdopted(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	first := stock.Binding{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 1"}
	for range 2 { // the second replica finds the binding of the first
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
		t.Errorf("after Adopt: fence %d, seq %d; want 0, 1", row.Fence, row.Seq)
	}
}

func TestAdoptFailsWhileAReplicaRuns(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	first := stock.Binding{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 1"}
	second := stock.Binding{Strategy: "etcd", Fence: strategy.FenceClaim, TokenSource: "etcd cluster 2"}
	if err := db.Bind(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	var replicas []*stock.ReplicaLock
	for range 2 { // they do not block each other
		l, err := db.LockReplica(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		replicas = append(replicas, l)
	}
	if _, err := db.LockReplica(t.Context(), second); err == nil {
		t.Error("LockReplica succeeded with another binding")
	}
	// ALTER TABLE would wait for a transaction that has used the table.
	exec(t, db, "ALTER TABLE guard COMMENT = 'no transaction is open'")
	for _, l := range replicas {
		if err := db.Adopt(t.Context(), second); !errors.Is(err, stock.ErrInUse) {
			t.Errorf("Adopt while a replica runs: got %v, want %v", err, stock.ErrInUse)
		}
		if err := l.Check(t.Context()); err != nil {
			t.Error(err)
		}
		l.Release()
	}
	awaitAdopt(t, db, second)
}

// awaitAdopt calls Adopt until the server has noticed that the connections are closed.
func awaitAdopt(t *testing.T, db *stock.DB, want stock.Binding) {
	t.Helper()
	sandboxtest.Eventually(t, "Adopt", func() bool {
		err := db.Adopt(t.Context(), want)
		if err != nil && !errors.Is(err, stock.ErrInUse) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// Adopt and LockReplica both wait for the binding's row: the replica has its lock by then,
// and Adopt has not looked for replica locks yet.
func TestAdoptSeesAReplicaThatStartsMeanwhile(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	first, second := stock.Binding{Strategy: "conditional", Fence: strategy.FenceOff}, stock.Binding{Strategy: "row-lock", Fence: strategy.FenceOff}
	if err := db.Bind(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		adopted, locked := make(chan error, 1), make(chan error, 1)
		err := db.InTx(t.Context(), func(conn *sql.Conn) error {
			var id int
			if err := conn.QueryRowContext(t.Context(), "SELECT id FROM guard FOR UPDATE").Scan(&id); err != nil {
				return err
			}
			go func() { adopted <- db.Adopt(t.Context(), second) }()
			awaitStatement(t, db, "UPDATE guard SET strategy", adopted)
			go func() {
				l, err := db.LockReplica(t.Context(), first)
				if err == nil {
					defer l.Release()
				}
				locked <- err
			}()
			var err error
			sandboxtest.Eventually(t, "the replica's lock, which must come before it reads the binding", func() bool {
				var holder int64
				holder, err = db.ReplicaConnection(t.Context(), conn)
				return err != nil || holder != 0 || len(locked) > 0
			})
			return err
		})
		adoptErr, lockErr := <-adopted, <-locked
		switch {
		case err != nil:
			t.Fatal(err)
		case try < 20 && (stock.IsRetryable(adoptErr) || stock.IsRetryable(lockErr)): // on a slow machine they waited for longer than a second
			continue
		case !errors.Is(adoptErr, stock.ErrInUse) || lockErr != nil:
			t.Errorf("Adopt: %v, want %v; LockReplica: %v, want nil", adoptErr, stock.ErrInUse, lockErr)
		}
		return
	}
}

// awaitStatement waits until a connection to the database runs a statement that begins
// with this text, or until it has a result.
func awaitStatement(t *testing.T, db *stock.DB, begins string, result chan error) {
	t.Helper()
	sandboxtest.Eventually(t, "the statement "+begins, func() bool {
		all, err := servers.MySQL.Connections(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(result) > 0 || slices.ContainsFunc(all, func(c sandbox.Connection) bool {
			return c.Database == db.Name && strings.HasPrefix(c.Info, begins)
		})
	})
}

func TestCheckSeesAChangedBinding(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	binding := stock.Binding{Strategy: "conditional", Fence: strategy.FenceOff}
	if err := db.Bind(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	l, err := db.LockReplica(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	exec(t, db, "UPDATE guard SET strategy = 'version'") // as Adopt on another node of a cluster does
	err = l.Check(t.Context())
	if changed, ok := errors.AsType[*stock.BindingError](err); !ok || changed.Have.Strategy != "version" {
		t.Errorf("got %v, want a BindingError", err)
	}
}
