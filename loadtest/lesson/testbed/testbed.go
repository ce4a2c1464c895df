// Package testbed is what a lesson runs on: private servers, a shop with one
// SKU in a database of its own, and actors whose steps are written down in the
// order in which they were taken. A step is taken when the script says so, or is
// seen to wait: nothing sleeps and hopes. What a lesson shows is left to package
// lesson.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/sandbox"
)

// Config says how the testbed starts programs. The zero Config is right for a
// program that serves the hidden commands etcd-node and lesson-replica.
type Config struct {
	// Database is sandbox.Config's.
	Database sandbox.Product
	// EtcdProgram is sandbox.Config's.
	EtcdProgram []string
	// ReplicaProgram is the beginning of a command that calls ReplicaMain. With
	// none it is this executable's own hidden command.
	ReplicaProgram []string
}

// Testbed has servers that start when they are first asked for, and that all plays
// share. Each play has a database and keys of its own.
type Testbed struct {
	cfg Config

	mu     sync.Mutex
	mysql  *sandbox.Stack
	galera *sandbox.Stack
	etcd   *sandbox.Stack
	redis  *sandbox.Redis
	zk     *sandbox.ZooKeeper
	plays  int
}

// New makes a testbed. It starts nothing yet.
func New(cfg Config) *Testbed {
	// The library has one logger for all clients. What it would tell of nodes
	// that a lesson has killed is part of the lesson.
	logging.Disable()
	return &Testbed{cfg: cfg}
}

// Close ends all servers.
func (s *Testbed) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stack := range []*sandbox.Stack{s.mysql, s.galera, s.etcd} {
		if stack != nil {
			stack.Stop()
		}
	}
	var errs []error
	if s.redis != nil {
		errs = append(errs, s.redis.Close())
	}
	if s.zk != nil {
		errs = append(errs, s.zk.Close())
	}
	s.mysql, s.galera, s.etcd, s.redis, s.zk = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

// Database starts the shared database server, if no play has yet, and returns its
// product with its version.
func (s *Testbed) Database(ctx context.Context) (version string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mysql == nil {
		if s.mysql, err = sandbox.Start(ctx, sandbox.Config{MySQL: true, Database: s.cfg.Database}); err != nil {
			return "", err
		}
	}
	return s.mysql.MySQL.Version, nil
}

// MySQL is the shared database server.
func (p *Play) MySQL() *sandbox.MySQL {
	return p.shared(&p.bed.mysql, sandbox.Config{MySQL: true, Database: p.bed.cfg.Database}).MySQL
}

// Galera is the shared cluster of MariaDB, of two servers.
func (p *Play) Galera() *sandbox.Cluster {
	return p.shared(&p.bed.galera, sandbox.Config{MySQL: true, Database: sandbox.MariaDB, MySQLNodes: 2}).Cluster
}

// OwnMySQL is a database server of this play's alone, to be killed or set up otherwise.
func (p *Play) OwnMySQL() *sandbox.MySQL {
	stack, err := sandbox.Start(p.ctx, sandbox.Config{MySQL: true, Database: p.bed.cfg.Database})
	p.Check(err)
	p.Cleanup(func() error { stack.Stop(); return nil })
	return stack.MySQL
}

// Etcd is the shared etcd, of one node.
func (p *Play) Etcd() *sandbox.Etcd {
	return p.shared(&p.bed.etcd, sandbox.Config{EtcdNodes: 1, EtcdProgram: p.bed.cfg.EtcdProgram}).Etcd[0]
}

// EtcdClient connects to the shared etcd. Each actor has a client of its own, as
// processes would.
func (p *Play) EtcdClient() *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{p.Etcd().Endpoint}, Logger: zap.NewNop()})
	p.Check(err)
	p.Cleanup(func() error {
		if err := client.Close(); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil // what the library says of a client that had a session
	})
	return client
}

// RedisClient connects to the shared Redis.
func (p *Play) RedisClient() *redis.Client {
	p.bed.mu.Lock()
	defer p.bed.mu.Unlock()
	if p.bed.redis == nil {
		server, err := sandbox.StartRedis(p.ctx, sandbox.RedisConfig{})
		p.Check(err)
		p.bed.redis = server
	}
	return p.ClientOf(p.bed.redis)
}

// OwnRedis is a Redis of this play's alone.
func (p *Play) OwnRedis(cfg sandbox.RedisConfig) *sandbox.Redis {
	server, err := sandbox.StartRedis(p.ctx, cfg)
	p.Check(err)
	p.Cleanup(server.Close)
	return server
}

