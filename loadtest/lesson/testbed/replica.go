package testbed

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/lock"
	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// ReplicaCommand is the hidden command that serves ReplicaMain.
const ReplicaCommand = "lesson-replica"

// replicaVar is the environment variable that holds a replicaConfig. It contains
// the database's password, which other users could read in the arguments.
const replicaVar = "FLASHSALE_LESSON_REPLICA"

// replicaConfig configures a replica's process.
type replicaConfig struct {
	Name, Addr, DSN, Strategy string
	Servers                   backend.Servers
}

// lockTTL is the shortest TTL that etcd grants with its default time-outs.
const lockTTL = 2 * time.Second

const callTimeout = 15 * time.Second

// ReplicaMain is a replica's program: it serves calls until ctx ends.
func ReplicaMain(ctx context.Context) error {
	var cfg replicaConfig
	if err := json.Unmarshal([]byte(os.Getenv(replicaVar)), &cfg); err != nil {
		return fmt.Errorf("%s is only for lessons (%s: %w)", ReplicaCommand, replicaVar, err)
	}
	db, err := stock.Open(cfg.DSN, 4)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // the process ends
	row, err := strategy.Find(cfg.Strategy)
	if err != nil {
		return err
	}
	b, err := backend.Open(ctx, backend.Config{
		Strategy: row, Servers: cfg.Servers, DSN: cfg.DSN, Database: db.Name,
		Replica: cfg.Name, TTL: lockTTL, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return err
	}
	calls := rpc.NewServer()
	if err := calls.Register(&Seller{name: cfg.Name, db: db, locker: b.Locker}); err != nil {
		return err
	}
	go calls.Accept(listener) // ends with the process
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return errors.Join(b.Locker.Close(closing), b.Close())
}

// Seller is the RPC service of a replica. It handles one order at a time.
type Seller struct {
	name   string
	db     *stock.DB
	locker lock.Locker

	held  lock.Held
	claim stock.Claim
	row   stock.Row
	asOf  time.Time // of row, by this process's clock
}

// Call is what a replica is told to do: one of the operations below.
type Call struct {
	Op    string
	Fence strategy.Fence // of opBegin
	Query string         // of opExec
	Args  []any
}

// Reply is the result of a Call.
type Reply struct {
	Token     uint64 // of opLock
	Available int64  // of opBegin
	OK        bool   // of opAlive and opSell
}

const (
	opLock   = "lock"   // acquire the SKU's lock
	opAlive  = "alive"  // is the lock still held, as far as the replica knows?
	opWaiter = "waiter" // wait until another replica waits for the lock
	opBegin  = "begin"  // read the stock under a fence
	opSell   = "sell"   // write an order of one unit: does the database accept it?
	opUnlock = "unlock" // release the lock
	opExec   = "exec"   // run a statement in the shop's database
)

// Do carries out a call.
func (s *Seller) Do(call Call, reply *Reply) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	switch call.Op {
	case opLock:
		if s.held, err = s.locker.Lock(ctx, SKU); err == nil {
			reply.Token = uint64(s.held.Token())
		}
	case opAlive:
		select {
		case <-s.held.Lost():
		default:
			reply.OK = true
		}
	case opWaiter:
		select {
		case <-s.held.Contended():
		case <-ctx.Done():
			err = errors.New("no other replica waits for the lock")
		}
	case opBegin:
		s.claim = stock.Claim{SKU: SKU, Token: s.held.Token(), Fence: call.Fence}
		s.row, err = s.claim.Read(ctx, s.db)
		s.asOf = time.Now()
		reply.Available = s.row.Available
	case opSell:
		if err = s.db.InTx(ctx, func(conn *sql.Conn) error { return s.sell(ctx, conn) }); errors.Is(err, stock.ErrFenced) {
			return nil
		}
		reply.OK = err == nil
	case opUnlock:
		err = s.held.Unlock(ctx)
	case opExec:
		_, err = s.db.SQL.ExecContext(ctx, call.Query, call.Args...)
	}
	return err
}

// sell writes an order of one unit, based on what opBegin read.
func (s *Seller) sell(ctx context.Context, conn *sql.Conn) error {
	take := stock.Take{Claim: s.claim, Row: s.row, Units: 1, At: s.row.Now.Add(time.Since(s.asOf))}
	result, err := conn.ExecContext(ctx, take.Statement())
	if err != nil {
		return err
	}
	changed, err := result.RowsAffected()
	if err != nil || changed == 0 {
		return errors.Join(err, stock.ErrFenced)
	}
	return insertOrder(ctx, conn, s.name, 1, uint64(s.claim.RecordedToken()), s.row.Seq+1)
}

// Replica is an actor that is a process, with a lock of its own.
type Replica struct {
	*Actor
	process   *sandbox.Process
	client    *rpc.Client
	shop      *Shop
	locks     string // the server that grants its lock
	available int64  // as Begin read it
}

