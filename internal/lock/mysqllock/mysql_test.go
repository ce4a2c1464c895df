package mysqllock

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// TestOnOneServer runs the tests that leave the server usable, each in its own database.
func TestOnOneServer(t *testing.T) {
	shared := startServer(t, tableView{})
	for _, test := range []struct {
		name string
		view view
		run  func(*testing.T, *server)
	}{
		{"TokensRiseOverADeletedRow", tableView{}, tokensRiseOverADeletedRow},
		{"LateRequestsDoNotChangeAnotherGrant", tableView{}, lateRequestsDoNotChangeAnotherGrant},
		{"RefusalsNameTheHolder", tableView{}, refusalsNameTheHolder},
		{"InspectAndRevoke", tableView{}, inspectAndRevoke},
		{"RowGivesUpAfterItsTries", rowView{}, rowGivesUpAfterItsTries},
		{"RowsAreCreatedOnceAndStay", rowView{}, rowsAreCreatedOnceAndStay},
		{"AFailedWriteFreesTheRow", rowView{}, aFailedWriteFreesTheRow},
		{"DatabasesOfOneServerHaveSeparateLocks", getLockView{}, databasesOfOneServerHaveSeparateLocks},
		{"ConnectionsAreLimited", getLockView{}, connectionsAreLimited},
		{"AWrongPasswordEndsLock", tableView{}, aWrongPasswordEndsLock},
		{"CloseLeavesNoSession", getLockView{}, closeLeavesNoSession},
		{"AnUnusedTurnIsReleased", getLockView{}, anUnusedTurnIsReleased},
		{"AnOwnerCanLockAgainAfterALoss", tableView{}, anOwnerCanLockAgainAfterALoss},
		{"CallsOfOneOwnerShareAGrant", tableView{}, callsOfOneOwnerShareAGrant},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, shared.withDatabase(t, test.name, test.view)) })
	}
}

// noticeTTL is longer than the pauses of a process on a busy machine. A holder notices a
// revocation within a third of it.
const noticeTTL = 12 * time.Second

// open makes a Locker of the test configuration with changes.
func open[L lock.Locker](t *testing.T, s *server, newLocker func(Config) (L, error), table string, with ...func(*Config)) L {
	t.Helper()
	cfg := testConfig(s.dsn, table)
	cfg.TTL = noticeTTL
	for _, change := range with {
		change(&cfg)
	}
	l, err := newLocker(cfg)
	return locktest.Opened(t, l, err)
}

func tokensRiseOverADeletedRow(t *testing.T, s *server) {
	l := open(t, s, NewTable, tableName)
	first := locktest.MustLock(t, l, "n")
	locktest.MustUnlock(t, first)
	second := locktest.MustLock(t, l, "n")
	if second.Token() != first.Token()+1 {
		t.Errorf("token %d after %d", second.Token(), first.Token())
	}
	locktest.MustUnlock(t, second)
	if err := s.exec("DELETE FROM " + tableName); err != nil {
		t.Fatal(err)
	}
	third := locktest.MustLock(t, l, "n")
	if third.Token() <= second.Token() {
		t.Errorf("token %d after %d and a DELETE", third.Token(), second.Token())
	}
	locktest.MustUnlock(t, third)
}

