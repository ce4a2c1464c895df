package exercise

import (
	"context"
	"encoding/json"
	"net"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/exercise/shop"
	"flashsale/loadtest/lesson/testbed"
)

// buyer is a process with the student's code.
type buyer struct {
	*testbed.Actor
	round      *round
	process    *sandbox.Process
	conn       net.Conn
	connection int64 // the server's id

	op       shop.Command
	result   *shop.Event // of op; nil while it runs
	steps    int         // announced since op began
	stopAt   int         // the step to stop before; 0 is none
	stopped  *shop.Event // that step
	in, step string      // the server and the text of the step that it takes
	waits    bool        // that step waits for a lock of MySQL, on a row or another
	last     time.Time   // when it last sent something
	killed   bool
}

// lockTTL is how long a grant survives its process. It is longer than a busy machine delays a renewal.
const lockTTL = 5 * time.Second

// buyer starts a buyer's process.
func (r *round) buyer(name string) *buyer {
	b := &buyer{Actor: r.actors[name], round: r}
	cfg := shop.Config{Name: name, Check: r.listener.Addr().String(), DSN: r.shop.DSN, TTL: lockTTL}
	if r.locks {
		cfg.Etcd, cfg.Prefix = r.run.Etcd().Endpoint, r.prefix()
	}
	env, err := json.Marshal(cfg)
	r.run.Check(err)
	b.process, err = sandbox.StartProcess(r.run.Context(), sandbox.ProcessConfig{
		Name: name, Argv: []string{r.program}, Env: []string{shop.ConfigVar + "=" + string(env)},
		Ready: func(ctx context.Context) (err error) {
			b.conn, err = accept(ctx, r.listener)
			return err
		},
	})
	r.run.Check(err)
	r.buyers = append(r.buyers, b)
	r.readers.Go(b.read)
	r.must(name+" starts", func() bool { return b.result != nil })
	b.connection = b.result.Connection
	return b
}

// read hands on what the process sends, until it ends.
func (b *buyer) read() {
	defer b.conn.Close()
	in := json.NewDecoder(b.conn)
	for {
		e := event{by: b, Event: new(shop.Event)}
		if in.Decode(e.Event) != nil {
			e.Event = nil
		}
		select {
		case b.round.events <- e:
		case <-b.round.done:
			return
		}
		if e.Event == nil {
			return
		}
	}
}

// handle handles what the process has sent. Only drive calls it.
func (b *buyer) handle(e *shop.Event) {
	b.last = time.Now()
	switch {
	case e == nil && b.killed:
	case e == nil:
		b.round.fail(b.Name + "'s process has ended: see what it printed")
	case e.Kind == shop.At:
		b.steps++
		if b.steps == b.stopAt {
			b.stopped = e
			b.Log("is stopped before: %s", e.Text)
			return
		}
		b.allow(e)
	case e.Kind == shop.Did:
		b.in, b.waits = "", false
		text := e.Text
		if e.Answer != "" {
			text += " -> " + e.Answer
		}
		b.To(e.Server, testbed.Note).Log("%s", text)
	case e.Kind == shop.Result:
		b.result = e
		if text := answer(b.op.Op, e); text != "" {
			b.Log("%s", text)
		}
	}
}

// answer is what an operation has returned, in words.
func answer(op string, e *shop.Event) string {
	switch {
	case e.Err != "":
		return op + " returns an error: " + e.Err
	case op == shop.Buy && e.OK:
		return "answers: sold"
	case op == shop.Buy:
		return "answers: sold out"
	case op == shop.Lock, op == shop.TryLockOp && e.OK:
		return "has the lock"
	case op == shop.TryLockOp:
		return "the lock is held by another"
	case op == shop.Unlock:
		return "has unlocked"
	case op == shop.UnlockFormer:
		return "has unlocked its former grant"
	case op == shop.Lost:
		return "learns that its lock is lost"
	}
	return ""
}

// allow permits a step.
func (b *buyer) allow(e *shop.Event) {
	b.in, b.step = e.Server, e.Text
	b.send(shop.Command{Op: shop.Go, Step: e.Step})
}

// send sends a command. A process that has ended is noticed by read.
func (b *buyer) send(c shop.Command) { _ = encode(b.conn, c) }

