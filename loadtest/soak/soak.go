// Package soak sends random calls to replicas of the service and checks every answer
// against a model.
//
// Each actor works in one world after another. A world is a SKU and customers that no
// other actor uses, with a model of both. Every answer must be one that the model allows.
// The model tolerates differences between clocks, and lost answers. In a shared world several actors buy one SKU,
// and each models only its own customers. Meanwhile replicas are killed and stopped. At
// the end, package proof compares all answers with the database and audits it.
//
// A seed determines all choices, but not their timing: the same seed sends the same kinds
// of calls again, at slightly different moments.
package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"flashsale/internal/httpapi/spec/speccheck"
	"flashsale/internal/sandbox"
)

// Config holds the settings of a soak.
type Config struct {
	URLs []string
	// Replicas are those to kill and stop; none means no faults.
	Replicas []*sandbox.Replica
	// DSN is the service's database. The soak only reads it.
	DSN                   string
	AdminToken, JWTSecret string
	// Window is the replicas' payment window. It must be short, so that orders expire.
	Window      time.Duration
	Duration    time.Duration
	UntilBroken bool
	Seed        uint64
	// Actors have worlds of their own. Rushes is the number of shared worlds at a time.
	Actors, Rushes int
	OnFault        func(string)
}

// Result is the outcome of a soak. As JSON it is out/soak.json.
type Result struct {
	Seed     uint64  `json:"seed"`
	Seconds  float64 `json:"seconds"`
	Replicas int     `json:"replicas"`
	Worlds   int     `json:"worlds"`
	// Uncertain counts the worlds that ended early because a change of the SKU had no
	// answer.
	Uncertain int     `json:"hazy"`
	Orders    int     `json:"orders"`
	Kills     int     `json:"kills"`
	Pauses    int     `json:"pauses"`
	Calls     []Count `json:"calls"`
	// Broken counts the violations. Violations lists the first of them.
	Broken     int         `json:"broken"`
	Violations []Violation `json:"violations"`
	OK         bool        `json:"ok"`
}

const (
	// rushers is the number of actors in a shared world.
	rushers = 4
	// lifeSteps is the number of steps in a world: enough for orders to reach every final
	// state, few enough to check a world's end often.
	lifeSteps = 60
)

// Run soaks for cfg.Duration. An error means that the soak failed to run; violations are
// in the Result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	checker, err := speccheck.New()
	if err != nil {
		return Result{}, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	defer transport.CloseIdleConnections()
	s := &soak{cfg: cfg, caller: &caller{
		urls: cfg.URLs, client: &http.Client{Transport: transport}, checker: checker, record: newRecord(), faults: &faults{},
		adminToken: cfg.AdminToken, secret: cfg.JWTSecret,
	}}
	began := time.Now()
	if err := s.play(ctx); err != nil {
		return Result{}, err
	}
	if err := s.reconcile(ctx); err != nil {
		return Result{}, fmt.Errorf("compare the answers with the database: %w", err)
	}
	r := s.record
	return Result{
		Seed: cfg.Seed, Seconds: time.Since(began).Seconds(), Replicas: len(cfg.URLs), Worlds: r.worlds, Uncertain: r.uncertain, Orders: len(r.last),
		Kills: s.faults.kills, Pauses: s.faults.pauses, Calls: r.table(), Broken: r.broken, Violations: r.violations, OK: r.broken == 0,
	}, nil
}

type soak struct {
	*caller
	cfg Config
}

// play runs all actors and the faults until the time is over.
func (s *soak) play(ctx context.Context) error {
	running, stop := context.WithTimeout(ctx, s.cfg.Duration)
	defer stop()
	if s.cfg.UntilBroken {
		s.record.onViolation = stop
	}
	var all sync.WaitGroup
	act := func(kind string, actors int, live func(ctx context.Context, name string)) {
		for i := range actors {
			all.Go(func() {
				for n := 1; running.Err() == nil; n++ {
					live(ctx, fmt.Sprintf("%s-%x-%d-%d", kind, s.cfg.Seed, i+1, n))
				}
			})
		}
	}
	act("soak", s.cfg.Actors, s.live)
	act("rush", s.cfg.Rushes, s.rush)
	var failed error
	if len(s.cfg.Replicas) > 0 {
		rng := rand.New(rand.NewPCG(s.cfg.Seed, hash("faults")))
		if failed = s.faults.inject(running, rng, s.cfg.Replicas, s.cfg.OnFault); failed != nil {
			stop()
		}
	}
	all.Wait()
	return errors.Join(ctx.Err(), failed)
}

func (s *soak) live(ctx context.Context, name string) {
	w := newWorld(ctx, s.caller, s.cfg.Window, name, s.cfg.Seed)
	w.run(func() { w.create(); w.live() })
}

func (s *soak) rush(ctx context.Context, name string) {
	owner := newWorld(ctx, s.caller, s.cfg.Window, name, s.cfg.Seed)
	owner.shared = true
	if !owner.run(owner.create) {
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	for i := range rushers {
		w := newWorld(ctx, s.caller, s.cfg.Window, fmt.Sprintf("%s.%d", name, i+1), s.cfg.Seed)
		w.sku, w.shared, w.offer = owner.sku, true, owner.offer
		all.Go(func() { w.run(w.live) })
	}
}
