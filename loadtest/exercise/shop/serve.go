package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/etcdlock"
	"flashsale/internal/stock"
)

// ConfigVar is the environment variable with the Config of a buyer's process, in JSON. It
// contains the database's password, which other users could read in the arguments.
const ConfigVar = "FLASHSALE_EXERCISE"

// Config configures a buyer's process.
type Config struct {
	// Name identifies the buyer, and Check is where the check listens for it.
	Name, Check string
	DSN         string
	// Etcd is an endpoint, or empty for an exercise without etcd. Prefix is that of all
	// keys of this round.
	Etcd, Prefix string
	TTL          time.Duration // of a lock
}

// Command is what the check tells a buyer to do: one of the operations below. A buyer does
// one at a time, but for Go and Cancel.
type Command struct {
	Op    string
	Order Order // of Buy
	Step  int   // of Go
}

// The operations.
const (
	Go        = "go"     // take the step that was announced
	Cancel    = "cancel" // end the context of the current operation
	Buy       = "buy"    // run the exercise's Buy or BuyHolding
	Lock      = "lock"
	TryLockOp = "trylock"
	Unlock    = "unlock" // the latest grant
	Lost      = "lost"   // wait until the latest grant is lost
	IsLost    = "islost" // is the latest grant lost?
	// UnlockFormer unlocks the grant before the latest.
	UnlockFormer = "unlock of the former grant"
)

// Event is what a buyer tells the check.
type Event struct {
	Kind string // At, Did or Result
	// Of a step. Text says what it does, Answer what came of it. The first Result's Text is the
	// buyer's name.
	Step         int
	Server       string
	Text, Answer string
	// OK is the result of Buy, TryLockOp and IsLost; Token is that of a grant. Err is the
	// operation's error, and Reason the one among Reasons that it wraps.
	OK          bool
	Token       uint64
	Err, Reason string
	Connection  int64 // the server's id of the buyer's connection
}

// The kinds of events.
const (
	At     = "at"  // the buyer is about to take a step, and waits for Go
	Did    = "did" // the step is taken
	Result = "result"
)

// The servers of steps, as package testbed names them.
const (
	inMySQL = "MySQL"
	inEtcd  = "etcd"
)

// reasons are the errors that a check tells apart.
var reasons = map[string]error{"fenced": stock.ErrFenced, "lost": lock.ErrLost, "held": lock.ErrHeld}

// rowWait bounds a statement's wait for a row, in seconds. The check observes the wait and
// lets the row's owner go on, which takes longer than the service's second on a busy machine.
const rowWait = 30

// Serve runs the code as one buyer, under the commands of the check, which starts the
// program. Without the check, the program ends with an error.
func Serve(code Code) {
	if err := serve(code); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(code Code) error {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv(ConfigVar)), &cfg); err != nil {
		return errors.New("this program is an exercise: run it with bin/loadtest exercise check")
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	check, err := new(net.Dialer).DialContext(ctx, "tcp", cfg.Check)
	if err != nil {
		return err
	}
	b := &buyer{code: code, steps: &steps{out: json.NewEncoder(check), waiting: map[int]chan struct{}{}}}
	db, err := stock.Open(cfg.DSN, 1)
	if err != nil {
		return err
	}
	conn, err := db.SQL.Conn(ctx)
	if err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "SET innodb_lock_wait_timeout = ?", rowWait); err != nil {
		return err
	}
	hello := Event{Kind: Result, Text: cfg.Name}
	if err := conn.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&hello.Connection); err != nil {
		return err
	}
	b.conn = &Conn{conn, b.steps}
	if cfg.Etcd != "" {
		if b.locker, err = openLock(code, cfg, b.steps); err != nil {
			return err
		}
	}
	b.steps.send(hello)
	b.cancel = func() {}
	for in := json.NewDecoder(check); ; {
		var c Command
		if err := in.Decode(&c); err != nil {
			return nil // the check has ended the round
		}
		switch c.Op {
		case Go:
			b.steps.release(c.Step)
		case Cancel:
			b.cancel()
		default:
			work, cancel := context.WithCancel(ctx)
			b.cancel = cancel
			go func() { b.steps.send(b.do(work, c)) }()
		}
	}
}