// start starts an operation, and stops the buyer before its nth step; 0 is none.
func (b *buyer) start(op string, n int) {
	b.startOrder(shop.Command{Op: op, Order: shop.Order{Customer: b.Name, Key: b.Name + "'s key"}}, n)
}

func (b *buyer) startOrder(c shop.Command, n int) {
	b.op, b.result, b.steps, b.stopAt, b.stopped, b.last = c, nil, 0, n, nil, time.Now()
	if c.Order.Customer != "" && c.Order.Customer != b.Name {
		b.Log("gets the order of %s, key %q", c.Order.Customer, c.Order.Key)
	}
	b.send(c)
}

// settle waits until the buyer is stopped, waits for a lock of MySQL, asks for one again and
// again, or is done. It reports whether it is stopped.
func (b *buyer) settle() bool {
	b.round.must(b.Name+" goes on", func() bool {
		return b.stopped != nil || b.result != nil || b.waits || b.steps > b.stopAt+manySteps
	})
	return b.stopped != nil
}

// waitsForLock lets a buyer that asks for the lock go on until it has the lock or waits, and
// reports whether it waits: it sends nothing while no request to etcd is open, or it asks
// again and again.
func (b *buyer) waitsForLock() bool {
	b.release()
	from := b.steps
	b.round.must(b.Name+" gets the lock or waits", func() bool {
		return b.result != nil || b.in == "" && time.Since(b.last) > quiet || b.steps > from+manySteps
	})
	return b.result == nil
}

// release lets a buyer go on to the end.
func (b *buyer) release() {
	b.stopAt = 0
	if b.stopped != nil {
		b.allow(b.stopped)
		b.stopped = nil
	}
}

// do runs an operation to its end.
func (b *buyer) do(op string) *shop.Event {
	b.start(op, 0)
	return b.end()
}

func (b *buyer) end() *shop.Event {
	b.release()
	b.round.must(b.Name+" comes to its end", func() bool { return b.result != nil })
	return b.result
}

// buy runs an order to its end.
func (b *buyer) buy(order shop.Order) {
	b.startOrder(shop.Command{Op: shop.Buy, Order: order}, 0)
	b.end()
	b.bought()
}

// bought notes what a buyer was told at the end of its order.
func (b *buyer) bought() {
	switch e := b.result; {
	case e.Reason == "fenced": // not decided: the buyer tries again
	case e.Err != "":
		b.round.fail(b.Name + " got an error in place of an answer: " + e.Err)
	case e.OK:
		b.round.sold[b.op.Order] = true
	default:
		b.round.shop.Refuse(b.Name, 1, "sold out")
	}
}

// pause stops the process (SIGSTOP) until resume.
func (b *buyer) pause() {
	b.round.run.Check(b.process.Pause(b.round.run.Context()))
	b.Log("its process is paused (SIGSTOP)")
}

func (b *buyer) resume() {
	b.round.run.Check(b.process.Signal(sandbox.SIGCONT))
	b.Log("its process goes on (SIGCONT)")
}

// kill kills the process (SIGKILL).
func (b *buyer) kill() {
	b.killed = true
	b.in, b.waits = "", false
	b.process.Kill()
	b.Log("its process is killed (SIGKILL): nobody gets its answer")
}

// lock takes the lock, which must be free.
func (b *buyer) lock() *shop.Event {
	e := b.do(shop.Lock)
	if e.Err != "" {
		b.round.fail(b.Name + " could not take the lock, which is free: " + e.Err)
	}
	return e
}

// tryLock tries to take the lock, which is free or not.
func (b *buyer) tryLock(free bool) {
	e := b.do(shop.TryLockOp)
	switch {
	case e.Err != "":
		b.round.fail(b.Name + " got an error in place of the lock: " + e.Err)
	case free && !e.OK:
		b.round.fail(b.Name + " was refused the lock, which nobody holds any more")
	case !free && e.OK:
		b.round.fail(b.Name + " got the lock although another holds it")
	}
}

// unlock unlocks, which must succeed.
func (b *buyer) unlock() {
	if e := b.do(shop.Unlock); e.Err != "" {
		b.round.fail(b.Name + " could not unlock what it holds: " + e.Err)
	}
}
