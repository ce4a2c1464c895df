// Package soak sends random calls to replicas of the service for as long as asked,
// and knows which answers are right.
//
// Each actor lives in one world after another: a SKU and customers of its own, of
// which it keeps a model. Every answer has to be one that the model allows, within
// what clocks and lost answers leave open. In shared worlds several actors want the
// units of one SKU, and each models its own customers alone. Meanwhile replicas are
// killed and stopped. In the end every answer is joined with the database by package
// proof, and audited.
//
// All choices come from a seed. What the clocks make of them does not: the same
// seed sends the same kinds of calls again, at somewhat other moments.
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

// Config is what a soak is made with.
type Config struct {
	// URLs are the replicas'.
	URLs []string
	// Replicas are those that are killed and stopped; none is fair weather.
	Replicas []*sandbox.Replica
	// DSN is the database's, which is only read.
	DSN                   string
	AdminToken, JWTSecret string
	// Window is the replicas' payment window: short, so that orders expire.
	Window   time.Duration
	Duration time.Duration
	// UntilBroken ends it early, once a claim is broken.
	UntilBroken bool
	Seed        uint64
	// Actors live in worlds of their own; Rushes are shared worlds at a time.
	Actors, Rushes int
	// OnFault is called with a description of each fault.
	OnFault func(string)
}

// Result is what came of it. As JSON it is out/soak.json.
type Result struct {
	Seed     uint64  `json:"seed"`
	Seconds  float64 `json:"seconds"`
	Replicas int     `json:"replicas"`
	Worlds   int     `json:"worlds"`
	// Hazy worlds were left early: a change of the SKU had no answer.
	Hazy   int     `json:"hazy"`
	Orders int     `json:"orders"`
	Kills  int     `json:"kills"`
	Pauses int     `json:"pauses"`
	Calls  []Count `json:"calls"`
	// Broken counts violations, of which the first are listed.
	Broken     int         `json:"broken"`
	Violations []Violation `json:"violations"`
	OK         bool        `json:"ok"`
}

const (
	// rushers want the units of one shared world.
	rushers = 4
	// lifeSteps is how many steps a world takes: enough for its orders to meet
	// every end, and few enough that its end is checked often.
	lifeSteps = 60
)

// Run soaks until the time is over. An error says that it could not be done; what
// was found is in the Result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	checker, err := speccheck.New()
	if err != nil {
		return Result{}, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	defer transport.CloseIdleConnections()
	s := &soak{cfg: cfg, caller: &caller{
		urls: cfg.URLs, client: &http.Client{Transport: transport}, checker: checker, record: newRecord(), weather: &weather{},
		adminToken: cfg.AdminToken, secret: cfg.JWTSecret,
	}}
	began := time.Now()
	if err := s.play(ctx); err != nil {
		return Result{}, err
	}
	if err := s.books(ctx); err != nil {
		return Result{}, fmt.Errorf("check the books: %w", err)
	}
	r := s.record
	result := Result{
		Seed: cfg.Seed, Seconds: time.Since(began).Seconds(), Replicas: len(cfg.URLs), Worlds: r.worlds, Hazy: r.hazy, Orders: len(r.last),
		Kills: s.weather.kills, Pauses: s.weather.pauses, Calls: r.table(), Broken: r.broken, Violations: r.violations, OK: r.broken == 0,
	}
	if result.Violations == nil {
		result.Violations = []Violation{} // a list in JSON, not null
	}
	return result, nil
}

type soak struct {
	*caller
	cfg Config
}

// play lets all actors live, in the weather, until the time is over.
func (s *soak) play(ctx context.Context) error {
	day, dusk := context.WithTimeout(ctx, s.cfg.Duration)
	defer dusk()
	if s.cfg.UntilBroken {
		s.record.alarm = dusk
	}
	var all sync.WaitGroup
	errs := make(chan error, s.cfg.Actors+s.cfg.Rushes+1)
	act := func(name string, life func(name string) error) {
		all.Go(func() {
			for n := 1; day.Err() == nil; n++ {
				if err := life(fmt.Sprintf("%s-%d", name, n)); err != nil {
					errs <- err
					dusk()
					return
				}
			}
		})
	}
	for i := range s.cfg.Actors {
		act(fmt.Sprintf("soak-%x-%d", s.cfg.Seed, i+1), func(name string) error { return s.live(ctx, name) })
	}
	for i := range s.cfg.Rushes {
		act(fmt.Sprintf("rush-%x-%d", s.cfg.Seed, i+1), func(name string) error { return s.rush(ctx, name) })
	}
	if len(s.cfg.Replicas) > 0 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(s.cfg.Seed, hash("weather")))
			if err := s.weather.rage(day, rng, s.cfg.Replicas, s.cfg.OnFault); err != nil {
				errs <- err
				dusk()
			}
		})
	}
	all.Wait()
	close(errs)
	var failed error
	for err := range errs {
		failed = errors.Join(failed, err)
	}
	return errors.Join(failed, ctx.Err())
}

// live is one world of one actor.
func (s *soak) live(ctx context.Context, name string) error {
	w, err := newWorld(ctx, s.caller, s.cfg.Window, name, s.cfg.Seed)
	if err != nil {
		return err
	}
	w.finish(w.live(lifeSteps))
	return nil
}

// rush is one shared world, of several actors.
func (s *soak) rush(ctx context.Context, name string) error {
	owner, err := newWorld(ctx, s.caller, s.cfg.Window, name, s.cfg.Seed)
	if err != nil {
		return err
	}
	owner.shared = true
	err = owner.create()
	owner.finish(err)
	if err != nil {
		return nil //nolint:nilerr // finish has noted it, and the soak goes on
	}
	var all sync.WaitGroup
	for i := range rushers {
		w, err := newWorld(ctx, s.caller, s.cfg.Window, fmt.Sprintf("%s.%d", name, i+1), s.cfg.Seed)
		if err != nil {
			return err
		}
		w.sku, w.shared, w.offer = owner.sku, true, owner.offer
		all.Go(func() { w.finish(w.goOn(lifeSteps)) })
	}
	all.Wait()
	return nil
}
