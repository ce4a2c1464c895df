package lesson

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
	"flashsale/loadtest/lesson/testbed"
)

var mirrorWithoutCompare = Lesson{
	Name:    "mirror-without-compare",
	Title:   "two stores, written one after the other",
	Chinese: "库存双写不一致：先写 MySQL 再写 etcd 的竞态",
	Shows:   "After each COMMIT, a replica copies the stock from MySQL to etcd. The older copy arrives last and stays.",
	Servers: []string{MySQL, Etcd},
	Variants: []Variant{
		{Title: "COMMIT, read, put", Breaks: true, Script: mirrorBlindly},
		{Title: "first cure: a read/write lock around both stores", Script: mirrorUnderLock},
		{Title: "second cure: the put inside the transaction", Script: mirrorInTransaction},
		{Title: "second cure, while etcd hangs", Breaks: true, Script: mirrorInTransactionHangs},
		{Title: "third cure: a put that compares the revision", Script: mirrorByRevision},
	},
}

// mirrorer is a buyer that copies the stock to etcd.
type mirrorer struct {
	*testbed.Buyer
	run      *testbed.Run
	shop     *testbed.Shop
	client   *clientv3.Client
	copied   int64 // as last read from MySQL
	revision int64 // the key's mod revision, as last read
}

// newMirrorers adds the mirrorers A and B to a shop.
func newMirrorers(run *testbed.Run, shop *testbed.Shop) (a, b *mirrorer) {
	buyerA, buyerB := shop.Buyers()
	return &mirrorer{Buyer: buyerA, run: run, shop: shop, client: run.EtcdClient()},
		&mirrorer{Buyer: buyerB, run: run, shop: shop, client: run.EtcdClient()}
}

func mirrorKey(run *testbed.Run) string { return run.Name + "/mirror" }

// readMySQL reads the stock that is to be copied.
func (m *mirrorer) readMySQL() {
	m.copied = m.shop.Available()
	m.To(MySQL, testbed.Read).Log("reads MySQL: %s", testbed.Units(m.copied))
}

func (m *mirrorer) tryPut(ctx context.Context) error {
	_, err := m.client.Put(ctx, mirrorKey(m.run), strconv.FormatInt(m.copied, 10))
	return err
}

func (m *mirrorer) put() {
	m.To(Etcd, testbed.Write).Do(fmt.Sprintf("puts %d into etcd", m.copied), m.tryPut)
}

// reportMirror adds a comparison of the two stores to the audit.
func (m *mirrorer) reportMirror() {
	answer, err := m.client.Get(m.run.Context(), mirrorKey(m.run))
	m.run.Check(err)
	mirrored, available := "nothing", strconv.FormatInt(m.shop.Available(), 10)
	if len(answer.Kvs) == 1 {
		mirrored = string(answer.Kvs[0].Value)
	}
	text := []string{fmt.Sprintf("MySQL has %s available, etcd has %s", available, mirrored)}
	if mirrored != available {
		text = append(text, "broken: after the last write, the mirror equals the row")
	}
	m.run.Report(mirrored == available, text...)
}

func mirrorBlindly(run *testbed.Run) {
	a, b := newMirrorers(run, run.Shop(2))
	a.SellConditionally()
	a.readMySQL()
	b.SellConditionally()
	b.readMySQL()
	b.put()
	a.put()
	a.reportMirror()
}

func mirrorUnderLock(run *testbed.Run) {
	shop := run.Shop(2)
	// A read/write lock between processes: a row that writers lock and readers share.
	shop.Exec("CREATE TABLE both_stores (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB")
	shop.Exec("INSERT INTO both_stores VALUES (1)")
	a, b := newMirrorers(run, shop)
	reader := shop.Buyer("reader")
	// The lock is a transaction across COMMIT and put, with a connection of its own.
	lockA, lockB := shop.On(a.Actor), shop.On(b.Actor)
	locks := func(b *testbed.Buyer, mode string) func(context.Context) error {
		return func(ctx context.Context) error {
			if _, err := b.Conn.ExecContext(ctx, "BEGIN"); err != nil {
				return err
			}
			var id int
			return b.Conn.QueryRowContext(ctx, "SELECT id FROM both_stores WHERE id = 1 "+mode).Scan(&id)
		}
	}
	const write, read = "FOR UPDATE", "LOCK IN SHARE MODE"
	a.To(MySQL, testbed.Lock).Do("locks both stores for writing", locks(lockA, write))
	a.SellConditionally()
	a.readMySQL()
	writing := lockB.To(MySQL, testbed.Lock).Start("requests the lock for writing and waits", locks(lockB, write))
	lockB.AwaitRowLock(writing)
	reading := reader.To(MySQL, testbed.Lock).Start("requests the lock for reading and waits too", locks(reader, read))
	reader.AwaitRowLock(reading)
	a.put()
	a.To(MySQL, testbed.Lock).Log("releases the lock")
	lockA.Exec("COMMIT")
	writing.Finish()
	b.To(MySQL, testbed.Lock).Log("acquires the lock")
	b.SellConditionally()
	b.readMySQL()
	b.put()
	b.To(MySQL, testbed.Lock).Log("releases the lock")
	lockB.Exec("COMMIT")
	reading.Finish()
	reader.To(MySQL, testbed.Lock).Log("acquires the lock: the stores agree")
	a.reportMirror()
	reader.Exec("COMMIT")
}

