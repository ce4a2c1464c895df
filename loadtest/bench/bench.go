// Package bench compares the service with other designs, the peers of package peer.
// All have the same router, middleware and JSON, take turns under the same load on
// the same servers, and are checked by the same audit.
//
// The load generator shares the machine with the replicas and the servers: ratios
// say more than rates.
package bench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/peer"
	"flashsale/loadtest/proof"
)

// Config configures a bench.
type Config struct {
	// API is the service's program. Hidden commands of this one serve the rivals.
	API       string
	Database  sandbox.Product
	Programme Programme
	// Rounds is how often the programme runs. Duration is the measured window of a run.
	Rounds   int
	Duration time.Duration
	Workers  int
	Seed     uint64
	// Profiles is a folder for CPU profiles of the service's replicas, or empty.
	Profiles string
	// TimeLimit ends the bench before a run that would exceed it. 0 is no limit.
	TimeLimit time.Duration
	Say       func(format string, args ...any)
}

const (
	// The warm-up of a run is 1/warmShare of the window, and at least warmLeast. It
	// opens the connections and grants the first locks.
	warmShare = 4
	warmLeast = 400 * time.Millisecond
	// sweepWarm and sweepWindow are for the runs that tune a peer.
	sweepWarm   = 300 * time.Millisecond
	sweepWindow = 700 * time.Millisecond
	// ceiling is more requests a second than two cores can handle.
	ceiling = 60_000
	// maxPlanned bounds the requests of one run: each takes 300 bytes of memory.
	maxPlanned = 3_000_000
	// maxConnections is enough for the largest pool on the most replicas.
	maxConnections = 1000
)

type bench struct {
	cfg                   Config
	adminToken, jwtSecret string
	stack                 *sandbox.Stack
	tokens                *attack.Tokens
	began                 time.Time
	databases             int
	binlog                bool // whether the server has one now
	ways                  map[string]peer.Way
	result                *Result
	// own is the first result of each peer in a closed loop on the hot SKU.
	own map[string]float64
	// longest is the duration of the longest run so far.
	longest time.Duration
}

// Check returns an error for the first invalid setting, with its flag.
func (c *Config) Check() error {
	switch {
	case c.Rounds < 1:
		return fmt.Errorf("--rounds must be at least 1, not %d", c.Rounds)
	case c.Duration < 100*time.Millisecond:
		return fmt.Errorf("--duration must be at least 100ms, not %s", c.Duration)
	case c.Workers < 1 || c.Workers > openWorkers:
		return fmt.Errorf("--workers must be from 1 to %d, not %d", openWorkers, c.Workers)
	case c.planned() > maxPlanned:
		return fmt.Errorf("--duration %s needs more than %d requests, the most that one run can keep in memory", c.Duration, maxPlanned)
	}
	return nil
}

func (c *Config) warmUp() time.Duration { return max(c.Duration/warmShare, warmLeast) }

// planned is the most requests that one run can send.
func (c *Config) planned() int {
	perSecond := float64(ceiling)
	if rate := c.Programme.Rate; rate > 0 {
		perSecond = 1.1 * float64(rate)
	}
	return int(perSecond * (c.warmUp() + c.Duration).Seconds())
}

// Measure runs the bench. It returns no result if ctx ends first.
func Measure(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	b := &bench{
		cfg: cfg, adminToken: sandbox.Secret(), jwtSecret: sandbox.Secret(), began: time.Now(), ways: map[string]peer.Way{}, own: map[string]float64{},
		result: &Result{Runs: []Run{}, Seed: cfg.Seed, Peers: cfg.Programme.peers(), Tuning: []Tuned{}, Machine: ThisMachine(), Notes: []string{}},
	}
	cfg.Say("Starting the servers and signing the tokens of %d customers ...", cfg.planned())
	var err error
	b.stack, err = sandbox.Start(ctx, sandbox.Config{MySQL: true, Database: cfg.Database, MaxConnections: maxConnections, EtcdNodes: 1})
	if err != nil {
		return nil, err
	}
	defer b.stack.Stop()
	b.result.Database = b.stack.MySQL.Version
	if b.result.MySQL, err = b.stack.MySQL.Settings(ctx); err != nil {
		return nil, err
	}
	if b.tokens, err = attack.Mint(ctx, cfg.Seed, cfg.planned(), b.jwtSecret); err != nil {
		return nil, fmt.Errorf("sign the customers' tokens: %w", err)
	}
	if err := b.tune(ctx); err != nil {
		return nil, err
	}
	if err := b.rounds(ctx); err != nil {
		return nil, err
	}
	b.result.settle()
	b.result.Took = round(time.Since(b.began).Seconds(), 10)
	return b.result, nil
}

