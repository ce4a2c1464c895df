// Package testbed is what a lesson runs on: private servers, a shop with one SKU
// in a database of its own, and actors whose steps are logged in the order in
// which they happen. A step starts when the script says so, or is observed to
// block; no step relies on a sleep. What a lesson shows is up to package lesson.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/sandbox"
)

// Config says how the testbed starts programs. The zero Config suits a program
// that has the hidden commands etcd-node and lesson-replica.
type Config struct {
	// Database and EtcdProgram are sandbox.Config's.
	Database    sandbox.Product
	EtcdProgram []string
}

// Testbed has servers that start on first use and are shared by all runs. Each
// run has a database and keys of its own.
type Testbed struct {
	cfg Config

	mu     sync.Mutex
	mysql  *sandbox.Stack
	galera *sandbox.Stack
	etcd   *sandbox.Stack
	redis  *sandbox.Redis
	zk     *sandbox.ZooKeeper
	kube   *sandbox.Kubernetes
	pods   *ZooKeeperPods
	stops  []func() error // of those that are running
	runs   int
}

// New makes a testbed and starts no server yet.
func New(cfg Config) *Testbed {
	// All clients share one logger. It would only report the nodes that lessons kill.
	logging.Disable()
	return &Testbed{cfg: cfg}
}

// Close stops all servers. The testbed is of no use afterwards.
func (t *Testbed) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, stop := range t.stops {
		errs = append(errs, stop())
	}
	return errors.Join(errs...)
}

// Database starts the shared database server on first use and returns its product
// with its version.
func (t *Testbed) Database(ctx context.Context) (version string, err error) {
	stack, err := t.stack(ctx, &t.mysql, sandbox.Config{MySQL: true, Database: t.cfg.Database})
	if err != nil {
		return "", err
	}
	return stack.MySQL.Version, nil
}

func (t *Testbed) stack(ctx context.Context, place **sandbox.Stack, cfg sandbox.Config) (*sandbox.Stack, error) {
	return shared(t, place, func() (*sandbox.Stack, error) { return sandbox.Start(ctx, cfg) },
		func(s *sandbox.Stack) error { s.Stop(); return nil })
}

// shared returns the server at that place, and starts it on first use.
func shared[T any](t *Testbed, place **T, start func() (*T, error), stop func(*T) error) (*T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if *place != nil {
		return *place, nil
	}
	server, err := start()
	if err != nil {
		return nil, err
	}
	*place = server
	t.stops = append(t.stops, func() error { return stop(server) })
	return server, nil
}

// timeout bounds one run, with the start of the servers that it needs. A run takes
// a few seconds, and half a minute if it starts a Kubernetes node; the rest is for a busy
// machine.
const timeout = 5 * time.Minute

// Run runs a script once and returns its audit: that of each shop, joined with
// what the script reported. log, if not nil, gets each line as it is written. A
// script ends at the first step that fails, and Run returns that error.
func (t *Testbed) Run(ctx context.Context, log func(Line), script func(*Run)) (audit Audit, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	t.mu.Lock()
	t.runs++
	name := fmt.Sprintf("lesson%d", t.runs)
	t.mu.Unlock()
	r := &Run{Name: name, ctx: ctx, bed: t, log: log, tokens: map[uint64]int{}}
	defer func() {
		cancel() // ends the steps that still block
		err = errors.Join(err, r.cleanUp())
	}()
	err = recovered(func() error {
		script(r)
		audit = r.audit()
		return nil
	})
	return audit, err
}

// recovered calls f, and returns the error with which f ended the script, if it did.
func recovered(f func() error) (err error) {
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case failure:
			err = cause.error
		default:
			panic(cause)
		}
	}()
	return f()
}

// Run is one run of a script. Only the script's own goroutine and, one at a time, its
// steps may call its methods: a method that fails ends the script or the step.
type Run struct {
	// Name is unique among runs, in lower-case letters and digits: for databases,
	// prefixes and keys.
	Name string

	ctx      context.Context
	bed      *Testbed
	log      func(Line)
	began    time.Time
	actors   []*Actor
	shops    []*Shop
	reported []Audit
	tokens   map[uint64]int

	mu       sync.Mutex
	cleanups []func() error // guarded by mu: steps register some
}

// failure carries an error out of a script.
type failure struct{ error }

// Check ends the script with err, unless err is nil.
func (r *Run) Check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// Fail ends the script: the precondition of a lesson does not hold.
func (r *Run) Fail(format string, args ...any) { r.Check(fmt.Errorf(format, args...)) }

