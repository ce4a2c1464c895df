package testbed

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/lock"
	"flashsale/internal/lock/etcdlock"
	"flashsale/internal/lock/mysqllock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// ReplicaCommand is the hidden command that serves ReplicaMain.
const ReplicaCommand = "lesson-replica"

// replicaVar is the environment's variable that holds a replicaConfig: it has the
// database's password, which arguments would show to everybody.
const replicaVar = "FLASHSALE_LESSON_REPLICA"

// replicaConfig is what a replica is told.
type replicaConfig struct {
	Name, Addr, DSN string
	Lock            strategy.Lock
	Etcd, Prefix    string
	TTL             time.Duration
}

// callTimeout bounds whatever a replica is asked to do.
const callTimeout = 15 * time.Second

// ReplicaMain is a replica's program: it does as it is told, until ctx ends.
func ReplicaMain(ctx context.Context) error {
	var cfg replicaConfig
	if err := json.Unmarshal([]byte(os.Getenv(replicaVar)), &cfg); err != nil {
		return fmt.Errorf("%s is for lessons alone (%s: %w)", ReplicaCommand, replicaVar, err)
	}
	db, err := stock.Open(cfg.DSN, 4)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // the process ends
	locker, err := cfg.locker()
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	calls := rpc.NewServer()
	if err := calls.RegisterName(seller, &Seller{name: cfg.Name, db: db, locker: locker}); err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			break // ctx has ended
		}
		go calls.ServeConn(conn) // ends with the process
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	return locker.Close(closing)
}

func (cfg replicaConfig) locker() (lock.Locker, error) {
	switch cfg.Lock {
	case strategy.Process:
		return processlock.New(), nil
	case strategy.LockTable:
		return mysqllock.NewTable(mysqllock.Config{DSN: cfg.DSN, Table: "locks", TTL: cfg.TTL, Owner: mysqllock.Owner{Replica: cfg.Name, PID: os.Getpid()}})
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{cfg.Etcd}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	ec := etcdlock.Config{Client: client, Prefix: cfg.Prefix, TTL: cfg.TTL, Owner: etcdlock.Owner{Replica: cfg.Name, PID: os.Getpid()}}
	if cfg.Lock == strategy.EtcdTextbook {
		return etcdlock.NewTextbook(ec)
	}
	return etcdlock.New(ec)
}

// seller is the service's name.
const seller = "Seller"

// Seller is what a replica can be told to do. It has one order in its hands.
type Seller struct {
	name   string
	db     *stock.DB
	locker lock.Locker

	held   lock.Held
	tenure stock.Claim
	row    stock.Row
	asOf   time.Time // of row, by this process's clock
}

// Nothing stands where a call has nothing to say.
type Nothing struct{}

// Lock takes the SKU's lock, and says with which token.
func (s *Seller) Lock(_ Nothing, token *uint64) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	s.held, err = s.locker.Lock(ctx, SKU)
	if err == nil {
		*token = uint64(s.held.Token())
	}
	return err
}

// Alive says whether the lock still counts as held, as far as the replica knows.
func (s *Seller) Alive(_ Nothing, alive *bool) error {
	select {
	case <-s.held.Lost():
	default:
		*alive = true
	}
	return nil
}

// Wanted returns once another waits for the lock that is held.
func (s *Seller) Wanted(Nothing, *Nothing) error {
	select {
	case <-s.held.Wanted():
		return nil
	case <-time.After(callTimeout):
		return errors.New("nobody waits for the lock")
	}
}

// Begin reads the stock, behind such a fence.
func (s *Seller) Begin(fence strategy.Fence, available *int64) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	s.tenure = stock.Claim{SKU: SKU, Token: s.held.Token(), Fence: fence}
	s.row, err = s.tenure.Begin(ctx, s.db)
	s.asOf = time.Now()
	*available = s.row.Available
	return err
}

// Sell writes an order by what Begin has read. It says whether the database took
// the write.
func (s *Seller) Sell(n int64, taken *bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	err := s.db.InTx(ctx, func(conn *sql.Conn) error {
		take := stock.Take{Claim: s.tenure, Row: s.row, Units: n, At: s.row.Now.Add(time.Since(s.asOf))}
		result, err := conn.ExecContext(ctx, take.Statement())
		if err != nil {
			return err
		}
		changed, err := result.RowsAffected()
		if err != nil || changed == 0 {
			return errors.Join(err, stock.ErrFenced)
		}
		return insertOrder(ctx, conn, s.name, n, uint64(s.tenure.RecordedToken()), s.row.Seq+1)
	})
	if errors.Is(err, stock.ErrFenced) {
		return nil
	}
	*taken = err == nil
	return err
}

// Unlock gives the lock back.
func (s *Seller) Unlock(Nothing, *Nothing) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return s.held.Unlock(ctx)
}

// Statement is SQL that a replica is to run.
type Statement struct {
	Query string
	Args  []any
}

// Exec runs a statement in the shop's database, each in its own transaction.
func (s *Seller) Exec(st Statement, _ *Nothing) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_, err := s.db.SQL.ExecContext(ctx, st.Query, st.Args...)
	return err
}

// Replica is an actor that is a process, with a lock of its own.
type Replica struct {
	*Actor
	process *sandbox.Process
	client  *rpc.Client
	shop    *Shop
	seen    int64
}