// rounds runs the programme several times. Every other round is in reverse order, so
// that a peer does not always follow the same one.
func (b *bench) rounds(ctx context.Context) error {
	for n := range b.cfg.Rounds {
		steps := b.cfg.Programme.steps()
		if n%2 == 1 {
			slices.Reverse(steps)
		}
		for i, s := range steps {
			if b.late() {
				b.note("Stopped at the time limit of %s, in round %d of %d, with %d of its %d runs left. Use a shorter --duration or fewer --rounds.",
					b.cfg.TimeLimit, n+1, b.cfg.Rounds, len(steps)-i, len(steps))
				return nil
			}
			if err := b.step(ctx, n+1, s); err != nil {
				return fmt.Errorf("%s, %s: %w", s.peer.Name, s.Setting, err)
			}
		}
	}
	return nil
}

func (b *bench) late() bool {
	return b.cfg.TimeLimit > 0 && time.Since(b.began)+b.longest > b.cfg.TimeLimit
}

func (b *bench) note(format string, args ...any) {
	b.result.Notes = append(b.result.Notes, fmt.Sprintf(format, args...))
}

func (b *bench) step(ctx context.Context, round int, s step) error {
	load, err := ParseLoad(s.Load, b.cfg.Seed)
	if err != nil {
		return err
	}
	if err := b.setBinlog(ctx, s.Binlog); err != nil {
		return err
	}
	t := trial{
		peer: s.peer, way: b.ways[s.peer.Name], load: load, Setting: s.Setting, round: round,
		warmUp: b.cfg.warmUp(), window: b.cfg.Duration, workers: b.workers(s.peer),
	}
	if s.Open {
		t.workers, t.rate = 0, b.rate(s.peer)
		if t.rate == 0 {
			b.note("%s, %s: skipped, because its rate depends on a closed loop that has not run.", s.peer.Name, s.Setting)
			return nil
		}
	}
	began := time.Now()
	run, err := b.try(ctx, t)
	if err != nil {
		return err
	}
	b.longest = max(b.longest, time.Since(began))
	b.result.Runs = append(b.result.Runs, *run)
	if !s.Open && !s.Binlog && s.Load == hotLoad && b.own[s.peer.Name] == 0 {
		b.own[s.peer.Name] = run.Served
	}
	b.cfg.Say("round %d  %-28s %-19s %9.0f/s  p50 %7.1f ms  p99 %7.1f ms  %s", round, s.Setting, s.peer.Name, run.Served, run.Latency.P50, run.Latency.P99, run.Verdict)
	return nil
}

// setBinlog restarts MySQL if necessary, and records its settings with a binlog.
func (b *bench) setBinlog(ctx context.Context, on bool) (err error) {
	if b.binlog == on {
		return nil
	}
	if err := b.stack.MySQL.SetBinlog(ctx, on); err != nil {
		return err
	}
	b.binlog = on
	if on && b.result.MySQLBinlog == nil {
		b.result.MySQLBinlog, err = b.stack.MySQL.Settings(ctx)
	}
	return err
}

func (b *bench) workers(p peer.Peer) int {
	if p.MaxWorkers > 0 {
		return min(b.cfg.Workers, p.MaxWorkers)
	}
	return b.cfg.Workers
}

const (
	// standardRate is the rate of open loops: most of what two cores serve durably.
	standardRate = 10_000
	// openMargin is how many times that rate a peer must serve in a closed loop.
	openMargin = 1.2
)

// rate is the rate of a peer's open loops: the requested one, or else standardRate,
// but at most half of noop's result. A peer that cannot serve that gets half of its
// own result: above its capacity, its latency would depend on the length of the run.
func (b *bench) rate(p peer.Peer) int {
	if b.cfg.Programme.Rate > 0 {
		return b.cfg.Programme.Rate
	}
	rate, own := min(standardRate, b.own[noop]/2), b.own[p.Name]
	if rate == 0 || rate*openMargin > own {
		rate = own / 2
	}
	return int(rate)
}

type trial struct {
	peer peer.Peer
	way  peer.Way
	load Load
	Setting
	round          int
	workers, rate  int
	warmUp, window time.Duration
}

// orders is the most orders that the run can place.
func (t *trial) orders() int {
	perSecond := ceiling
	if t.peer.UnitsPerSecond > 0 {
		perSecond = t.peer.UnitsPerSecond
	}
	return int(float64(perSecond) * (t.warmUp + t.window).Seconds())
}

