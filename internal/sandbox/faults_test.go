package sandbox_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// TestTheDatabasesClockJumps also restarts the server, which keeps its wrong clock.
func TestTheDatabasesClockJumps(t *testing.T) {
	tier.OnlyTestAll(t, "libfaketime, to step a clock")
	if os.Geteuid() != 0 {
		t.Log("only root can give the database a clock of its own")
		return
	}
	if why := namespacesRefused(); why != "" {
		tier.LeaveOut(t, why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := sandboxtest.Start(t, sandbox.Config{MySQL: true, FakeClock: true}).MySQL
	off := func() time.Duration {
		t.Helper()
		var seconds float64
		if err := openDB(t, m.DSN("")).QueryRowContext(ctx, "SELECT UNIX_TIMESTAMP(NOW(6))").Scan(&seconds); err != nil {
			t.Fatal(err)
		}
		return time.Until(time.UnixMicro(int64(seconds * 1e6))).Round(5 * time.Second)
	}
	if got := off(); got != 0 {
		t.Errorf("at first the clock is off by %s", got)
	}
	total := time.Duration(0)
	for _, jump := range []time.Duration{time.Hour, -90 * time.Minute} {
		total += jump
		if err := m.JumpClock(ctx, jump); err != nil {
			t.Fatal(err)
		}
		if got := off(); got != total {
			t.Errorf("after %s the clock is off by %s, want %s", jump, got, total)
		}
		// What a server waits for must not depend on its wall clock.
		began := time.Now()
		if _, err := openDB(t, m.DSN("")).ExecContext(ctx, "DO SLEEP(0.2)"); err != nil || time.Since(began) < 200*time.Millisecond {
			t.Errorf("SLEEP(0.2) took %s, %v", time.Since(began), err)
		}
	}
	if err := m.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := off(); got != total {
		t.Errorf("after a restart the clock is off by %s, want %s", got, total)
	}
	if err := m.JumpClock(ctx, -total); err != nil {
		t.Fatal(err)
	}
	m.Kill()
	if left, _ := filepath.Glob("/dev/shm/*faketime*"); len(left) > 0 {
		t.Errorf("the server has left %v", left)
	}
	if err := m.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if got := off(); got != 0 {
		t.Errorf("at the end the clock is off by %s", got)
	}
}

// TestTheDatabasesDiskIsFullForAWhile: the server keeps what it has acknowledged, also
// when it is killed while the disk is full.
func TestTheDatabasesDiskIsFullForAWhile(t *testing.T) {
	tier.OnlyTestAll(t, "a database on a small disk")
	if os.Geteuid() != 0 {
		t.Log("only root can mount a disk")
		return
	}
	if why := namespacesRefused(); why != "" {
		tier.LeaveOut(t, why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := sandboxtest.Start(t, sandbox.Config{MySQL: true, MySQLDisk: 256}).MySQL
	exec := func(statement string) error {
		// MariaDB waits for space, and ends itself after five seconds.
		within, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := openDB(t, m.DSN("")).ExecContext(within, statement)
		return err
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dsn, err := m.CreateDatabase(ctx, "claims")
	check(err)
	check(exec("CREATE TABLE claims.written (n INT AUTO_INCREMENT PRIMARY KEY, filler LONGBLOB)"))
	fill := func() (rows int) {
		t.Helper()
		check(m.FillDisk())
		for range 100 {
			if exec("INSERT INTO claims.written (filler) VALUES (REPEAT('x', 1000000))") != nil {
				check(openDB(t, dsn).QueryRowContext(ctx, "SELECT COUNT(*) FROM written").Scan(&rows))
				return rows
			}
		}
		t.Fatal("the disk does not become full")
		return 0
	}
	has := func(rows int) {
		t.Helper()
		var got int
		check(openDB(t, dsn).QueryRowContext(ctx, "SELECT COUNT(*) FROM written").Scan(&got))
		if got != rows {
			t.Errorf("the table has %d rows, want %d", got, rows)
		}
	}
	rows := fill()
	check(m.FreeDisk())
	sandboxtest.Eventually(t, "the server to write again", func() bool { return exec("INSERT INTO claims.written (filler) VALUES ('after')") == nil })
	has(rows + 1)

	rows = fill()
	m.Kill()
	check(m.FreeDisk())
	check(m.FreeDisk()) // again does nothing
	check(m.Restart(ctx))
	has(rows)
}
