package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/record"
	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
	"flashsale/loadtest/steps"
)

const (
	sku = "lamp"
	// stateEvery is the time between two states, and lateEvery that after fullRate: it
	// bounds the journal to about 500 states a side.
	stateEvery = 100 * time.Millisecond
	lateEvery  = 500 * time.Millisecond
	fullRate   = 30 * time.Second
	// maxHappened bounds the moments of a side in the journal: replicas that cannot reach
	// each other take turns at the lock, many times a second.
	maxHappened = 200
	// drain is how long a replica may take to finish its orders when it is stopped. All
	// have been answered by then.
	drain = 5 * time.Second
	// logLines of a replica that ended are shown.
	logLines = 10
)

// side is the run of one strategy.
type side struct {
	*run
	n       int
	row     strategy.Strategy
	dsn     string
	fleet   *sandbox.Fleet
	began   time.Time // when the first order was due
	ended   time.Time // when all orders had their answers
	victim  *sandbox.Replica
	samples []proof.Sample

	answers []answers // of the last second

	// failed includes orders without an answer.
	accepted, refused, failed atomic.Int64
	moments                   atomic.Int64

	mu      sync.Mutex
	lanes   []*lane
	names   map[string]string // of replicas, by their addresses for forwarded orders
	steps   []record.Step
	sellers map[uint64]bool // the tokens of tenures
}

type sampler = func(context.Context) (proof.Sample, error)

// lane is what is known of a replica.
type lane struct {
	ReplicaState
	file *steps.File
}

// The conditions of a replica.
const (
	up     = "up"
	paused = "paused"
	killed = "killed"
	cutOff = "cut off"
)

// answers is the number of answers until a time.
type answers struct {
	at time.Duration
	n  int64
}

// oneSide starts replicas, attacks them, makes the fault, and says what came of it.
func (r *run) oneSide(ctx context.Context, n int, row strategy.Strategy) (err error) {
	s := &side{run: r, n: n, row: row, names: map[string]string{}, sellers: map[uint64]bool{}}
	r.phase(n, "Starting %s under %s", plural(int64(r.setting.Replicas), "replica"), row.Name)
	at, stopLock, err := r.lockServer(ctx, row)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopLock()) }()
	folder := filepath.Join(r.stack.Dir(), fmt.Sprintf("side-%d", n+1))
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	if s.dsn, err = r.stack.CreateDatabase(ctx, fmt.Sprintf("lab_%d", n+1)); err != nil {
		return err
	}
	file := func(i int) string { return filepath.Join(folder, fmt.Sprintf("replica-%d.steps", i+1)) }
	s.fleet, err = r.stack.StartFleet(ctx, r.setting.Replicas, func(i int) sandbox.ReplicaConfig {
		args := []string{
			"--log-level=warn", "--trace-steps=" + file(i), "--drain-timeout=" + drain.String(), fmt.Sprintf("--think-time=%dms", r.setting.ThinkMS),
		}
		if r.fault.name != noFault {
			args = append(args, "--lock-ttl="+faultTTL.String(), "--request-timeout="+faultTimeout.String())
		}
		return sandbox.ReplicaConfig{Program: r.cfg.API, MySQLDSN: s.dsn, Strategy: row.Name, Fence: string(row.FenceFor(r.setting.Fence)), Args: append(args, at.Flags()...)}
	})
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil { // stopped by a person, who does not wait for orders
			for _, replica := range s.fleet.Replicas {
				replica.Kill()
			}
		}
		err = errors.Join(err, s.fleet.Stop())
	}()
	for i, replica := range s.fleet.Replicas {
		f, err := steps.Open(file(i))
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // it is only read
		s.lanes = append(s.lanes, &lane{ReplicaState{Name: replica.Name, Condition: up, Forwarded: map[string]int64{}}, f})
	}
	return s.play(ctx)
}