// try makes one run, on a database and replicas of its own. It stops the replicas,
// which finish their requests, before it reads the records.
func (b *bench) try(ctx context.Context, t trial) (run *Run, err error) {
	at, drop, err := b.prepare(ctx, &t.peer)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	fleet, ports, err := b.startFleet(ctx, t.peer, t.way, at, t.Replicas)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fleet.Stop()) }()
	if err := b.putOnSale(ctx, t.peer, fleet, &t.load, t.orders()); err != nil {
		return nil, err
	}
	gauge := &gauge{groups: b.groups(&t.peer, fleet, at.redis)}
	plan := attack.Plan{Targets: fleet.URLs(), SKUs: t.load.Turns, MaxQuantity: 1, Rate: t.rate, Seed: b.cfg.Seed}
	profiles := b.profile(ctx, &t, ports)
	got, err := send(ctx, offer{
		plan: plan, tokens: b.tokens, workers: t.workers, rate: t.rate, warmUp: t.warmUp, window: t.window,
		limit: b.cfg.planned(), measure: gauge.read,
	})
	if err := errors.Join(err, profiles()); err != nil {
		return nil, err
	}
	used, err := gauge.usages()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fleet.Dead(), fleet.Stop()); err != nil {
		return nil, err
	}
	found, err := records(ctx, t.peer, at, &t.load, t.orders(), &plan, got.answers)
	if err != nil {
		return nil, err
	}
	if got.exhausted {
		b.note("%s, %s: all %d customers had ordered before the end of the run.", t.peer.Name, t.Setting, b.cfg.planned())
	}
	return b.assess(&t, plan, got, found, used), nil
}

func (b *bench) assess(t *trial, plan attack.Plan, got *measurement, found proof.Records, used map[string]usage) *Run {
	setting := proof.Setting{
		Strategy: t.peer.Name, Fence: strategy.FenceOff, Replicas: t.Replicas, Expected: t.peer.Expected, Stock: t.load.stock(t.orders()), Plan: plan,
	}
	if row, err := strategy.Find(t.way.Strategy); err == nil {
		setting.Fence = row.FenceFor(strategy.FenceClaim)
	}
	run := &Run{
		Run:  proof.Assess(setting, &attack.Result{Answers: got.answers, Began: got.began, Sending: got.to, PeakUnderWay: t.workers}, found),
		Load: t.Load, Open: t.Open, Workers: t.workers, Round: t.round, Binlog: t.Binlog, Durable: t.peer.Durable,
		How: t.way.String(), CheckedBy: checkedBy[t.peer.Store],
	}
	run.SKUs = len(t.load.Items)
	run.measured(got, used)
	return run
}

// servers are those of one run. It uses those that its peer needs.
type servers struct {
	dsn   string
	etcd  []string
	redis *sandbox.Redis
}

// prepare creates the run's own database or Redis. drop removes it.
func (b *bench) prepare(ctx context.Context, p *peer.Peer) (s servers, drop func() error, err error) {
	drop = func() error { return nil }
	switch p.Store {
	case peer.MySQL:
		b.databases++
		name := fmt.Sprintf("bench_%d", b.databases)
		if s.dsn, err = b.stack.MySQL.CreateDatabase(ctx, name); err != nil {
			return s, drop, err
		}
		drop = func() error { return b.drop(context.WithoutCancel(ctx), name) }
	case peer.Redis:
		if s.redis, err = sandbox.StartRedis(ctx, sandbox.RedisConfig{AppendAlways: p.Durable}); err != nil {
			return s, drop, err
		}
		drop = s.redis.Close
	case peer.Nowhere:
	}
	if p.Etcd {
		s.etcd = b.stack.EtcdEndpoints()
	}
	return s, drop, nil
}

const dropTimeout = 20 * time.Second

// drop removes a run's database, with its dirty pages.
func (b *bench) drop(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	db, err := sql.Open("mysql", b.stack.MySQL.DSN(""))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "DROP DATABASE `"+name+"`"); err != nil {
		return fmt.Errorf("drop the run's database: %w", err)
	}
	return nil
}

// groups are the processes whose CPU and memory are measured.
func (b *bench) groups(p *peer.Peer, f *sandbox.Fleet, redis *sandbox.Redis) []group {
	groups := []group{{"replicas", f.Pids()}, {"harness", []int{os.Getpid()}}}
	if p.Store == peer.MySQL {
		groups = append(groups, group{"mysql", []int{b.stack.MySQL.Pid()}})
	}
	if redis != nil {
		groups = append(groups, group{"redis", []int{redis.Pid()}})
	}
	if p.Etcd {
		etcd := group{name: "etcd"}
		for _, node := range b.stack.Etcd {
			etcd.pids = append(etcd.pids, node.Pid())
		}
		groups = append(groups, etcd)
	}
	return groups
}
