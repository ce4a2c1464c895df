package order_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// The sale starts and ends by the database's clock: a replica whose own clock is hours off
// sells at the same time as the others.
func TestSaleWindowUsesTheDatabasesClock(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": clockOff, "behind": -clockOff} {
		t.Run(name, func(t *testing.T) {
			forGuarded(t, func(t *testing.T, strategy string) {
				now := time.Now().Add(off).Truncate(time.Second)
				before, after := now.Add(-time.Hour), now.Add(time.Hour)
				dsn := newDSN(t, stock.Stock{Units: 5, SaleStartsAt: &before, SaleEndsAt: &after})
				service := startReplica(t, options{dsn: clocked(t, dsn, name), strategy: strategy})
				placed, err := service.Place(t.Context(), buy("ann", "k", 1))
				mustBe(t, "within the window", err, nil)
				if got := placed.Order.CreatedAt; got.Before(now) || got.After(after) {
					t.Errorf("the order was made at %s, but the database's clock says %s", got, now)
				}
				change(t, service, stock.Stock{SaleStartsAt: &after})
				_, err = service.Place(t.Context(), buy("ben", "k", 1))
				mustBe(t, "before the window", err, order.ErrNotOpen)
				change(t, service, stock.Stock{SaleEndsAt: &before})
				_, err = service.Place(t.Context(), buy("ben", "k", 1))
				mustBe(t, "after the window", err, order.ErrOver)
			})
		})
	}
}

// clockOff is the error of the clock of clocked's accounts.
const clockOff = 5 * time.Hour

// clocked is the DSN of an account for which the server's clock is ahead or behind. The
// server runs init_connect only for accounts without administrative rights, which no
// other account of these tests is.
func clocked(t *testing.T, dsn, account string) string {
	t.Helper()
	sandboxtest.OnlyOwn(t, servers)
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	execSQL(t, dsn, fmt.Sprintf("SET GLOBAL init_connect = 'SET @@timestamp = UNIX_TIMESTAMP() + IF(USER() LIKE \"ahead@%%\", 1, -1) * %d'", int(clockOff.Seconds())))
	execSQL(t, dsn, "CREATE USER IF NOT EXISTS "+account+"@'127.0.0.1' IDENTIFIED BY 'pw'")
	execSQL(t, dsn, "GRANT ALL ON "+cfg.DBName+".* TO "+account+"@'127.0.0.1'")
	cfg.User, cfg.Passwd = account, "pw"
	return cfg.FormatDSN()
}

// setClock sets the database's clock for a replica.
func setClock(t testing.TB, db *stock.DB, now time.Time) {
	t.Helper()
	for range db.SQL.Stats().MaxOpenConnections {
		conn, err := db.SQL.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func(conn *sql.Conn) { _ = conn.Close() }(conn) // after all connections were used
		if _, err := conn.ExecContext(t.Context(), fmt.Sprintf("SET @@timestamp = %d.%06d", now.Unix(), now.Nanosecond()/1000)); err != nil {
			t.Fatal(err)
		}
	}
}

// A tenure whose clock differs from the database's, after a step or a suspended host,
// sells nothing before it has read the clock again.
func TestTenureFollowsTheDatabasesClock(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{10 * time.Second, -10 * time.Second, 2 * time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 5})
			now, err := open(t, dsn).Now(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ends := now.Add(time.Hour)
			r := start(t, options{dsn: dsn, strategy: "etcd", desk: order.DeskConfig{Idle: time.Hour}})
			change(t, r.orders, stock.Stock{SaleEndsAt: &ends})
			if _, err := r.orders.Place(t.Context(), buy("ann", "k", 1)); err != nil {
				t.Fatal(err)
			}
			stepped := now.Add(step)
			setClock(t, r.db, stepped)
			fenced := value(order.MetricsOf(r.orders).Fenced)
			placed, err := r.orders.Place(t.Context(), buy("ben", "k", 1))
			if stepped.After(ends) {
				mustBe(t, "buy after the sale", err, order.ErrOver)
			} else if off := placed.Order.CreatedAt.Sub(stepped); err != nil || off.Abs() > stock.ClockTolerance {
				t.Errorf("the order was made %s off the database's time, error %v", off, err)
			}
			if value(order.MetricsOf(r.orders).Fenced) == fenced {
				t.Error("the database refused no batch")
			}
		})
	}
}
