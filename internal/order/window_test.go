package order_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// The sale begins and ends by the database's clock, which all replicas share: one
// whose own clock is hours off sells when the others do.
func TestSaleWindowIsOfTheDatabasesClock(t *testing.T) {
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
					t.Errorf("the order was made at %s, by a clock that stands at %s", got, now)
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

// clockOff is what the clock of clocked's accounts is off.
const clockOff = 5 * time.Hour

// clocked is the DSN of an account, ahead or behind, for which the server's clock
// is off. init_connect is run for those without rights over the server, and nobody
// else in these tests is one.
func clocked(t *testing.T, dsn, account string) string {
	t.Helper()
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
