package steps_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"flashsale/client"
	"flashsale/internal/record"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/loadtest/steps"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

const (
	adminToken = "an admin token of the tests, which is long enough"
	secret     = "a secret of the tests, which is long enough"
)

// pair is two replicas, A and B, of one strategy.
type pair struct {
	dsn      string
	replicas []*sandbox.Replica
	files    []string // of their steps
}

// start starts a pair, and puts some lamps on sale.
func start(t *testing.T, database, strategy string, units int64) pair {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), "steps_"+strings.ReplaceAll(database, "-", "_"))
	if err != nil {
		t.Fatal(err)
	}
	p := pair{dsn: dsn}
	folder := t.TempDir()
	for _, name := range []string{"A", "B"} {
		file := filepath.Join(folder, name)
		p.files = append(p.files, file)
		p.replicas = append(p.replicas, sandboxtest.StartReplica(t, sandbox.ReplicaConfig{
			Replica: name, MySQLDSN: dsn, EtcdEndpoints: servers.EtcdEndpoints(), Strategy: strategy, AdminToken: adminToken, JWTSecret: secret,
			Args: []string{"--think-time=2s", "--request-timeout=15s", "--trace-steps=" + file},
		}))
	}
	lamp := client.SKURequest{Name: "A lamp", PriceCents: 999, Currency: "EUR", Units: units}
	if _, err := dial(t, p.replicas[0], adminToken).PutSKU(t.Context(), "lamp", lamp, client.Precondition{}); err != nil {
		t.Fatal(err)
	}
	return p
}

func buy(t *testing.T, at *sandbox.Replica, customer string) error {
	buyer := dial(t, at, sandboxtest.Token(t, secret, map[string]any{"sub": customer}))
	_, err := buyer.Place(t.Context(), client.Purchase{SKU: "lamp", Quantity: 1, Key: customer + "'s key"})
	return err
}

// race lets two buyers buy the last unit at two replicas of a strategy, and returns what
// the replicas recorded, which is compared with the database.
func race(t *testing.T, strategy string) (all []record.Step, sold int) {
	t.Helper()
	p := start(t, strategy, strategy, 1)
	var group sync.WaitGroup
	outcomes := make([]error, 2)
	for i, customer := range []string{"ann", "ben"} {
		group.Go(func() { outcomes[i] = buy(t, p.replicas[i], customer) })
	}
	group.Wait()
	for i, err := range outcomes {
		if err == nil {
			sold++
		} else if !errors.Is(err, client.ErrSoldOut) {
			t.Fatalf("buyer %d: %v", i, err)
		}
	}
	return p.stop(t), sold
}

// stop stops the pair, and returns its steps.
func (p pair) stop(t *testing.T) []record.Step {
	t.Helper()
	for _, r := range p.replicas {
		if err := r.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all, lost, err := steps.ReadAll(p.files...)
	if err != nil || lost != 0 {
		t.Fatalf("%d steps lost, %v", lost, err)
	}
	match(t, p.dsn, all)
	return all
}

func dial(t *testing.T, r *sandbox.Replica, token string) *client.Client {
	c, err := client.New(client.Config{URLs: []string{r.URL}, Token: client.StaticToken(token)})
	if err != nil {
		t.Error(err) // also called on other goroutines
	}
	return c
}

// match compares the recorded commits with the orders in the database.
func match(t *testing.T, dsn string, all []record.Step) {
	t.Helper()
	db, err := stock.Open(dsn, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	type row struct {
		id            uuid.UUID
		customer, key string
		quantity      int32
		seq           uint64
	}
	rows, err := stock.Query(t.Context(), db.SQL, func(r *row) []any { return []any{&r.id, &r.customer, &r.key, &r.quantity, &r.seq} },
		"SELECT id, customer, idempotency_key, quantity, seq FROM orders")
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		t.Fatal(err)
	}
	var want, got []string
	for _, r := range rows {
		want = append(want, fmt.Sprint(r.id, r.customer, r.key, r.quantity, r.seq))
	}
	for _, s := range all {
		if s.Kind == record.Committed {
			got = append(got, fmt.Sprint(s.Order, s.Customer, s.Key, s.Quantity, s.Seq))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("recorded commits %q\norders in MySQL %q", got, want)
	}
}

// only returns what some kinds of steps did.
func only(all []record.Step, kinds ...record.Kind) string {
	return strings.Join(lines(slices.DeleteFunc(slices.Clone(all), func(s record.Step) bool { return !slices.Contains(kinds, s.Kind) })), ", ")
}

// Two real replicas sell the last unit twice, and their records show how: both read before
// one of them writes.
func TestOversellIsInTheRecords(t *testing.T) {
	t.Parallel()
	for _, strategy := range []string{"none", "process"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			all, sold := race(t, strategy)
			some := steps.Interleaving(all, "lamp")
			if sold != 2 || some == nil {
				t.Fatalf("%d units were sold of 1; the interleaving is %v of\n%v", sold, lines(some), lines(all))
			}
			t.Log(strings.Join(lines(some), ", "))
			got := only(some, record.Read, record.Wrote)
			reads, writes := []string{"A read 1", "B read 1"}, []string{"A wrote 0", "B wrote 0"}
			for _, r := range [][]string{reads, {reads[1], reads[0]}} {
				for _, w := range [][]string{writes, {writes[1], writes[0]}} {
					if got == strings.Join(slices.Concat(r, w), ", ") {
						return
					}
				}
			}
			t.Errorf("got %s", got)
		})
	}
}