// play sends the load, makes the fault, and assesses the result.
func (s *side) play(ctx context.Context) (err error) {
	db, err := proof.Open(s.dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	service := &attack.Service{URL: s.fleet.Replicas[0].URL, AdminToken: s.fleet.AdminToken}
	if err := service.PutOnSale(ctx, sku, s.setting.Units); err != nil {
		return err
	}
	s.began = time.Now()
	sample := db.Sampler([]string{sku})
	if err := s.state(ctx, sample, 0); err != nil {
		return err
	}
	s.phase(s.n, "%s buyers for %s", proof.Comma(s.setting.Buyers), unitsText(s.setting.Units))
	plan := attack.Plan{
		Targets: s.fleet.URLs(), SKUs: []string{sku}, MaxQuantity: 1, Rate: s.setting.Rate, Seed: s.setting.Seed,
		Duration: s.setting.load() + time.Microsecond, // so that rounding loses no request
	}
	result, err := s.attack(ctx, plan, sample)
	if err != nil {
		return err
	}
	s.phase(s.n, "Reading the records")
	if err := errors.Join(s.fleet.Dead(), s.fleet.Stop()); err != nil {
		return err
	}
	side := Side{Side: s.n, Strategy: s.row.Name, Database: s.stack.Database()}
	if err := s.draw(&side); err != nil {
		return err
	}
	side.DiagramMS = time.Since(s.ended).Milliseconds()
	if err := s.state(ctx, sample, s.ended.Sub(s.began)); err != nil {
		return err
	}
	s.phase(s.n, "Comparing every answer with the database")
	records, err := db.Records(ctx, plan.SKUs)
	if err != nil {
		return err
	}
	records.Samples = s.samples
	side.Run = proof.Assess(proof.Setting{
		Strategy: s.row.Name, Fence: s.row.FenceFor(s.setting.Fence), Replicas: s.setting.Replicas, Expected: s.row.Expect(s.setting.Replicas), Stock: s.setting.Units, Plan: plan,
	}, result, records)
	if side.Run.Verdict == strategy.Oversold && s.fault.stale && side.Run.Fence == strategy.FenceOff && s.row.Lock != strategy.NoLock {
		side.Run.Expected = strategy.Oversold // of a lease alone, neither verdict is a surprise
	}
	side.Sentence = side.Run.Sentence()
	s.activity.say("side", side)
	return nil
}

// attack sends the orders and makes the fault. Meanwhile it says what happens.
func (s *side) attack(ctx context.Context, plan attack.Plan, sample sampler) (result *attack.Result, err error) {
	group, ctx := errgroup.WithContext(ctx)
	begun, loaded := make(chan struct{}), make(chan struct{})
	group.Go(func() (err error) {
		defer close(loaded)
		result, err = attack.Run(ctx, attack.Config{Plan: plan, JWTSecret: s.fleet.JWTSecret, OnAnswer: s.count, Before: func() error {
			s.began = time.Now()
			close(begun)
			return nil
		}})
		s.ended = time.Now()
		return err
	})
	afterBegin := func(do func() error) func() error {
		return func() error {
			select {
			case <-begun:
				return do()
			case <-ctx.Done():
				return nil // the attack has the reason
			}
		}
	}
	group.Go(afterBegin(func() error { return s.disturb(ctx, loaded) }))
	group.Go(afterBegin(func() error { return s.follow(ctx, loaded, sample) }))
	return result, group.Wait()
}

func (s *side) count(a attack.Answer) {
	switch a.Outcome {
	case attack.Accepted:
		s.accepted.Add(1)
	case attack.SoldOut:
		s.refused.Add(1)
	case attack.Refused, attack.Ambiguous:
		s.failed.Add(1)
	}
}

// follow says how the side stands, until the load has ended or a replica has.
func (s *side) follow(ctx context.Context, loaded <-chan struct{}, sample sampler) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-loaded:
			return nil
		case <-ctx.Done():
			return nil
		}
		at := time.Since(s.began)
		if err := s.state(ctx, sample, at); err != nil {
			return err
		}
		if err := s.died(); err != nil {
			return err
		}
		every := stateEvery
		if at > fullRate {
			every = lateEvery
		}
		tick.Reset(every - (time.Since(s.began) - at))
	}
}

// died returns an error for a replica that has ended, and that no fault has killed.
func (s *side) died() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, replica := range s.fleet.Replicas {
		if s.lanes[i].Condition == killed {
			continue
		}
		select {
		case <-replica.Done():
			return fmt.Errorf("%s ended by itself; its log ends:\n%s", replica.Name, strings.TrimSpace(replica.LogTail(logLines)))
		default:
		}
	}
	return nil
}

// state says how the side stands.
func (s *side) state(ctx context.Context, sample sampler, at time.Duration) error {
	if err := s.read(); err != nil {
		return err
	}
	if got, err := sample(ctx); err == nil { // or the last one is shown again
		s.samples = append(s.samples, got)
	}
	state := State{Side: s.n, MS: at.Milliseconds(), Available: s.setting.Units, Accepted: s.accepted.Load(), Refused: s.refused.Load(), Errors: s.failed.Load()}
	if n := len(s.samples); n > 0 {
		state.Available, state.Sold = s.samples[n-1].Available, s.samples[n-1].Sold
		state.Oversold = max(0, state.Sold-s.setting.Units)
	}
	state.Rate = s.rate(state.Accepted+state.Refused+state.Errors, at)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		state.Replicas = append(state.Replicas, l.ReplicaState)
	}
	s.activity.say("state", state) // it is encoded before the lanes change
	return nil
}

// rate returns the answers a second of the last second before at, of which there are n
// altogether.
func (s *side) rate(n int64, at time.Duration) float64 {
	s.answers = append(s.answers, answers{at, n})
	for len(s.answers) > 2 && s.answers[1].at <= at-time.Second {
		s.answers = s.answers[1:]
	}
	first := s.answers[0]
	if at <= first.at {
		return 0
	}
	return float64(n-first.n) / (at - first.at).Seconds()
}

