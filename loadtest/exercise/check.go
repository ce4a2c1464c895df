package exercise

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/loadtest/exercise/shop"
	"flashsale/loadtest/lesson/testbed"
)

// Failure is why code has not passed: a round, with its steps in the order in which they
// happened.
type Failure struct {
	// Round says what the check did.
	Round string
	// Steps has a line for each step, in the column of its buyer.
	Steps []string
	// Broken says what must not be, a line each.
	Broken []string
	// Printed is what the code has printed.
	Printed string
	// Think is a question that leads to the cure.
	Think string
}

// String is the failure as it is printed.
func (f *Failure) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "FAILED: %s.\n\n", f.Round)
	for _, line := range f.Steps {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	fmt.Fprintf(&b, "\nBroken:\n")
	for _, line := range f.Broken {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	if f.Printed != "" {
		fmt.Fprintf(&b, "\nThe code printed:\n%s\n", f.Printed)
	}
	fmt.Fprintf(&b, "\nThink about this: %s\n", f.Think)
	return b.String()
}

// check is the check of one exercise. Its rounds share a database.
type check struct {
	program string
	locks   bool // the code has a lock in etcd
	passed  func(what string)

	run      *testbed.Run
	shop     *testbed.Shop
	etcd     *clientv3.Client // nil without locks
	listener *net.TCPListener // for the buyers
	actors   map[string]*testbed.Actor
	sellers  map[string]*testbed.Buyer // the check's own code, for a buyer whose code is only the lock
	lines    []line                    // of this round
	rounds   int
}

// all runs the exercise's rounds.
func (c *check) all(run *testbed.Run, e *Exercise) (failure *Failure) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	run.Check(err)
	run.Cleanup(listener.Close)
	c.run, c.shop, c.listener = run, run.Shop(1), listener.(*net.TCPListener)
	c.actors, c.sellers = map[string]*testbed.Actor{}, map[string]*testbed.Buyer{}
	for _, name := range []string{"A", "B", "C"} { // the order of the columns
		c.actors[name] = run.Actor(name)
	}
	if c.locks {
		c.etcd = run.EtcdClient()
	}
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case *Failure:
			failure = cause
		default:
			panic(cause)
		}
	}()
	e.rounds(c)
	return nil
}

// line is a step. A buyer that polls etcd repeats it.
type line struct {
	testbed.Line
	times int
}

func (c *check) log(l testbed.Line) {
	if last := len(c.lines) - 1; last >= 0 && l.Server == testbed.Etcd && c.lines[last].Lane == l.Lane && c.lines[last].Text == l.Text {
		c.lines[last].times++
		return
	}
	c.lines = append(c.lines, line{l, 1})
}

// round is one forced order of steps, with buyers of its own.
type round struct {
	*check
	title, think string
	units        int64 // on sale
	buyers       []*buyer
	events       chan event
	late         []event       // not handled yet
	done         chan struct{} // closed at the end
	readers      sync.WaitGroup
	sold         map[shop.Order]bool // the orders that a buyer was told to have
}

// event is what a buyer's process has sent; nil when it has ended.
type event struct {
	by *buyer
	*shop.Event
}

// once runs one round with that many units on sale. think is printed if it fails.
func (c *check) once(title, think string, units int64, script func(*round)) {
	c.round(title, think, units, script)
	c.passed(title)
}

// everyStep runs a round for each step before which the script can stop a buyer. The
// script returns false if there is no nth step.
func (c *check) everyStep(title, think string, units int64, script func(r *round, n int) (reached bool)) {
	n := 0
	for reached := true; reached; {
		n++
		c.round(title, think, units, func(r *round) { reached = script(r, n) })
	}
	c.passed(fmt.Sprintf("%s (stops: %d)", title, n-1))
}

func (c *check) round(title, think string, units int64, script func(*round)) {
	c.rounds++
	c.lines = nil
	c.shop.Reset(units)
	r := &round{
		check: c, title: title, think: think, units: units, sold: map[shop.Order]bool{},
		events: make(chan event), done: make(chan struct{}),
	}
	defer r.close()
	script(r)
	r.judge()
}

func (r *round) close() {
	for _, b := range r.buyers {
		b.process.Kill()
	}
	close(r.done)
	r.readers.Wait()
}