// Context ends with the run.
func (r *Run) Context() context.Context { return r.ctx }

// Cleanup registers f to be called when the run ends, in reverse order.
func (r *Run) Cleanup(f func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// cleanUp also calls what a step registers while it waits for the step.
func (r *Run) cleanUp() error {
	var all []error
	for {
		r.mu.Lock()
		last := len(r.cleanups) - 1
		if last < 0 {
			r.mu.Unlock()
			return errors.Join(all...)
		}
		f := r.cleanups[last]
		r.cleanups = r.cleanups[:last]
		r.mu.Unlock()
		all = append(all, f())
	}
}

func (r *Run) stack(place **sandbox.Stack, cfg sandbox.Config) *sandbox.Stack {
	stack, err := r.bed.stack(r.ctx, place, cfg)
	r.Check(err)
	return stack
}

// MySQL is the shared database server.
func (r *Run) MySQL() *sandbox.MySQL {
	return r.stack(&r.bed.mysql, sandbox.Config{MySQL: true, Database: r.bed.cfg.Database}).MySQL
}

// Galera is the shared MariaDB cluster of two servers.
func (r *Run) Galera() *sandbox.Cluster {
	return r.stack(&r.bed.galera, sandbox.Config{MySQL: true, Database: sandbox.MariaDB, MySQLNodes: 2}).Cluster
}

// OwnMySQL starts a database server for this run alone, which it may kill or
// reconfigure.
func (r *Run) OwnMySQL() *sandbox.MySQL {
	stack, err := sandbox.Start(r.ctx, sandbox.Config{MySQL: true, Database: r.bed.cfg.Database})
	r.Check(err)
	r.Cleanup(func() error { stack.Stop(); return nil })
	return stack.MySQL
}

// Etcd is the shared etcd of one node.
func (r *Run) Etcd() *sandbox.Etcd {
	return r.stack(&r.bed.etcd, sandbox.Config{EtcdNodes: 1, EtcdProgram: r.bed.cfg.EtcdProgram}).Etcd[0]
}

// EtcdClient connects to the shared etcd. Each actor needs a client of its own, as
// separate processes would have.
func (r *Run) EtcdClient() *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{r.Etcd().Endpoint}, Logger: zap.NewNop()})
	r.Check(err)
	r.Cleanup(func() error {
		if err := client.Close(); !errors.Is(err, context.Canceled) { // which it returns after a session
			return err
		}
		return nil
	})
	return client
}

// RedisClient connects to the shared Redis.
func (r *Run) RedisClient() *redis.Client {
	server, err := shared(r.bed, &r.bed.redis, func() (*sandbox.Redis, error) { return sandbox.StartRedis(r.ctx, sandbox.RedisConfig{}) }, (*sandbox.Redis).Close)
	r.Check(err)
	return r.ClientOf(server)
}

// OwnRedis starts a Redis for this run alone.
func (r *Run) OwnRedis(cfg sandbox.RedisConfig) *sandbox.Redis {
	server, err := sandbox.StartRedis(r.ctx, cfg)
	r.Check(err)
	r.Cleanup(server.Close)
	return server
}

// ClientOf connects to a Redis. The client does not retry: a lesson shows what
// each single call does.
func (r *Run) ClientOf(server *sandbox.Redis) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: server.Addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1})
	r.Cleanup(client.Close)
	return client
}

// ZooKeeper is the shared ZooKeeper of one node.
func (r *Run) ZooKeeper() *sandbox.ZooKeeper {
	server, err := shared(r.bed, &r.bed.zk, func() (*sandbox.ZooKeeper, error) { return sandbox.StartZooKeeper(r.ctx, 1) }, (*sandbox.ZooKeeper).Close)
	r.Check(err)
	return server
}

// memcachedMegabytes is the least that the server accepts, so that it is soon full.
const memcachedMegabytes = 2

// OwnMemcached starts a small memcached for this run alone and connects to it. All
// buyers may share the client: memcached has no sessions.
func (r *Run) OwnMemcached() *memcache.Client {
	server, err := sandbox.StartMemcached(r.ctx, sandbox.MemcachedConfig{Megabytes: memcachedMegabytes})
	r.Check(err)
	r.Cleanup(server.Close)
	client := memcache.New(server.Addr)
	client.Timeout = 5 * time.Second // of one call, on a busy machine
	r.Cleanup(client.Close)
	return client
}