// happened says that something happened at a time.
func (s *side) happened(h Happened, at time.Time) {
	if h.Kind != "fault" && h.Kind != "healed" && s.moments.Add(1) > maxHappened {
		return
	}
	h.Side, h.MS = s.n, max(0, at.Sub(s.began).Milliseconds())
	s.activity.say("happened", h)
}

// strike notes that a fault hits replicas: the first one is the victim. Without one, the
// fault has ended.
func (s *side) strike(condition string, replicas ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		l.Condition = up
	}
	for _, i := range replicas {
		s.lanes[i].Condition = condition
		s.victim = s.fleet.Replicas[replicas[0]]
	}
}

// seller returns the replica that holds the lock at this moment. If none does for
// holderWait, or there is no lock, it returns the first one.
func (s *side) seller(ctx context.Context) (int, error) {
	for deadline := time.Now().Add(holderWait); ; {
		if err := s.read(); err != nil {
			return 0, err
		}
		i := s.holder()
		if i >= 0 || s.row.Lock == strategy.NoLock || time.Now().After(deadline) {
			return max(0, i), nil
		}
		if err := sleep.For(ctx, glance); err != nil {
			return 0, err
		}
	}
}

// holder returns the replica that holds the lock, by the records that were read; or -1. One
// that has lost its lock may not know it yet: the newest token decides.
func (s *side) holder() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	holder := -1
	for i, l := range s.lanes {
		if l.Holds && (holder < 0 || l.Token > s.lanes[holder].Token) {
			holder = i
		}
	}
	return holder
}

// read reads what the replicas have recorded since the last call.
func (s *side) read() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []record.Step
	for _, l := range s.lanes {
		some, err := l.file.Read()
		if err != nil {
			return fmt.Errorf("read the steps of %s: %w", l.Name, err)
		}
		all = append(all, some...)
	}
	slices.SortStableFunc(all, func(a, b record.Step) int { return a.Wall.Compare(b.Wall) })
	for i := range all {
		s.take(s.lanes[slices.IndexFunc(s.lanes, func(l *lane) bool { return l.Name == all[i].Replica })], &all[i])
	}
	s.steps = append(s.steps, all...)
	return nil
}

// take updates the lane of a replica by what it did.
func (s *side) take(l *lane, step *record.Step) {
	switch step.Kind {
	case record.Started:
		s.names[step.Addr] = l.Name
		l.Holds, l.Token = false, 0
	case record.Committed:
		l.Sold += int64(step.Quantity)
	case record.Refused:
		l.Refused++
	case record.Forwarded:
		l.forwarded(s.name(step.To))
	case record.Locked:
		l.Holds, l.Token = true, step.Token
	case record.Claimed:
		if s.row.Write == strategy.Batch && !s.sellers[step.Token] {
			s.sellers[step.Token] = true
			s.happened(Happened{Kind: "seller", Replica: l.Name, Token: step.Token, Text: fmt.Sprintf("%s is the seller, with token %d", l.Name, step.Token)}, step.Wall)
		}
	case record.Unlocked:
		l.Holds, l.Token = false, 0
	case record.LockLost:
		l.Holds, l.Token = false, 0
		s.happened(Happened{Kind: "lock-lost", Replica: l.Name, Token: step.Token, Text: l.Name + " has lost its lock"}, step.Wall)
	case record.TookOver:
		from := s.name(step.To)
		s.happened(Happened{Kind: "took-over", Replica: l.Name, To: from, Token: step.Token, Text: fmt.Sprintf("%s took over the lock of %s, which is %s", l.Name, from, step.Reason)}, step.Wall)
	case record.Rejected:
		if strings.Contains(step.Reason, stock.ErrFenced.Error()) {
			s.happened(Happened{Kind: "fenced", Replica: l.Name, Token: step.Token, Text: fmt.Sprintf("MySQL refused a write of %s with token %d: there is a newer token", l.Name, step.Token)}, step.Wall)
		}
	}
}

func (s *side) name(addr string) string {
	if name, ok := s.names[addr]; ok {
		return name
	}
	return addr
}

// forwarded replaces the map, because a State has it.
func (l *lane) forwarded(to string) {
	more := maps.Clone(l.Forwarded)
	more[to]++
	l.Forwarded = more
}

// draw makes the diagram of what was recorded.
func (s *side) draw(side *Side) error {
	if err := s.read(); err != nil {
		return err
	}
	for _, l := range s.lanes {
		side.StepsLost += l.file.Lost
	}
	all := steps.Merge(s.steps)
	some := steps.Interleaving(all, sku)
	if side.Race = some != nil; !side.Race {
		some = steps.LastUnit(all, sku)
	}
	if some != nil {
		// Who started says what the lock is.
		started := slices.IndexFunc(all, func(s record.Step) bool { return s.Kind == record.Started })
		side.Diagram = diagramOf(slices.Insert(slices.Clone(some), 0, all[started]))
	}
	side.Explains = explain(some, side.Race, s.row, side.StepsLost)
	return nil
}