// lateRequestsDoNotChangeAnotherGrant sends an earlier owner's requests late.
func lateRequestsDoNotChangeAnotherGrant(t *testing.T, s *server) {
	store := open(t, s, NewTable, tableName).store
	ctx := t.Context()
	if _, err := store.Try(ctx, "n", "one/1"); err != nil {
		t.Fatal(err)
	}
	if err := s.exec("UPDATE " + tableName + " SET expires_at = NOW(6)"); err != nil {
		t.Fatal(err)
	}
	if err := store.Renew(ctx, "n", "one/1"); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Renew after the end of the lease: %v, want %v", err, lock.ErrLost)
	}
	if _, err := store.Try(ctx, "n", "two/2"); err != nil {
		t.Fatalf("Try after the end of another's lease: %v", err)
	}
	before, _ := s.text("SELECT expires_at FROM " + tableName)
	if err := store.Renew(ctx, "n", "one/1"); !errors.Is(err, lock.ErrLost) {
		t.Errorf("late Renew: %v, want %v", err, lock.ErrLost)
	}
	if err := store.Release(ctx, "n", "one/1"); !errors.Is(err, lock.ErrLost) {
		t.Errorf("late Release: %v, want %v", err, lock.ErrLost)
	}
	if after, _ := s.text("SELECT expires_at FROM " + tableName); after != before {
		t.Errorf("the other lease was moved from %s to %s", before, after)
	}
	if holder, _ := s.text("SELECT owner FROM " + tableName); holder != "two/2" {
		t.Errorf("the row belongs to %q, want two/2", holder)
	}
}

func refusalsNameTheHolder(t *testing.T, s *server) {
	for name, try := range map[string]struct {
		holder, other lock.Locker
		want          string
	}{
		"lock-table": {open(t, s, NewTable, tableName), open(t, s, NewTable, tableName), "r@h:1"},
		"lock-row":   {open(t, s, NewRow, rowName), open(t, s, NewRow, rowName), "r@h:1"},
		"get-lock":   {open(t, s, NewGetLock, ""), open(t, s, NewGetLock, ""), "connection "},
	} {
		held := locktest.MustLock(t, try.holder, "n")
		_, err := try.other.TryLock(t.Context(), "n")
		var refusal *lock.HeldError
		if !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Holder, try.want) {
			t.Errorf("%s: %v, want the holder %s", name, err, try.want)
		}
		locktest.MustUnlock(t, held)
	}
}

func inspectAndRevoke(t *testing.T, s *server) {
	for name, l := range map[string]interface {
		lock.Locker
		lock.Inspector
	}{
		"lock-table": open(t, s, NewTable, tableName), "lock-row": open(t, s, NewRow, rowName),
	} {
		if all, err := l.Inspect(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("%s before the first lock: %v, %v", name, all, err)
		}
		if err := l.Revoke(t.Context(), "a"); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("%s: Revoke before the first lock: %v", name, err)
		}
		asked := time.Now()
		b, a := locktest.MustLock(t, l, "b"), locktest.MustLock(t, l, "a")
		locktest.MustUnlock(t, locktest.MustLock(t, l, "free"))
		all, err := l.Inspect(t.Context())
		want := []lock.Info{
			{Name: "a", Holder: "r@h:1", Replica: "r", Token: a.Token()},
			{Name: "b", Holder: "r@h:1", Replica: "r", Token: b.Token()},
		}
		if diff := cmp.Diff(want, all, cmpopts.IgnoreFields(lock.Info{}, "Since")); err != nil || diff != "" {
			t.Errorf("%s: Inspect: %v\n%s", name, err, diff)
		}
		for _, info := range all {
			if info.Since.Before(asked.Add(-time.Second)) || info.Since.After(time.Now()) {
				t.Errorf("%s: %s is held since %s", name, info.Name, info.Since)
			}
		}
		if err := l.Revoke(t.Context(), "a"); err != nil {
			t.Errorf("%s: Revoke: %v", name, err)
		}
		sandboxtest.Await(t, a.Lost(), "the loss")
		sandboxtest.Eventually(t, "the revoked grant to end", func() bool { return errors.Is(l.Revoke(t.Context(), "a"), lock.ErrNotHeld) })
		locktest.MustUnlock(t, b)
	}
}

