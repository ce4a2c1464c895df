// Package handover measures how long each kind of lock takes to pass from one holder to
// the next.
package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// Figures are the results of a measurement, as in docs.
type Figures struct {
	Command string `json:"command"`
	Date    string `json:"date"`
	Machine string `json:"machine"`
	Rounds  int    `json:"rounds"`
	// MedianMS is the median of each strategy, in milliseconds.
	MedianMS map[string]float64 `json:"median_ms"`
}

const (
	ttl = 5 * time.Second
	// settled is how long a waiter may take to start waiting before the holder unlocks. Up
	// to as much is added at random, so that the unlock hits every phase of a waiter that
	// polls.
	settled = 120 * time.Millisecond
	// roundTimeout bounds one hand-over. lock-row waits four seconds at most.
	roundTimeout = 10 * time.Second
	name         = "handover"
	connections  = 4
)

// Config holds the settings of a measurement.
type Config struct {
	Strategy strategy.Strategy
	Servers  backend.Servers
	// DSN is an empty database.
	DSN    string
	Rounds int
}

// Measure returns the median time of a hand-over: from just before Unlock until the
// waiter's Lock returns. Two Lockers, each with its own client, take turns.
func Measure(ctx context.Context, cfg Config) (median time.Duration, err error) {
	db, err := stock.Open(cfg.DSN, connections)
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	var lockers [2]lock.Locker
	for i := range lockers {
		// A lock within one process has one Locker only.
		if c, _ := backend.Capabilities(cfg.Strategy); i > 0 && !c.Processes {
			lockers[i] = lockers[0]
			break
		}
		g, err := backend.Open(ctx, backend.Config{
			Strategy: cfg.Strategy, Servers: cfg.Servers, DSN: cfg.DSN, Database: db.Name, Connections: connections,
			Replica: fmt.Sprint("handover-", i), TTL: ttl, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return 0, err
		}
		defer func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			err = errors.Join(err, g.Locker.Close(end), g.Close())
		}()
		lockers[i] = g.Locker
	}
	return measure(ctx, lockers, cfg.Rounds)
}

func measure(ctx context.Context, lockers [2]lock.Locker, rounds int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(rounds+1)*roundTimeout)
	defer cancel()
	held, err := lockers[0].Lock(ctx, name)
	if err != nil {
		return 0, err
	}
	var all []time.Duration
	for round := range rounds {
		took, next, err := handOver(ctx, held, lockers[(round+1)%2])
		if err != nil {
			return 0, err
		}
		held, all = next, append(all, took)
	}
	slices.Sort(all)
	return all[len(all)/2], held.Unlock(ctx)
}

func handOver(ctx context.Context, held lock.Held, to lock.Locker) (time.Duration, lock.Held, error) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	type grant struct {
		held lock.Held
		at   time.Time
		err  error
	}
	granted := make(chan grant, 1)
	go func() {
		held, err := to.Lock(ctx, name)
		granted <- grant{held, time.Now(), err}
	}()
	select {
	case <-time.After(settled + rand.N(settled)):
	case early := <-granted:
		return 0, nil, errors.Join(errors.New("the waiter did not wait"), early.err)
	}
	began := time.Now()
	if err := held.Unlock(ctx); err != nil {
		cancel()
		<-granted
		return 0, nil, err
	}
	next := <-granted // bounded by ctx
	return next.at.Sub(began), next.held, next.err
}