// prefix is that of the round's keys in etcd.
func (r *round) prefix() string { return fmt.Sprintf("%s/%d/", r.run.Name, r.rounds) }

// fail ends the check.
func (r *round) fail(broken ...string) {
	f := &Failure{Round: r.title, Broken: broken, Think: r.think}
	for i, line := range r.lines {
		step := fmt.Sprintf("%3d  %*s%s: %s", i+1, line.Lane*laneWidth, "", line.Actor, line.Text)
		if line.times > 1 {
			step += fmt.Sprintf(" (%d times)", line.times)
		}
		f.Steps = append(f.Steps, step)
	}
	for _, b := range r.buyers {
		if text := b.process.LogTail(printedLines); text != "" {
			f.Printed += b.Name + ": " + text + "\n"
		}
	}
	panic(f)
}

const (
	// laneWidth indents each buyer's steps.
	laneWidth = 12
	// printedLines of what a buyer's code prints are shown.
	printedLines = 20
	// patience bounds the wait for a buyer, whose steps take milliseconds. It is long
	// because a busy machine is slow.
	patience = 40 * time.Second
	// quiet is how long a buyer that waits for the lock sends nothing, and manySteps is more than
	// one attempt to take it, and more than an order needs. If they are too small, a round checks
	// less, but does not fail.
	quiet     = 500 * time.Millisecond
	manySteps = 12
	// poll is the time between two queries for buyers that wait for a lock. MariaDB updates its
	// list of transactions at most every 100 ms.
	poll = 110 * time.Millisecond
)

// drive handles what the buyers send until the condition holds. It returns false if within passes
// before.
func (r *round) drive(within time.Duration, until func() bool) bool {
	end := time.NewTimer(within)
	defer end.Stop()
	look := time.NewTicker(poll)
	defer look.Stop()
	for !until() {
		select {
		case e := <-r.events:
			r.late = append(r.late, e)
			r.handle()
		case <-look.C:
			r.lookForWaits()
			r.handle()
		case <-end.C:
			return false
		case <-r.run.Context().Done():
			r.run.Check(r.run.Context().Err())
		}
	}
	return true
}

// handle handles the events that have come. A buyer that waited for a lock goes on because of
// another's step: its events come after that step, whose own answer may arrive later.
func (r *round) handle() {
	var late []event
	for _, e := range r.late {
		if e.by.waits && slices.ContainsFunc(r.buyers, func(b *buyer) bool { return b != e.by && b.in == testbed.MySQL && !b.waits }) {
			late = append(late, e)
			continue
		}
		e.by.handle(e.Event)
	}
	r.late = late
}

// must is drive for what has to happen.
func (r *round) must(what string, until func() bool) {
	if !r.drive(patience, until) {
		r.fail(fmt.Sprintf("%s: this did not happen within %s. Does the code wait for something that never comes?", what, patience))
	}
}

// lookForWaits finds the buyers whose statement waits for a row or for another lock.
func (r *round) lookForWaits() {
	server := r.run.MySQL()
	for _, b := range r.buyers {
		if b.in != testbed.MySQL || b.waits {
			continue
		}
		err := r.shop.DB.SQL.QueryRowContext(r.run.Context(), rowWaits[server.Product], b.connection).Scan(&b.waits)
		r.run.Check(err)
		if b.waits {
			b.Log("%s: waits for the row, which another transaction has locked", b.step)
			continue
		}
		connections, err := server.Connections(r.run.Context())
		r.run.Check(err)
		b.waits = slices.ContainsFunc(connections, func(c sandbox.Connection) bool {
			return c.ID == b.connection && serverLock.MatchString(c.State)
		})
		if b.waits {
			b.Log("%s: waits for the lock, which another connection holds", b.step)
		}
	}
}

// rowWaits ask whether a connection waits for a row. On MySQL, a query of INNODB_TRX would
// fail (error 3854) while any statement has bytes that are not text, for example an order's id.
var rowWaits = map[sandbox.Product]string{
	sandbox.MariaDB:   "SELECT COUNT(*) > 0 FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = ? AND trx_state = 'LOCK WAIT'",
	sandbox.RealMySQL: "SELECT COUNT(*) > 0 FROM performance_schema.data_lock_waits WHERE REQUESTING_THREAD_ID = PS_THREAD_ID(?)",
}

