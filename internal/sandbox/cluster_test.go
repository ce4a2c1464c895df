package sandbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/sleep"
)

// TestClusterKeepsItsRows injects every fault that a Cluster supports, and writes a row
// after each.
func TestClusterKeepsItsRows(t *testing.T) {
	tier.OnlyTestAll(t, "three database servers of one cluster")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	kind, why := sandbox.BestNetwork()
	began := time.Now()
	stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, MySQLNodes: 3, Network: kind})
	t.Logf("%s: started in %s", stack.Database(), time.Since(began))
	rows := clusterRows{T: t, Cluster: stack.Cluster}
	testAccount(t, stack)
	rows.exec(ctx, 0, "CREATE DATABASE claims")
	rows.exec(ctx, 0, "CREATE TABLE claims.written (n INT PRIMARY KEY)")
	rows.write(ctx, 0)

	rows.Nodes[0].Kill()
	n := rows.elsewhere(ctx, 0)
	rows.write(ctx, n)
	rows.check(rows.Rejoin(ctx, 0))
	rows.read(ctx)

	if stack.MySQL.Product == sandbox.RealMySQL {
		rows.check(rows.SwitchPrimary(ctx, 0))
		if n = rows.elsewhere(ctx, n); n != 0 {
			t.Errorf("the primary is server %d, want 0", n)
		}
		rows.write(ctx, n)
	}
	if kind != sandbox.Namespaces {
		t.Log("no server was cut off:", why)
		return
	}
	for i := range rows.Nodes {
		if i != n {
			rows.check(stack.Network.CutBoth(ctx, serverName(n), serverName(i)))
		}
	}
	rows.write(ctx, rows.elsewhere(ctx, n))
	rows.check(stack.Network.Heal(ctx))
	rows.check(rows.Rejoin(ctx, n))
	rows.read(ctx)
}

func serverName(i int) string { return fmt.Sprintf("mysql-%d", i+1) }

// clusterRows counts the rows that were written to a cluster.
type clusterRows struct {
	*testing.T
	*sandbox.Cluster
	written int
}

func (r *clusterRows) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *clusterRows) open(n int) *sql.DB {
	r.Helper()
	db, err := sql.Open("mysql", r.Nodes[n].DSN(""))
	r.check(err)
	r.Cleanup(func() { _ = db.Close() }) // the server may have been killed
	return db
}

func (r *clusterRows) exec(ctx context.Context, n int, statement string, args ...any) {
	r.Helper()
	_, err := r.open(n).ExecContext(ctx, statement, args...)
	r.check(err)
}

// elsewhere waits until a server other than not accepts writes.
func (r *clusterRows) elsewhere(ctx context.Context, not int) int {
	r.Helper()
	for {
		n, err := r.Primary(ctx)
		if err == nil && n != not {
			return n
		}
		if sleep.For(ctx, 10*time.Millisecond) != nil {
			r.Fatalf("server %d, %v", n, err)
		}
	}
}

// write writes a row on one server.
func (r *clusterRows) write(ctx context.Context, n int) {
	r.Helper()
	r.exec(ctx, n, "INSERT INTO claims.written VALUES (?)", r.written)
	r.written++
}

// read waits until every server has all rows.
func (r *clusterRows) read(ctx context.Context) {
	r.Helper()
	for n := range r.Nodes {
		db := r.open(n)
		for got := -1; got != r.written; {
			if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM claims.written").Scan(&got); err != nil || got > r.written || ctx.Err() != nil {
				r.Fatalf("server %d has %d rows, want %d: %v", n, got, r.written, err)
			}
		}
	}
}