// ZooKeeper is the shared one, of one node.
func (p *Play) ZooKeeper() *sandbox.ZooKeeper {
	p.bed.mu.Lock()
	defer p.bed.mu.Unlock()
	if p.bed.zk == nil {
		server, err := sandbox.StartZooKeeper(p.ctx, 1)
		p.Check(err)
		p.bed.zk = server
	}
	return p.bed.zk
}

// ClientOf connects to a Redis. It tries nothing again: a lesson is about what
// each single call does.
func (p *Play) ClientOf(server *sandbox.Redis) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1})
	p.Cleanup(client.Close)
	return client
}

// shared starts a stack of servers for this play and all later ones.
func (p *Play) shared(stack **sandbox.Stack, cfg sandbox.Config) *sandbox.Stack {
	p.bed.mu.Lock()
	defer p.bed.mu.Unlock()
	if *stack == nil {
		started, err := sandbox.Start(p.ctx, cfg)
		p.Check(err)
		*stack = started
	}
	return *stack
}

// limit bounds one play, and the start of the servers that it needs. A lesson
// takes under 30 s; on a machine that is busy otherwise it may take longer, and
// only what hangs is to be ended.
const limit = time.Minute

// Play runs a script, once, and returns what was written down. say, if not nil,
// gets each line as it is written. A script whose step fails ends there, and the
// error is returned.
func (s *Testbed) Play(ctx context.Context, say func(Line), script func(*Play) Audit) (audit Audit, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s.mu.Lock()
	s.plays++
	name := fmt.Sprintf("lesson%d", s.plays)
	s.mu.Unlock()
	p := &Play{Name: name, ctx: ctx, bed: s, say: say, tokens: map[uint64]int{}}
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case failure:
			err = cause.error
		default:
			panic(cause)
		}
		cancel() // steps that still wait end by it
		err = errors.Join(err, p.cleanUp())
	}()
	return script(p), nil
}

// Play is one run of a script. Its methods are called by the script's own
// goroutine, as testing.T's are: one that fails ends the script there.
type Play struct {
	// Name is none of another play's, in lower case letters and digits: for
	// databases, prefixes and keys.
	Name string

	ctx      context.Context
	bed      *Testbed
	say      func(Line)
	began    time.Time
	actors   []*Actor
	cleanups []func() error
	tokens   map[uint64]int
}

// failure carries an error out of a script.
type failure struct{ error }

// Check ends the script with err, unless it is nil.
func (p *Play) Check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// Fail ends the script: something was not as the lesson needs it.
func (p *Play) Fail(format string, args ...any) { p.Check(fmt.Errorf(format, args...)) }

// Context ends with the play.
func (p *Play) Context() context.Context { return p.ctx }

// Cleanup has f called at the end of the play, the last one first.
func (p *Play) Cleanup(f func() error) { p.cleanups = append(p.cleanups, f) }

func (p *Play) cleanUp() error {
	var all []error
	for i := len(p.cleanups) - 1; i >= 0; i-- {
		all = append(all, p.cleanups[i]())
	}
	p.cleanups = nil
	return errors.Join(all...)
}

// Until asks again and again until f says true. It is for what no server tells
// by itself: the end of a key, say.
func (p *Play) Until(what string, f func(ctx context.Context) (bool, error)) {
	// 110 ms, since InnoDB makes its list of transactions anew only for a reader
	// that comes 100 ms after the last one.
	const pause = 110 * time.Millisecond
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		ok, err := f(p.ctx)
		p.Check(err)
		if ok {
			return
		}
		select {
		case <-ticker.C:
		case <-p.ctx.Done():
			p.Fail("wait until %s: %w", what, p.ctx.Err())
		}
	}
}

// Await returns once c is closed: somebody has seen what the script waits for.
func (p *Play) Await(what string, c <-chan struct{}) {
	select {
	case <-c:
	case <-p.ctx.Done():
		p.Fail("wait until %s: %w", what, p.ctx.Err())
	}
}

// Token names a fencing token for people: the first one that a play shows is T1.
func (p *Play) Token(token uint64) string {
	if p.tokens[token] == 0 {
		p.tokens[token] = len(p.tokens) + 1
	}
	return fmt.Sprintf("T%d", p.tokens[token])
}

// Audit is what the arithmetic over the stores says after a play.
type Audit struct {
	OK bool
	// Text is the arithmetic, and each invariant that is broken, in lines.
	Text []string
}

// And joins two audits.
func (a Audit) And(b Audit) Audit {
	return Audit{OK: a.OK && b.OK, Text: append(a.Text, b.Text...)}
}

// Units is a number of units, in words.
func Units(n int64) string {
	if n == 1 {
		return "1 unit"
	}
	return fmt.Sprintf("%d units", n)
}