// serverLock matches the state of a connection that waits for a lock of the server itself,
// which InnoDB does not know: "User lock" for GET_LOCK, "Waiting for table metadata lock" for
// LOCK TABLES, and others. MySQL and MariaDB use the same words.
var serverLock = regexp.MustCompile(`^(User lock|Waiting for .+ lock)$`)

// finish lets both buyers go on to the end, the first one first as long as it can.
func (r *round) finish(first, second *buyer) {
	first.release()
	r.must(first.Name+" goes on", func() bool { return first.result != nil || first.waits })
	second.release()
	r.must(second.Name+" goes on", func() bool { return second.result != nil && first.result != nil })
	first.bought()
	second.bought()
}

// judge checks what the round has left in the database.
func (r *round) judge() {
	audit := r.shop.Audit()
	var broken []string
	if !audit.OK {
		broken = audit.Text
	}
	customers, err := stock.Query(r.run.Context(), r.shop.DB.SQL, func(s *string) []any { return []any{s} }, "SELECT customer FROM orders ORDER BY id")
	r.run.Check(err)
	if int64(len(customers)) > r.units {
		broken = append(broken, "the same unit was sold twice; the buyers are "+strings.Join(customers, ", "))
	}
	var buyers []string
	told := map[string]int{}
	for order := range r.sold {
		told[order.Customer]++
		buyers = append(buyers, order.Customer)
	}
	buyers = append(buyers, customers...)
	slices.Sort(buyers)
	for _, customer := range slices.Compact(buyers) {
		has := 0
		for _, c := range customers {
			if c == customer {
				has++
			}
		}
		if has != told[customer] {
			broken = append(broken, fmt.Sprintf("%s was told of %s, but the database has %d", customer, orders(told[customer]), has))
		}
	}
	if len(broken) > 0 {
		r.fail(broken...)
	}
}

func orders(n int) string {
	if n == 1 {
		return "1 order"
	}
	return fmt.Sprintf("%d orders", n)
}

// seller reads and writes the stock for a buyer who holds the lock.
func (r *round) seller(b *buyer) *testbed.Buyer {
	if r.sellers[b.Name] == nil {
		r.sellers[b.Name] = r.shop.On(b.Actor)
	}
	return r.sellers[b.Name]
}

// sell sells one unit of the stock that the seller has read last.
func (r *round) sell(b *buyer) {
	if r.seller(b).Sell(1) {
		r.sold[shop.Order{Customer: b.Name}] = true
	}
}

// endLease ends the lease of the lock's holder at once, as etcd does when it is not renewed.
func (r *round) endLease(holder *buyer) {
	ctx := r.run.Context()
	held, err := r.etcd.Get(ctx, r.prefix(), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	r.run.Check(err)
	if len(held.Kvs) == 0 {
		return // it has unlocked already
	}
	lease := held.Kvs[0].Lease
	if lease == 0 {
		r.fail(holder.Name + "'s key in etcd has no lease: after a crash the lock would be held for ever")
	}
	_, err = r.etcd.Revoke(ctx, clientv3.LeaseID(lease))
	r.run.Check(err)
	holder.Log("etcd ends its lease, with the lock")
}

// noKeys waits until etcd has no key of the lock any more.
func (r *round) noKeys() {
	ctx := r.run.Context()
	deadline := time.Now().Add(patience)
	for {
		left, err := r.etcd.Get(ctx, r.prefix(), clientv3.WithPrefix(), clientv3.WithKeysOnly())
		r.run.Check(err)
		if len(left.Kvs) == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.fail(fmt.Sprintf("nobody holds the lock or waits for it, but etcd still has the key %s", strings.TrimPrefix(string(left.Kvs[0].Key), r.prefix())))
		}
		r.run.Check(sleep.For(ctx, poll))
	}
}

// encode sends a command.
func encode(conn net.Conn, c shop.Command) error { return json.NewEncoder(conn).Encode(c) }

// accept waits for the connection of a process that was just started.
func accept(ctx context.Context, l *net.TCPListener) (net.Conn, error) {
	deadline, _ := ctx.Deadline()
	if err := l.SetDeadline(deadline); err != nil {
		return nil, err
	}
	return l.Accept()
}