// Replica starts one. Replicas of a shop with the same kind of lock exclude each
// other, as far as that can.
func (s *Shop) Replica(name string, kind strategy.Lock) *Replica {
	p := s.play
	r := &Replica{Actor: p.Actor(name), shop: s}
	reserved, err := sandbox.ReservePort()
	p.Check(err)
	// Two seconds: the shortest that etcd grants with its default time-outs.
	cfg := replicaConfig{Name: name, Addr: reserved.Addr, DSN: s.dsn, Lock: kind, Prefix: p.Name + "/", TTL: 2 * time.Second}
	if kind == strategy.Etcd || kind == strategy.EtcdTextbook {
		cfg.Etcd = p.Etcd().Endpoint
	}
	env, err := json.Marshal(cfg)
	p.Check(err)
	argv := p.bed.cfg.ReplicaProgram
	if len(argv) == 0 {
		self, err := os.Executable()
		p.Check(err)
		argv = []string{self, ReplicaCommand}
	}
	r.process, err = sandbox.StartProcess(p.ctx, sandbox.ProcessConfig{
		Name: name, Argv: argv, Env: []string{replicaVar + "=" + string(env)},
		Ports: []*sandbox.Port{reserved},
		Ready: func(ctx context.Context) (err error) { r.client, err = dial(ctx, reserved.Addr); return err },
	})
	p.Check(err)
	p.Cleanup(func() error {
		err := r.process.Stop(context.Background()) // it has a bound of its own
		if closed := r.client.Close(); !errors.Is(closed, rpc.ErrShutdown) {
			err = errors.Join(err, closed)
		}
		return err
	})
	return r
}

func dial(ctx context.Context, addr string) (*rpc.Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return rpc.NewClient(conn), nil
}

// call is for the script's goroutine, ask for steps that may wait.
func (r *Replica) call(method string, args, reply any) {
	r.play.Check(r.ask(r.play.ctx, method, args, reply))
}

func (r *Replica) ask(ctx context.Context, method string, args, reply any) error {
	call := r.client.Go(seller+"."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", r.Name, method, ctx.Err())
	}
	if call.Error != nil {
		return fmt.Errorf("%s: %s: %w", r.Name, method, call.Error)
	}
	return nil
}

// Lock takes the lock, which is free or is no obstacle.
func (r *Replica) Lock() {
	var token uint64
	r.call("Lock", Nothing{}, &token)
	r.hasLock(token)
}

// BeginsLock begins to wait for the lock. What it returns writes down the grant.
func (r *Replica) BeginsLock() (step *Step, granted func()) {
	var token uint64
	step = r.Begins("asks for the lock, and has to wait",
		func(ctx context.Context) error { return r.ask(ctx, "Lock", Nothing{}, &token) })
	return step, func() { step.Ends(); r.hasLock(token) }
}

func (r *Replica) hasLock(token uint64) {
	if token == 0 {
		r.Says("has the lock")
		return
	}
	r.Says("has the lock, with token %s", r.play.Token(token))
}

// IsWanted returns once the lock's server has told r that another waits.
func (r *Replica) IsWanted() {
	r.call("Wanted", Nothing{}, &Nothing{})
	r.Says("is told that another waits")
}

// Unlock gives it back.
func (r *Replica) Unlock() {
	r.Says("unlocks")
	r.call("Unlock", Nothing{}, &Nothing{})
}

// LooksWhetherAlive has the replica look whether its lock has been lost.
func (r *Replica) LooksWhetherAlive() {
	var alive bool
	r.call("Alive", Nothing{}, &alive)
	if !alive {
		r.play.Fail("%s has lost its lock before it was paused", r.Name)
	}
	r.Says("looks: its lease is alive")
}

// Begin reads the stock behind such a fence.
func (r *Replica) Begin(fence strategy.Fence) {
	r.call("Begin", fence, &r.seen)
	if fence == strategy.FenceClaim {
		r.Says("registers its token, then reads the stock: %s", Units(r.seen))
		return
	}
	r.Says("reads the stock: %s", Units(r.seen))
}

// Sell writes an order of n units by what Begin has read.
func (r *Replica) Sell(n int64) {
	if r.seen < n {
		r.Says("refuses the order: %s wanted, %d left", Units(n), r.seen)
		r.shop.Refuse(r.Name, n, "sold out")
		return
	}
	var taken bool
	r.call("Sell", n, &taken)
	if !taken {
		r.Says("writes the stock: %d; MySQL refuses: a newer token is registered", r.seen-n)
		return
	}
	r.Says("sells %s, and writes the stock: %d", Units(n), r.seen-n)
}

// Exec has the replica run a statement in the shop's database.
func (r *Replica) Exec(what, query string, args ...any) {
	r.Says("%s", what)
	r.call("Exec", Statement{query, args}, &Nothing{})
}

// Pause stops the process as it stands (SIGSTOP). It can be asked nothing until
// Resume.
func (r *Replica) Pause() {
	r.Says("is paused (SIGSTOP)")
	r.play.Check(r.play.Pause(r.process))
}

// Resume lets the process go on.
func (r *Replica) Resume() {
	r.play.Check(r.process.Signal(sandbox.SIGCONT))
	r.Says("goes on (SIGCONT)")
}

// Crash kills the process (SIGKILL).
func (r *Replica) Crash() {
	r.Says("crashes (SIGKILL)")
	r.process.Kill()
}