// Replica starts a replica. Replicas of a shop with the same kind of lock compete
// for it, except for strategy.Process.
func (s *Shop) Replica(name string, kind strategy.Lock) *Replica {
	run := s.run
	r := &Replica{Actor: run.Actor(name).as(IsReplica), shop: s, locks: MySQL}
	reserved, err := sandbox.ReservePort()
	run.Check(err)
	cfg := replicaConfig{Name: name, Addr: reserved.Addr, DSN: s.DSN, Strategy: string(kind)} // of the same name, but for a Lease
	switch kind {
	case strategy.Process:
		r.locks = Mutex + " of " + name
	case strategy.Etcd:
		r.locks = Etcd
		cfg.Servers.EtcdEndpoints = []string{run.Etcd().Endpoint}
	case strategy.ZooKeeper:
		r.locks = ZooKeeper
		cfg.Servers.ZooKeeperServers, cfg.Servers.Prefix = run.ZooKeeperPods().Servers, "flashsale/"
	case strategy.Lease:
		r.locks = Kubernetes
		cfg.Strategy, cfg.Servers = "kubernetes", run.APIServer().servers()
	}
	env, err := json.Marshal(cfg)
	run.Check(err)
	self, err := os.Executable()
	run.Check(err)
	r.process, err = sandbox.StartProcess(run.ctx, sandbox.ProcessConfig{
		Name: name, Argv: []string{self, ReplicaCommand}, Env: []string{replicaVar + "=" + string(env)},
		Ports: []*sandbox.Port{reserved},
		Ready: func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", reserved.Addr)
			if err == nil {
				r.client = rpc.NewClient(conn)
			}
			return err
		},
	})
	run.Check(err)
	run.Cleanup(func() error {
		err := r.process.Stop(context.Background()) // bounded by Stop itself
		if closed := r.client.Close(); !errors.Is(closed, rpc.ErrShutdown) {
			err = errors.Join(err, closed)
		}
		return err
	})
	return r
}

func (r *Replica) call(call Call) (reply Reply) {
	r.run.Check(r.tryCall(r.run.ctx, call, &reply))
	return reply
}

func (r *Replica) tryCall(ctx context.Context, call Call, reply *Reply) (err error) {
	pending := r.client.Go("Seller.Do", call, reply, make(chan *rpc.Call, 1))
	select {
	case <-pending.Done:
		err = pending.Error
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", r.Name, call.Op, err)
	}
	return nil
}

// Lock acquires the lock without waiting for another replica.
func (r *Replica) Lock() { r.logLock(r.call(Call{Op: opLock}).Token) }

// StartLock requests the lock while another replica holds it. finish waits for the
// grant and logs it.
func (r *Replica) StartLock() (step *Step, finish func()) {
	var reply Reply
	step = r.To(r.locks, Lock).Start("requests the lock and waits", func(ctx context.Context) error { return r.tryCall(ctx, Call{Op: opLock}, &reply) })
	return step, func() { step.Finish(); r.logLock(reply.Token) }
}

func (r *Replica) logLock(token uint64) {
	if token == 0 {
		r.To(r.locks, Lock).Log("acquires the lock")
		return
	}
	r.To(r.locks, Lock).Log("acquires the lock with token %s", r.run.Token(token))
}

// AwaitWaiter returns once the lock server has told r that another replica waits.
func (r *Replica) AwaitWaiter() {
	r.call(Call{Op: opWaiter})
	r.To(r.locks, Lock).Log("learns that another replica waits")
}

// Unlock releases the lock.
func (r *Replica) Unlock() {
	r.To(r.locks, Lock).Log("releases the lock")
	r.call(Call{Op: opUnlock})
}

// CheckLease has the replica check that its lock is not lost.
func (r *Replica) CheckLease() {
	if !r.call(Call{Op: opAlive}).OK {
		r.run.Fail("%s lost its lock before it was paused", r.Name)
	}
	r.Log("checks its lease: valid")
}

// Begin reads the stock under that fence.
func (r *Replica) Begin(fence strategy.Fence) {
	r.available = r.call(Call{Op: opBegin, Fence: fence}).Available
	if fence == strategy.FenceClaim {
		r.To(MySQL, Read).Log("registers its token, then reads the stock: %s", Units(r.available))
		return
	}
	r.To(MySQL, Read).Log("reads the stock: %s", Units(r.available))
}

// Sell writes an order of one unit, based on what Begin read.
func (r *Replica) Sell() {
	left := r.available - 1
	switch {
	case left < 0:
		r.To("", Refuse).Log("refuses the order: 1 unit requested, 0 left")
		r.shop.Refuse(r.Name, 1, "sold out")
	case r.call(Call{Op: opSell}).OK:
		r.To(MySQL, Write).Log("sells 1 unit and writes the stock: %d", left)
	default:
		r.To(MySQL, Refuse).Log("writes the stock: %d; MySQL refuses: a newer token is registered", left)
	}
}

// Exec has the replica run a statement about a lock in the shop's database.
func (r *Replica) Exec(what, query string, args ...any) {
	r.To(MySQL, Lock).Log("%s", what)
	r.call(Call{Op: opExec, Query: query, Args: args})
}

// Pause stops the process (SIGSTOP). It answers no call until Resume.
func (r *Replica) Pause() {
	r.To("", Fault).Log("is paused (SIGSTOP)")
	r.run.Check(r.run.Pause(r.process))
}

// Resume continues the process.
func (r *Replica) Resume() {
	r.run.Check(r.process.Signal(sandbox.SIGCONT))
	r.To("", Fault).Log("resumes (SIGCONT)")
}

// Crash kills the process (SIGKILL).
func (r *Replica) Crash() {
	r.To("", Fault).Log("crashes (SIGKILL)")
	r.process.Kill()
}
