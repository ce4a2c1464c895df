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
	Shows:   "After its COMMIT each replica copies the stock from MySQL to etcd. The older copy arrives last, and stays.",
	Servers: []Server{MySQL, Etcd},
	Acts: []Act{
		{Title: "COMMIT, read, put", Breaks: true, Play: mirrorBlindly},
		{Title: "first remedy: a read/write lock around both stores", Play: mirrorUnderLock},
		{Title: "second remedy: the put inside the transaction", Play: mirrorInTransaction},
		{Title: "second remedy, while etcd hangs", Breaks: true, Play: mirrorInTransactionHangs},
		{Title: "third remedy: a put that compares the revision", Play: mirrorByRevision},
	},
}

// mirrorer is a buyer that copies the stock to etcd.
type mirrorer struct {
	*testbed.Buyer
	play   *testbed.Play
	shop   *testbed.Shop
	client *clientv3.Client
	copied int64 // what was read from MySQL last
	known  int64 // the key's mod revision as it was read last
}

func newMirrorer(p *testbed.Play, shop *testbed.Shop, name string) *mirrorer {
	return &mirrorer{Buyer: shop.Buyer(name), play: p, shop: shop, client: p.EtcdClient()}
}

func (m *mirrorer) key() string { return m.play.Name + "/mirror" }

// sells sells a unit, in a transaction of its own.
func (m *mirrorer) sells() {
	m.SellConditionally(1)
}

// reads reads what is to be copied.
func (m *mirrorer) reads() {
	m.copied = m.shop.Available()
	m.Says("reads MySQL: %s", testbed.Units(m.copied))
}

func (m *mirrorer) put(ctx context.Context) error {
	_, err := m.client.Put(ctx, m.key(), strconv.FormatInt(m.copied, 10))
	return err
}

func (m *mirrorer) puts() {
	m.Does(fmt.Sprintf("puts %d into etcd", m.copied), m.put)
}

// auditMirror compares the two stores.
func auditMirror(p *testbed.Play, shop *testbed.Shop, client *clientv3.Client) testbed.Audit {
	answer, err := client.Get(p.Context(), p.Name+"/mirror")
	p.Check(err)
	mirrored := "nothing"
	if len(answer.Kvs) == 1 {
		mirrored = string(answer.Kvs[0].Value)
	}
	available := strconv.FormatInt(shop.Available(), 10)
	audit := testbed.Audit{OK: mirrored == available, Text: []string{fmt.Sprintf("MySQL says %s available, etcd says %s", available, mirrored)}}
	if !audit.OK {
		audit.Text = append(audit.Text, "broken: the mirror is the row, once nobody writes")
	}
	return shop.Audit().And(audit)
}

func mirrorBlindly(p *testbed.Play) testbed.Audit {
	shop := p.Shop(2)
	a, b := newMirrorer(p, shop, "A"), newMirrorer(p, shop, "B")
	a.sells()
	a.reads()
	b.sells()
	b.reads()
	b.puts()
	a.puts()
	return auditMirror(p, shop, a.client)
}

// lockRow is a read/write lock between processes: a row that writers lock, and
// that readers share.
const lockRow = `CREATE TABLE both_stores (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB`

func mirrorUnderLock(p *testbed.Play) testbed.Audit {
	shop := p.Shop(2)
	shop.Exec(lockRow)
	shop.Exec("INSERT INTO both_stores VALUES (1)")
	a, b := newMirrorer(p, shop, "A"), newMirrorer(p, shop, "B")
	reader := shop.Buyer("reader")
	// The lock is a transaction that stays open over COMMIT and put: it needs a
	// connection of its own.
	lockA, lockB := shop.On(a.Actor), shop.On(b.Actor)
	locks := func(b *testbed.Buyer, mode string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := b.Conn.ExecContext(ctx, "BEGIN")
			if err != nil {
				return err
			}
			var id int
			return b.Conn.QueryRowContext(ctx, "SELECT id FROM both_stores WHERE id = 1 "+mode).Scan(&id)
		}
	}
	const write, read = "FOR UPDATE", "LOCK IN SHARE MODE"
	a.Does("locks both stores for writing", locks(lockA, write))
	a.sells()
	a.reads()
	writing := lockB.Begins("locks both stores for writing, and has to wait", locks(lockB, write))
	lockB.Waits(writing)
	reading := reader.Begins("locks both stores for reading, and has to wait as well", locks(reader, read))
	reader.Waits(reading)
	a.puts()
	a.Says("unlocks")
	exec(p, lockA, "COMMIT")
	writing.Ends()
	b.Says("has the lock")
	b.sells()
	b.reads()
	b.puts()
	b.Says("unlocks")
	exec(p, lockB, "COMMIT")
	reading.Ends()
	reader.Says("has the lock: the stores agree")
	audit := auditMirror(p, shop, a.client)
	exec(p, reader, "COMMIT")
	return audit
}