// The same moment under each guard: one order takes the unit, and the other is refused.
func TestGuardIsInTheRecords(t *testing.T) {
	t.Parallel()
	for strategy, kinds := range map[string][]record.Kind{
		"row-lock":      {record.Read, record.Wrote},
		"conditional":   {record.Wrote, record.Rejected},
		"version":       {record.Read, record.Wrote, record.Rejected},
		"lock-table":    {record.LockAsked, record.Locked, record.Claimed, record.Unlocked},
		"get-lock":      {record.LockAsked, record.Locked, record.Read, record.Wrote, record.Unlocked},
		"etcd-textbook": {record.LockAsked, record.Locked, record.Read, record.Wrote, record.Unlocked},
		"etcd-try":      {record.LockAsked, record.Locked, record.LockFailed, record.Claimed, record.Unlocked},
		"etcd-cas":      {record.Read, record.Took, record.Wrote},
		"etcd":          {record.Locked, record.Claimed},
	} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			all, sold := race(t, strategy)
			if some := steps.Interleaving(all, "lamp"); sold != 1 || some != nil {
				t.Fatalf("%d units were sold of 1, by %v", sold, lines(some))
			}
			some := steps.LastUnit(all, "lamp")
			t.Log(strings.Join(lines(some), ", "))
			for _, kind := range append(kinds, record.Arrived, record.Committed, record.Refused, record.Answered) {
				if !slices.ContainsFunc(some, func(s record.Step) bool { return s.Kind == kind }) {
					t.Errorf("no %s in %v of\n%v", kind, lines(some), lines(all))
				}
			}
			if got := only(some, record.Committed, record.Refused); strings.Count(got, ",") != 1 || !strings.Contains(got, "committed 0") {
				t.Errorf("got %s, want a commit that leaves 0, and a refusal", got)
			}
		})
	}
}

// The seller is killed, and the other replica takes over: its steps say from whom, and its
// claim has a larger token. What the dead replica had done is in its file.
func TestTakeOverIsInTheRecords(t *testing.T) {
	t.Parallel()
	p := start(t, "take-over", "etcd", 5)
	for _, customer := range []string{"ann", "ben"} {
		if err := buy(t, p.replicas[0], customer); err != nil {
			t.Fatal(err)
		}
	}
	seller := follow(t, p.files[0])
	p.replicas[0].Kill()
	for _, customer := range []string{"cleo", "dan"} {
		if err := buy(t, p.replicas[1], customer); err != nil {
			t.Fatal(err)
		}
	}
	all := p.stop(t)
	find := func(kind record.Kind, replica string) record.Step {
		i := slices.IndexFunc(all, func(s record.Step) bool { return s.Kind == kind && s.Replica == replica })
		if i < 0 {
			t.Fatalf("%s has no %s in\n%v", replica, kind, lines(all))
		}
		return all[i]
	}
	took, claimed := find(record.TookOver, "B"), find(record.Claimed, "B")
	if took.To != "A" || took.Reason == "" || took.Token != seller.Token || claimed.Token <= took.Token || *claimed.Before != 3 {
		t.Errorf("A claimed %+v; B took over %+v and claimed %+v", seller, took, claimed)
	}
	if got, want := only(all, record.Committed), "A committed 4, A committed 3, B committed 2, B committed 1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	t.Log(only(all, record.Locked, record.Claimed, record.Committed, record.TookOver, record.Forwarded))
}

// The orders of a batch share a version of the row, and each has units of its own.
func TestEachUnitOfABatchIsRecordedOnce(t *testing.T) {
	t.Parallel()
	const units, buyers = 40, 60
	p := start(t, "batch", "etcd", units)
	var group sync.WaitGroup
	for i := range buyers {
		group.Go(func() {
			if err := buy(t, p.replicas[i%2], fmt.Sprint("customer-", i)); err != nil && !errors.Is(err, client.ErrSoldOut) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	all := p.stop(t)
	left, versions := map[int64]bool{}, map[uint64]bool{}
	for _, s := range all {
		if s.Kind == record.Committed {
			left[*s.After], versions[s.Seq] = true, true
		}
	}
	if some := steps.Interleaving(all, "lamp"); some != nil || len(left) != units || len(versions) >= units {
		t.Errorf("%d units in %d versions, want %d in fewer; sold twice: %v", len(left), len(versions), units, lines(some))
	}
}

// follow reads the file of a running replica until it has answered two orders, and returns
// its claim.
func follow(t *testing.T, path string) (claim record.Step) {
	t.Helper()
	f, err := steps.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	answered := 0
	sandboxtest.Eventually(t, "two answers in the file of the seller", func() bool {
		some, err := f.Read()
		if err != nil {
			t.Error(err)
		}
		for _, s := range some {
			switch s.Kind {
			case record.Answered:
				answered++
			case record.Claimed:
				claim = s
			}
		}
		return answered == 2
	})
	return claim
}