// rowGivesUpAfterItsTries waits for the three tries of a second after the first.
func rowGivesUpAfterItsTries(t *testing.T, s *server) {
	holder := open(t, s, NewRow, rowName)
	held := locktest.MustLock(t, holder, "n")
	const tries = 4
	l := open(t, s, NewRow, rowName, func(cfg *Config) { cfg.Tries = tries })
	began := time.Now()
	_, err := l.Lock(t.Context(), "n")
	took := time.Since(began)
	if !errors.Is(err, lock.ErrHeld) {
		t.Errorf("Lock: %v, want %v", err, lock.ErrHeld)
	}
	if least := (tries - 1) * time.Second; took < least || took > least+patience/2 {
		t.Errorf("Lock returned after %s, want at least %s", took, least)
	}
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

func rowsAreCreatedOnceAndStay(t *testing.T, s *server) {
	one, two := open(t, s, NewRow, rowName), open(t, s, NewRow, rowName)
	done := make(chan error, 2)
	for _, l := range []*Row{one, two} { // neither finds the table or the row
		go func() {
			held, err := l.Lock(t.Context(), "n")
			if err == nil {
				err = held.Unlock(t.Context())
			}
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := s.rowsOf(t, rowName); n != "1" {
		t.Errorf("the table has %s rows, want 1", n)
	}
	if owner, _ := s.text("SELECT owner FROM " + rowName); owner != "" {
		t.Errorf("an owner was committed: %q", owner)
	}
}

// aFailedWriteFreesTheRow lets the row be locked but not written.
func aFailedWriteFreesTheRow(t *testing.T, s *server) {
	// So long that no session ends by its timeout.
	long := func(cfg *Config) { cfg.TTL = time.Minute }
	here, there := open(t, s, NewRow, rowName, long), open(t, s, NewRow, rowName, long)
	locktest.MustUnlock(t, locktest.MustLock(t, here, "n"))
	err := s.exec("CREATE TRIGGER no BEFORE UPDATE ON " + rowName + " FOR EACH ROW SIGNAL SQLSTATE '45000'")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.TryLock(t.Context(), "n"); err == nil || errors.Is(err, lock.ErrHeld) {
		t.Fatalf("TryLock: %v", err)
	}
	if err := s.exec("DROP TRIGGER no"); err != nil {
		t.Fatal(err)
	}
	locktest.MustUnlock(t, locktest.MustLock(t, there, "n"))
	locktest.MustUnlock(t, locktest.MustLock(t, here, "n"))
}

func TestGetLockNames(t *testing.T) {
	long := strings.Repeat("n", 200)
	seen := map[string]string{}
	for _, of := range [][2]string{
		{"db", "sku"}, {"db", "SKU"}, {"db2", "sku"}, {"db", "sku "}, {"db", "skü"}, {"db", "sku2"},
		{"db", long + "a"}, {"db", long + "b"},
	} {
		name := getLock{of[0]}.serverName(of[1])
		if len(name) > 64 || name != strings.ToLower(name) {
			t.Errorf("%q is not a valid name for GET_LOCK", name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q have the same name", of, other)
		}
		seen[name] = of[0] + "." + of[1]
	}
}

// All databases of a server share the names of GET_LOCK.
func databasesOfOneServerHaveSeparateLocks(t *testing.T, s *server) {
	other, err := s.CreateDatabase(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	one := locktest.MustLock(t, open(t, s, NewGetLock, ""), "n")
	two := locktest.MustLock(t, open(t, s, NewGetLock, "", func(cfg *Config) { cfg.DSN = other }), "n")
	locktest.MustUnlock(t, one)
	locktest.MustUnlock(t, two)
}

// With one connection, a Locker holds one name at a time.
func connectionsAreLimited(t *testing.T, s *server) {
	l := open(t, s, NewGetLock, "", func(cfg *Config) { cfg.Connections = 1 })
	held := locktest.MustLock(t, l, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := l.Lock(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock without a connection: %v", err)
	}
	select {
	case <-held.Lost():
		t.Error("the grant was lost while another Lock waited for a connection")
	default:
	}
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, locktest.MustLock(t, l, "b"))
}

// After the restart, the pools are full of dead connections.
func TestLocksAreGrantedAfterARestart(t *testing.T) {
	s := startServer(t, tableView{})
	lockers := map[string]lock.Locker{
		"lock-table": open(t, s, NewTable, tableName), "lock-row": open(t, s, NewRow, rowName),
		"get-lock": open(t, s, NewGetLock, ""),
	}
	for name, l := range lockers {
		var all []lock.Held
		for _, n := range []string{"a", "b", "c", "d"} {
			all = append(all, locktest.MustLock(t, l, name+n))
		}
		for _, held := range all {
			locktest.MustUnlock(t, held)
		}
	}
	if err := s.Process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, l := range lockers {
		held, err := l.TryLock(t.Context(), "n") // Lock would retry
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		locktest.MustUnlock(t, held)
	}
}

// The lease continues by the server's clock during the restart.
func TestARowSurvivesARestart(t *testing.T) {
	s := startServer(t, tableView{})
	l := open(t, s, NewTable, tableName, func(cfg *Config) { cfg.TTL = time.Minute })
	held := locktest.MustLock(t, l, "n")
	if err := s.Process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, s, NewTable, tableName).TryLock(t.Context(), "n"); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("TryLock after the restart: %v, want %v", err, lock.ErrHeld)
	}
	locktest.MustUnlock(t, held)
}

func TestErrorsNameTheServer(t *testing.T) {
	s := startServer(t, tableView{})
	lockers := []lock.Locker{
		open(t, s, NewTable, tableName), open(t, s, NewRow, rowName), open(t, s, NewGetLock, ""),
	}
	s.Kill(t)
	for _, l := range lockers {
		sandboxtest.Eventually(t, "an error that names the server", func() bool { // the context may end before the first error
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err := l.Lock(ctx, "n")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%T: %v", l, err)
			}
			return strings.Contains(err.Error(), "MySQL at 127.0.0.1:")
		})
		if _, err := l.TryLock(t.Context(), "n"); err == nil || !strings.Contains(err.Error(), "MySQL at 127.0.0.1:") {
			t.Errorf("%T: TryLock: %v", l, err)
		}
	}
}

// A retry would not help.
func aWrongPasswordEndsLock(t *testing.T, s *server) {
	wrong := func(cfg *Config) { cfg.DSN = strings.Replace(cfg.DSN, ":", ":x", 1) }
	for _, l := range []lock.Locker{
		open(t, s, NewTable, tableName, wrong), open(t, s, NewRow, rowName, wrong), open(t, s, NewGetLock, "", wrong),
	} {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := l.Lock(ctx, "n")
		cancel()
		if !isError(err, accessDenied) || time.Since(began) > patience/2 {
			t.Errorf("%T: Lock: %v, after %s", l, err, time.Since(began))
		}
	}
}

func closeLeavesNoSession(t *testing.T, s *server) {
	for name, l := range map[string]lock.Locker{
		"lock-table": open(t, s, NewTable, tableName), "lock-row": open(t, s, NewRow, rowName),
		"get-lock": open(t, s, NewGetLock, ""),
	} {
		held := locktest.MustLock(t, l, "held")
		waiting := make(chan error, 1)
		go func() {
			_, err := l.Lock(t.Context(), "held")
			waiting <- err
		}()
		if err := l.Close(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-waiting; !errors.Is(err, lock.ErrClosed) {
			t.Errorf("%s: the waiter: %v", name, err)
		}
		sandboxtest.Await(t, held.Lost(), "the loss")
		sandboxtest.Eventually(t, "the end of all sessions but the administrator's", func() bool { return s.sessions(t) == s.db.Stats().OpenConnections })
	}
}

// sessions returns the number of sessions in the test's database.
func (s *server) sessions(tb testing.TB) int {
	tb.Helper()
	var n int
	for _, c := range s.connections(tb) {
		if c.Database == s.database {
			n++
		}
	}
	return n
}

// anUnusedTurnIsReleased ends a Lock between its successful wait and its next Try.
func anUnusedTurnIsReleased(t *testing.T, s *server) {
	l := open(t, s, NewGetLock, "", func(cfg *Config) { cfg.TTL = time.Minute })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := l.store.wait(ctx, "n"); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Entries(t, "n")); n != 1 {
		t.Errorf("%d holders after the wait, want 1", n)
	}
	cancel()
	sandboxtest.Eventually(t, "the lock to be released", func() bool { return len(s.Entries(t, "n")) == 0 })
}

func anOwnerCanLockAgainAfterALoss(t *testing.T, s *server) {
	l := open(t, s, NewTable, tableName)
	ctx, cancel := context.WithTimeout(lock.WithOwner(t.Context(), "one"), patience)
	defer cancel()
	lost, err := l.Lock(ctx, "n")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Revoke(ctx, "n"); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, lost.Lost(), "the loss")
	next, err := l.Lock(ctx, "n")
	if err != nil {
		t.Fatal(err)
	}
	if next.Token() <= lost.Token() {
		t.Errorf("token %d after %d", next.Token(), lost.Token())
	}
	if err := lost.Unlock(ctx); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock of the lost grant: %v, want %v", err, lock.ErrLost)
	}
	again, err := l.TryLock(ctx, "n")
	if err != nil {
		t.Fatalf("Unlock of the lost grant ended the later one: %v", err)
	}
	locktest.MustUnlock(t, next)
	locktest.MustUnlock(t, again)
}