func mirrorInTransaction(run *testbed.Run) {
	a, b := newMirrorers(run, run.Shop(2))
	a.Begin()
	a.copied = a.ReadForUpdate() - 1
	a.Sell(1)
	b.Begin()
	waiting := b.StartReadForUpdate()
	a.put()
	a.Commit()
	b.copied = b.FinishRead(waiting) - 1
	b.Sell(1)
	b.put()
	b.Commit()
	a.reportMirror()
}

// putDeadline bounds the put while etcd hangs. The client library has no deadline.
const putDeadline = 4 * time.Second

func mirrorInTransactionHangs(run *testbed.Run) {
	shop := run.Shop(1)
	a, b := newMirrorers(run, shop)
	operator := run.Actor("operator")
	_, err := a.client.Get(run.Context(), mirrorKey(run)) // connects the client
	run.Check(err)
	etcd := run.Etcd()
	operator.To("", testbed.Fault).Do("(etcd hangs: SIGSTOP)", func(context.Context) error { return run.Pause(etcd.Process) })
	a.Begin()
	a.copied = a.ReadForUpdate() - 1
	a.Sell(1)
	putting := a.To(Etcd, testbed.Write).Start(fmt.Sprintf("puts %d into etcd and waits", a.copied), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, putDeadline)
		defer cancel()
		return a.tryPut(ctx)
	})
	b.Begin()
	b.Exec("SET innodb_lock_wait_timeout = 1") // as the service sets it
	waiting := b.StartReadForUpdate()
	if err := waiting.Wait(); !stock.IsRetryable(err) {
		run.Fail("B: the read did not time out: %v", err)
	}
	b.To(MySQL, testbed.Refuse).Log("lock wait timeout: refuses the order")
	shop.Refuse(b.Name, 1, "busy")
	b.Rollback()
	if err := putting.Wait(); !errors.Is(err, context.DeadlineExceeded) {
		run.Fail("A: the put did not time out: %v", err)
	}
	a.To(Etcd, testbed.Refuse).Log("no answer in %s: etcd may still apply the put. Refuses the order", putDeadline)
	shop.Refuse(a.Name, 1, "no answer from etcd")
	a.Rollback()
	operator.To("", testbed.Fault).Do("(etcd resumes)", func(context.Context) error { return etcd.Signal(sandbox.SIGCONT) })
}

func mirrorByRevision(run *testbed.Run) {
	a, b := newMirrorers(run, run.Shop(3))
	retries := 0
	// The creation of the key is a race too: both find no key.
	a.SellConditionally()
	a.readBoth()
	b.SellConditionally()
	b.readBoth()
	retries += b.putIfUnchanged() + a.putIfUnchanged()
	// The same again, now that there is a key.
	a.readBoth()
	b.SellConditionally()
	b.readBoth()
	retries += b.putIfUnchanged() + a.putIfUnchanged()
	a.reportMirror()
	run.Report(true, fmt.Sprintf("%d puts were refused and tried again", retries))
}

// readBoth reads the key's revision and then MySQL. In this order, a put that
// compares the revision cannot replace a newer stock.
func (m *mirrorer) readBoth() {
	answer, err := m.client.Get(m.run.Context(), mirrorKey(m.run))
	m.run.Check(err)
	if len(answer.Kvs) == 0 {
		m.revision = 0
		m.To(Etcd, testbed.Read).Log("reads the key's revision: 0, there is no key")
	} else {
		m.revision = answer.Kvs[0].ModRevision
		m.To(Etcd, testbed.Read).Log("reads the key's revision: r%d", answer.Kvs[0].Version)
	}
	m.readMySQL()
}

// putIfUnchanged puts the stock if the key still has the revision that was read,
// and otherwise reads both again. It returns how often it had to.
func (m *mirrorer) putIfUnchanged() (retries int) {
	for {
		answer, err := m.client.Txn(m.run.Context()).
			If(clientv3.Compare(clientv3.ModRevision(mirrorKey(m.run)), "=", m.revision)).
			Then(clientv3.OpPut(mirrorKey(m.run), strconv.FormatInt(m.copied, 10))).Commit()
		m.run.Check(err)
		if answer.Succeeded {
			m.To(Etcd, testbed.Write).Log("puts %d into etcd if the revision is unchanged: done", m.copied)
			return retries
		}
		m.To(Etcd, testbed.Refuse).Log("puts %d into etcd if the revision is unchanged: refused", m.copied)
		retries++
		m.readBoth()
	}
}
