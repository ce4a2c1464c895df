package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
)

// weather is what befalls the replicas: one after another is killed and started
// again, or stopped for some seconds, longer than its lease at times.
type weather struct {
	mu     sync.Mutex
	spells []spell
	// kills and pauses count them.
	kills, pauses int
}

type spell struct{ from, to time.Time } // a zero to is now

const (
	// calmAtLeast and calmAtMost lie between two faults.
	calmAtLeast = 4 * time.Second
	calmAtMost  = 12 * time.Second
	// aftermath is how long connections may still break after a fault.
	aftermath = 2 * time.Second
	// longestDown bounds a kill's outage, longestPause a pause. A pause outlasts
	// the lease of a lock, which is 2 seconds, in most cases.
	longestDown  = 2 * time.Second
	longestPause = 5 * time.Second
)

// calm reports whether nothing befell any replica between two times.
func (w *weather) calm(from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.spells {
		if !s.from.After(to) && (s.to.IsZero() || from.Before(s.to.Add(aftermath))) {
			return false
		}
	}
	return true
}

// rage disturbs one replica after another until ctx ends, and leaves all of them
// running.
func (w *weather) rage(ctx context.Context, rng *rand.Rand, replicas []*sandbox.Replica, say func(string)) error {
	for sleep.For(ctx, calmAtLeast+time.Duration(rng.Int64N(int64(calmAtMost-calmAtLeast)))) == nil {
		replica := replicas[rng.IntN(len(replicas))]
		kill := rng.IntN(2) == 0
		w.begin(kill)
		err := w.strike(ctx, rng, replica, kill, say)
		w.end()
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *weather) strike(ctx context.Context, rng *rand.Rand, replica *sandbox.Replica, kill bool, say func(string)) error {
	if kill {
		say(replica.Name + " is killed")
		replica.Kill()
		_ = sleep.For(ctx, time.Duration(rng.Int64N(int64(longestDown))))
		if err := replica.Restart(context.WithoutCancel(ctx)); err != nil { // bounded by itself
			return fmt.Errorf("start %s again: %w", replica.Name, err)
		}
		return nil
	}
	d := time.Duration(rng.Int64N(int64(longestPause)))
	say(fmt.Sprintf("%s is stopped for %s", replica.Name, d.Round(time.Millisecond)))
	if err := replica.Signal(sandbox.SIGSTOP); err != nil {
		return err
	}
	_ = sleep.For(ctx, d)
	return replica.Signal(sandbox.SIGCONT)
}

func (w *weather) begin(kill bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spells = append(w.spells, spell{from: time.Now()})
	if kill {
		w.kills++
	} else {
		w.pauses++
	}
}

func (w *weather) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spells[len(w.spells)-1].to = time.Now()
}