func callsOfOneOwnerShareAGrant(t *testing.T, s *server) {
	l := open(t, s, NewTable, tableName)
	holder := locktest.MustLock(t, l, "n")
	ctx, cancel := context.WithTimeout(lock.WithOwner(t.Context(), "one"), patience)
	defer cancel()
	const goroutines = 4
	all := make(chan lock.Held, goroutines)
	for range goroutines {
		go func() {
			held, err := l.Lock(ctx, "n")
			if err != nil {
				t.Error(err)
			}
			all <- held
		}()
	}
	locktest.MustUnlock(t, holder)
	var entries []lock.Held
	for range goroutines {
		entries = append(entries, <-all)
	}
	for i, held := range entries {
		if held == nil {
			t.Fatal("a Lock of the owner failed")
		}
		if _, err := l.TryLock(t.Context(), "n"); !errors.Is(err, lock.ErrHeld) {
			t.Errorf("TryLock before the Unlock of entry %d: %v", i, err)
		}
		locktest.MustUnlock(t, held)
	}
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{DSN: "u:p@tcp(127.0.0.1:1)/d", Table: "t", TTL: time.Second}
	for what, change := range map[string]func(*Config){
		"malformed DSN": func(c *Config) { c.DSN = "nonsense" },
		"no database":   func(c *Config) { c.DSN = "u:p@tcp(127.0.0.1:1)/" },
		"no table":      func(c *Config) { c.Table = "" },
		"table's name":  func(c *Config) { c.Table = "t; DROP TABLE stock" },
		"short TTL":     func(c *Config) { c.TTL = time.Millisecond },
		"connections":   func(c *Config) { c.Connections = -1 },
		"tries":         func(c *Config) { c.Tries = -1 },
		"long owner":    func(c *Config) { c.Owner = strings.Repeat("r", 500) },
	} {
		cfg := good
		change(&cfg)
		if _, err := NewTable(cfg); err == nil {
			t.Errorf("NewTable accepts: %s", what)
		}
		if _, err := NewRow(cfg); err == nil {
			t.Errorf("NewRow accepts: %s", what)
		}
		if !strings.Contains(what, "table") { // NewGetLock uses none
			if _, err := NewGetLock(cfg); err == nil {
				t.Errorf("NewGetLock accepts: %s", what)
			}
		}
	}
}
