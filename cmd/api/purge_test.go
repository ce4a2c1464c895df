package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Purge moves final orders and keeps the others, and the audit finds no violation.
func TestPurgeArchivesFinalOrders(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	where := "--mysql-dsn=" + dsn
	c := start(t, replicaConfig(dsn, "a", "conditional"))
	c.putSKU("lamp", 100)
	for i := range 30 {
		customer := fmt.Sprint("customer-", i)
		status, body, err := c.orderBody("lamp", customer)
		if err != nil || status != http.StatusCreated {
			t.Fatalf("got %d %s, %v", status, body, err)
		}
		if i%3 == 2 {
			continue // stays reserved
		}
		end := []string{"payment", "cancellation"}[i%3]
		if status, text, err := c.call("POST", "/v1/orders/"+orderID(t, body)+"/"+end, customerToken(t, customer), "", "{}"); err != nil || status != http.StatusOK {
			t.Fatalf("%s: got %d %s, %v", end, status, text, err)
		}
	}
	before := auditOK(t, dsn)
	purge := func(args ...string) string { return mustTool(t, append([]string{"purge", where}, args...)...) }
	if out := purge("--before=720h"); !strings.HasPrefix(out, "0 orders") {
		t.Errorf("purge of orders older than a month: %s", out)
	}
	if out := purge("--before=0s", "--force", "--dry-run"); !strings.HasPrefix(out, "20 orders") {
		t.Errorf("dry run: %s", out)
	}
	if got := rows(t, dsn, "orders"); got != 30 {
		t.Errorf("%d orders after a dry run, want 30", got)
	}
	if out := purge("--before=0s", "--force"); !strings.HasPrefix(out, "20 orders") {
		t.Errorf("purge: %s", out)
	}
	if got := rows(t, dsn, "orders"); got != 10 {
		t.Errorf("%d orders are left, want the 10 that are not final", got)
	}
	if got := rows(t, dsn, "archived_orders"); got != 20 {
		t.Errorf("%d orders are in the archive, want 20", got)
	}
	if after := auditOK(t, dsn); after != before {
		t.Errorf("the audit says %+v, and before %+v", after, before)
	}
}

func rows(t *testing.T, dsn, table string) (n int) {
	t.Helper()
	if err := openDB(t, dsn).SQL.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func orderID(t *testing.T, body string) string {
	t.Helper()
	_, rest, _ := strings.Cut(body, `"id":"`)
	id, _, found := strings.Cut(rest, `"`)
	if !found {
		t.Fatalf("no id in %s", body)
	}
	return id
}

func TestPurgeRejectsImplausibleTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 10, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		before string
		force  bool
		want   string // a part of the error; or the time
	}{
		{"2030-01-01", false, "2030-01-01T00:00:00Z"},
		{"2030-01-01T01:00:00+01:00", false, "2030-01-01T00:00:00Z"},
		{"216h", false, "2030-01-01T12:00:00Z"},
		{"1h", true, "2030-01-10T11:00:00Z"},
		{"1h", false, "within the last 24h"},
		{"2030-01-10", false, "use --force"},
		{"2030-02-01", true, "in the future"},
		{"-1h", true, "in the future"},
		{"yesterday", true, `"yesterday" is not a date`},
		{"30d", false, "or a duration (720h)"},
		{"", false, "is not a date"},
	} {
		c := purgeCmd{Before: test.before, Force: test.force}
		before, err := c.before(now)
		got := before.Format(time.RFC3339)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("--before %q: got %s, want %s", test.before, got, test.want)
		}
	}
}