func mirrorInTransaction(p *testbed.Play) testbed.Audit {
	shop := p.Shop(2)
	a, b := newMirrorer(p, shop, "A"), newMirrorer(p, shop, "B")
	a.Begin()
	a.copied = a.ReadForUpdate() - 1
	a.Sell(1)
	b.Begin()
	waiting := b.BeginsReadForUpdate()
	a.puts()
	a.Commit()
	b.copied = b.HasRead(waiting) - 1
	b.Sell(1)
	b.puts()
	b.Commit()
	return auditMirror(p, shop, a.client)
}

// putDeadline bounds the put into an etcd that does not answer. Without a
// deadline of the caller's, it would wait for as long as etcd hangs.
const putDeadline = 4 * time.Second

func mirrorInTransactionHangs(p *testbed.Play) testbed.Audit {
	shop := p.Shop(1)
	a, b := newMirrorer(p, shop, "A"), newMirrorer(p, shop, "B")
	operator := p.Actor("operator")
	_, err := a.client.Get(p.Context(), a.key()) // it is connected
	p.Check(err)
	etcd := p.Etcd()
	operator.Does("(etcd hangs: SIGSTOP)", func(context.Context) error { return p.Pause(etcd.Process) })
	a.Begin()
	a.copied = a.ReadForUpdate() - 1
	a.Sell(1)
	putting := a.Begins(fmt.Sprintf("puts %d into etcd, and has to wait", a.copied), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, putDeadline)
		defer cancel()
		return a.put(ctx)
	})
	b.Begin()
	exec(p, b.Buyer, "SET innodb_lock_wait_timeout = 1") // the service's own
	waiting := b.BeginsReadForUpdate()
	if err := waiting.Wait(); !stock.IsRetryable(err) {
		p.Fail("B did not have to wait for the row: %v", err)
	}
	b.Says("lock wait timeout: refuses the order")
	shop.Refuse(b.Name, 1, "busy")
	b.Rollback()
	if err := putting.Wait(); !errors.Is(err, context.DeadlineExceeded) {
		p.Fail("A: put into an etcd that hangs: %v", err)
	}
	a.Says("no answer in %s: was it put, or will it be? Refuses the order", putDeadline)
	shop.Refuse(a.Name, 1, "no answer from etcd")
	a.Rollback()
	operator.Does("(etcd goes on)", func(context.Context) error { return etcd.Signal(sandbox.SIGCONT) })
	return shop.Audit()
}

func mirrorByRevision(p *testbed.Play) testbed.Audit {
	shop := p.Shop(3)
	a, b := newMirrorer(p, shop, "A"), newMirrorer(p, shop, "B")
	retries := 0
	// The first creation is a race as well: neither knows of a key.
	a.sells()
	a.knows()
	a.reads()
	b.sells()
	b.knows()
	b.reads()
	retries += b.swaps()
	retries += a.swaps()
	// And once there is a key.
	a.knows()
	a.reads()
	b.sells()
	b.knows()
	b.reads()
	retries += b.swaps()
	retries += a.swaps()
	audit := auditMirror(p, shop, a.client)
	audit.Text = append(audit.Text, fmt.Sprintf("%d puts were refused and tried again", retries))
	return audit
}

// knows reads the key's revision, which comes before MySQL is read: a put that
// compares it then knows of every put whose row may be newer than its own.
func (m *mirrorer) knows() {
	answer, err := m.client.Get(m.play.Context(), m.key())
	m.play.Check(err)
	m.known = 0
	if len(answer.Kvs) == 0 {
		m.Says("reads the key's revision: 0, there is no key")
		return
	}
	m.known = answer.Kvs[0].ModRevision
	m.Says("reads the key's revision: r%d", answer.Kvs[0].Version)
}

// swaps puts what was read if the revision is still the known one, and else reads
// both again. It returns how often it had to.
func (m *mirrorer) swaps() (retries int) {
	for {
		answer, err := m.client.Txn(m.play.Context()).
			If(clientv3.Compare(clientv3.ModRevision(m.key()), "=", m.known)).
			Then(clientv3.OpPut(m.key(), strconv.FormatInt(m.copied, 10))).Commit()
		m.play.Check(err)
		if answer.Succeeded {
			m.Says("puts %d into etcd, if the revision is still that: done", m.copied)
			return retries
		}
		m.Says("puts %d into etcd, if the revision is still that: refused", m.copied)
		retries++
		m.knows()
		m.reads()
	}
}
