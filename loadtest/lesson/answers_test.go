package lesson_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/go-sql-driver/mysql"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/lesson/testbed"
)

// Answers of docs/lessons that say what a server does, tried on that server.
func TestAnswersHoldOnRealServers(t *testing.T) {
	bed := testbed.New(testbed.Config{EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}})
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, tt := range []struct {
		name   string // the lesson and its question
		script func(*testbed.Run)
		sound  bool // what the audit must find
	}{
		{"no-lock 2: SERIALIZABLE ends one of two buyers by a deadlock", serializable, true},
		{"snapshot-before-lock 3: a version in an old snapshot never matches", versionInOldSnapshot, true},
		{"for-update-then-plain-read 1: a locking read takes no snapshot", lockingReadFirst, true},
		{"for-update-then-plain-read 2: a conditional UPDATE reads the newest row", conditionalInOldSnapshot, true},
		{"read-uncommitted 4: a conditional UPDATE waits for the rollback", conditionalUncommitted, true},
		{"one-session-two-goroutines 4: the first Unlock frees the lock for a third", unlockForBoth, true},
		{"mirror-without-compare 2: the revision must be read before MySQL", revisionAfterMySQL, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			audit, err := bed.Run(t.Context(), func(line testbed.Line) { t.Log(line) }, tt.script)
			if err != nil || audit.OK != tt.sound {
				t.Errorf("got %+v, %v, want OK %v", audit, err, tt.sound)
			}
		})
	}
}

// takeOne is the conditional UPDATE of the lesson no-lock.
const takeOne = "UPDATE stock SET available = available - 1, seq = seq + 1 WHERE sku = ? AND available >= 1"

// number returns the one number that a query reads.
func number(run *testbed.Run, b *testbed.Buyer, query string) (n int64) {
	run.Check(b.Conn.QueryRowContext(run.Context(), query, []byte(testbed.SKU)).Scan(&n))
	return n
}

func serializable(run *testbed.Run) {
	shop := run.Shop(1)
	a, b := shop.Buyers()
	for _, buyer := range []*testbed.Buyer{a, b} {
		buyer.Isolation("SERIALIZABLE")
		buyer.Begin()
		if buyer.Read() != 1 {
			run.Fail("%s does not read 1", buyer.Name)
		}
	}
	sale := a.StartSell(1) // waits for B's shared lock
	_, err := b.Conn.ExecContext(run.Context(), "UPDATE stock SET available = 0 WHERE sku = ?", []byte(testbed.SKU))
	// The server ends either of them.
	const deadlock = 1213
	isDeadlock := func(err error) bool {
		refused, ok := errors.AsType[*mysql.MySQLError](err)
		return ok && refused.Number == deadlock
	}
	switch {
	case isDeadlock(err):
		a.FinishSell(sale, 1)
		a.Commit()
	case err == nil && isDeadlock(sale.Wait()):
		b.Rollback() // its order was not written
		b.ReadAndSell()
	default:
		run.Fail("no deadlock: %v", err)
	}
}

// oldSnapshot has A sell the unit after B's snapshot, in which it is still there.
func oldSnapshot(run *testbed.Run) (b *testbed.Buyer) {
	a, b := run.Shop(1).Buyers()
	b.Isolation("REPEATABLE READ")
	b.Begin()
	b.Read()
	a.ReadAndSell()
	return b
}

func versionInOldSnapshot(run *testbed.Run) {
	b := oldSnapshot(run)
	for range 3 {
		seq := number(run, b, "SELECT seq FROM stock WHERE sku = ?")
		if b.Exec("UPDATE stock SET available = 0, seq = seq + 1 WHERE sku = ? AND seq = ?", []byte(testbed.SKU), seq) != 0 {
			run.Fail("the UPDATE found the old seq %d", seq)
		}
	}
	b.Rollback()
}

func conditionalInOldSnapshot(run *testbed.Run) {
	b := oldSnapshot(run)
	if b.Read() != 1 || b.Exec(takeOne, []byte(testbed.SKU)) != 0 {
		run.Fail("the UPDATE decided on the snapshot")
	}
	b.Rollback()
}

func lockingReadFirst(run *testbed.Run) {
	a, b := run.Shop(1).Buyers()
	b.Isolation("REPEATABLE READ")
	a.Begin()
	a.ReadForUpdate()
	b.Begin()
	waiting := b.StartReadForUpdate()
	a.Sell(1)
	a.Commit()
	b.FinishRead(waiting)
	if got := b.Read(); got != 0 {
		run.Fail("the plain read returned %d", got)
	}
	b.Rollback()
}

func conditionalUncommitted(run *testbed.Run) {
	a, b := run.Shop(1).Buyers()
	b.Isolation("READ UNCOMMITTED")
	a.ReadAndSell()
	a.Begin()
	a.Exec("UPDATE stock SET available = available + 1 WHERE sku = ?", []byte(testbed.SKU))
	if b.Read() != 1 {
		run.Fail("B does not see the uncommitted unit")
	}
	changed := make(chan int64, 1)
	waiting := b.Start("the conditional UPDATE waits", func(ctx context.Context) error {
		result, err := b.Conn.ExecContext(ctx, takeOne, []byte(testbed.SKU))
		if err == nil {
			n, _ := result.RowsAffected()
			changed <- n
		}
		return err
	})
	b.AwaitRowLock(waiting)
	a.Rollback()
	waiting.Finish()
	if n := <-changed; n != 0 {
		run.Fail("the UPDATE changed %d rows", n)
	}
}

func unlockForBoth(run *testbed.Run) {
	client := run.EtcdClient()
	mutex := func(session *concurrency.Session) *concurrency.Mutex { return concurrency.NewMutex(session, run.Name) }
	session := func() *concurrency.Session {
		s, err := concurrency.NewSession(client)
		run.Check(err)
		run.Cleanup(s.Close)
		return s
	}
	shared := session()
	a, b, third := mutex(shared), mutex(shared), mutex(session())
	run.Check(a.Lock(run.Context()))
	run.Check(b.Lock(run.Context()))
	run.Check(a.Unlock(run.Context()))
	run.Check(third.TryLock(run.Context())) // although B has not unlocked
	run.Check(b.Unlock(run.Context()))      // reports no error
	run.Report(true)
}

func revisionAfterMySQL(run *testbed.Run) {
	shop, client := run.Shop(2), run.EtcdClient()
	a, b := shop.Buyers()
	a.ReadAndSell()
	put := func(stock, revision int64) {
		answer, err := client.Txn(run.Context()).If(clientv3.Compare(clientv3.ModRevision(run.Name), "=", revision)).
			Then(clientv3.OpPut(run.Name, fmt.Sprint(stock))).Commit()
		run.Check(err)
		if !answer.Succeeded {
			run.Fail("the put of %d was refused", stock)
		}
	}
	read := shop.Available()
	b.ReadAndSell()
	put(0, 0)
	answer, err := client.Get(run.Context(), run.Name)
	run.Check(err)
	put(read, answer.Kvs[0].ModRevision)
	run.Report(read == shop.Available(), fmt.Sprintf("MySQL has %d, etcd %d", shop.Available(), read))
}
