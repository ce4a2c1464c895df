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

// faults disturbs the replicas: it kills one after another and starts it again, or stops
// it for some seconds, often longer than its lease. It is safe for concurrent use.
type faults struct {
	mu            sync.Mutex
	outages       []outage
	kills, pauses int
}

type outage struct{ from, to time.Time } // a zero to means that it lasts

const (
	// quietMin and quietMax bound the time between two faults.
	quietMin = 4 * time.Second
	quietMax = 12 * time.Second
	// aftermath is how long connections may still break after a fault.
	aftermath = 2 * time.Second
	// maxDown bounds the time until a killed replica starts again.
	maxDown = 2 * time.Second
	// maxPause bounds how long a replica is stopped. Most pauses outlast the lease of a
	// lock, which is 2 seconds.
	maxPause = 5 * time.Second
)

// none reports whether there was no fault between two times.
func (f *faults) none(from, to time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.outages {
		if !o.from.After(to) && (o.to.IsZero() || from.Before(o.to.Add(aftermath))) {
			return false
		}
	}
	return true
}

// inject disturbs one replica after another until ctx ends. It leaves all of them running.
func (f *faults) inject(ctx context.Context, rng *rand.Rand, replicas []*sandbox.Replica, onFault func(string)) error {
	random := func(bound time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(bound))) }
	for sleep.For(ctx, quietMin+random(quietMax-quietMin)) == nil {
		replica := replicas[rng.IntN(len(replicas))]
		disturb, most, counter := pause, maxPause, &f.pauses
		if rng.IntN(2) == 0 {
			disturb, most, counter = kill, maxDown, &f.kills
		}
		f.begin(counter)
		err := disturb(ctx, replica, random(most), onFault)
		f.end()
		if err != nil {
			return err
		}
	}
	return nil
}

func kill(ctx context.Context, replica *sandbox.Replica, down time.Duration, onFault func(string)) error {
	onFault(replica.Name + " is killed")
	replica.Kill()
	_ = sleep.For(ctx, down)
	if err := replica.Restart(context.WithoutCancel(ctx)); err != nil { // has its own bound
		return fmt.Errorf("restart %s: %w", replica.Name, err)
	}
	return nil
}

func pause(ctx context.Context, replica *sandbox.Replica, d time.Duration, onFault func(string)) error {
	onFault(fmt.Sprintf("%s is stopped for %s", replica.Name, d.Round(time.Millisecond)))
	if err := replica.Signal(sandbox.SIGSTOP); err != nil {
		return err
	}
	_ = sleep.For(ctx, d)
	return replica.Signal(sandbox.SIGCONT)
}

func (f *faults) begin(counter *int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outages = append(f.outages, outage{from: time.Now()})
	*counter++
}

func (f *faults) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outages[len(f.outages)-1].to = time.Now()
}