// openLock opens the lock of the exercise: the code's own, or the service's.
func openLock(code Code, cfg Config, steps *steps) (lock.Locker, error) {
	if code.BuyHolding != nil {
		steps = nil // the steps of the service's lock are not the exercise's
	}
	client, err := newClient(cfg.Etcd, cfg.Prefix, steps)
	switch {
	case err != nil:
		return nil, err
	case code.NewTryLock != nil:
		newLock := func() TryLock { return code.NewTryLock(client, cfg.Name) }
		return &tryLocker{newLock: newLock, next: newLock()}, nil
	case code.NewLocker != nil:
		return code.NewLocker(client, cfg.Name, cfg.TTL), nil
	}
	return etcdlock.New(etcdlock.Config{Client: client, Prefix: "lock/", TTL: cfg.TTL, Owner: etcdlock.Owner{Replica: cfg.Name}})
}

// buyer is the code of an exercise in its process.
type buyer struct {
	code   Code
	steps  *steps
	conn   *Conn
	locker lock.Locker
	held   lock.Held // the latest grant
	former lock.Held // the grant before it
	cancel func()    // ends the context of the current operation
}

// do carries out an operation.
func (b *buyer) do(ctx context.Context, c Command) Event {
	e := Event{Kind: Result}
	var err error
	switch c.Op {
	case Buy:
		if b.code.Buy != nil {
			e.OK, err = b.code.Buy(ctx, b.conn, c.Order)
		} else {
			e.OK, err = b.code.BuyHolding(ctx, b.conn, b.held, c.Order)
		}
		if _, undo := b.conn.conn.ExecContext(ctx, "ROLLBACK"); err == nil {
			err = undo
		}
	case Lock:
		err = b.take(b.locker.Lock(ctx, SKU))
	case TryLockOp:
		err = b.take(b.locker.TryLock(ctx, SKU))
		if e.OK = err == nil; errors.Is(err, lock.ErrHeld) {
			err = nil
		}
	case Unlock:
		err = b.held.Unlock(ctx)
	case UnlockFormer:
		err = b.former.Unlock(ctx)
	case Lost:
		select {
		case <-b.held.Lost():
		case <-ctx.Done():
			err = ctx.Err()
		}
	case IsLost:
		select {
		case <-b.held.Lost():
			e.OK = true
		default:
		}
	}
	if b.held != nil {
		e.Token = uint64(b.held.Token())
	}
	if err != nil {
		e.Err = err.Error()
		for reason, is := range reasons {
			if errors.Is(err, is) {
				e.Reason = reason
			}
		}
	}
	return e
}

func (b *buyer) take(held lock.Held, err error) error {
	if err == nil {
		b.former, b.held = b.held, held
	}
	return err
}

// steps announces each step to the check, and waits for its permission.
type steps struct {
	mu      sync.Mutex
	out     *json.Encoder
	last    int
	waiting map[int]chan struct{}
}

// take takes a step: do returns what came of it.
func (s *steps) take(ctx context.Context, server, text string, do func() (string, error)) error {
	permitted := make(chan struct{})
	s.mu.Lock()
	s.last++
	id := s.last
	s.waiting[id] = permitted
	s.mu.Unlock()
	s.send(Event{Kind: At, Step: id, Server: server, Text: text})
	did := Event{Kind: Did, Step: id, Server: server, Text: text}
	var err error
	select {
	case <-permitted:
		did.Answer, err = do()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		did.Answer = err.Error()
	}
	s.send(did)
	return err
}

func (s *steps) release(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if permitted, ok := s.waiting[id]; ok {
		close(permitted)
		delete(s.waiting, id)
	}
}

// send ends the process if the check has gone.
func (s *steps) send(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.Encode(e) != nil {
		os.Exit(0)
	}
}

// tryLocker makes a TryLock a lock.Locker, as far as the check needs one. Unlock of a TryLock
// does not say which grant it means, so that each grant has a TryLock of its own.
type tryLocker struct {
	newLock func() TryLock
	next    TryLock // has no grant yet
}

func (l *tryLocker) TryLock(ctx context.Context, _ string) (lock.Held, error) {
	switch ok, err := l.next.TryLock(ctx); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, lock.ErrHeld
	}
	held := tryHeld{l.next}
	l.next = l.newLock()
	return held, nil
}

func (l *tryLocker) Lock(ctx context.Context, name string) (lock.Held, error) {
	return l.TryLock(ctx, name)
}

func (*tryLocker) Close(context.Context) error { return nil }

type tryHeld struct{ TryLock }

func (tryHeld) Token() lock.Token          { return 0 }
func (tryHeld) Lost() <-chan struct{}      { return nil }
func (tryHeld) Contended() <-chan struct{} { return nil }
