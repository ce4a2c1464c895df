package order

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

var (
	simSeeds = flag.Uint64("seeds", 200, "how many seeds TestSimulation runs")
	simSeed  = flag.Uint64("seed", 0, "the only seed that TestSimulation runs, with its log")
	simFirst = flag.Bool("first", false, "TestSimulation stops at the first seed that fails, and does not keep it")
)

// seedsFile has seeds that have failed, or that fail with a mutant. They run first.
const seedsFile = "testdata/seeds.txt"

// What an order goes through must keep the invariants in every interleaving of faults.
func TestSimulation(t *testing.T) {
	t.Parallel()
	if *simSeed > 0 {
		for _, e := range tryEachSeed(t, *simSeed).history() {
			fmt.Printf("%12s %s\n", e.at, e.text)
		}
		return
	}
	for _, seed := range keptSeeds(t) {
		if tryEachSeed(t, seed); *simFirst && t.Failed() {
			return
		}
	}
	trySeeds(t, 1, *simSeeds)
}

func TestSimulationOfManySeeds(t *testing.T) {
	t.Parallel()
	tier.OnlyTestAll(t, "half a minute with the race detector")
	if *simSeed == 0 && !*simFirst {
		trySeeds(t, 1_000_000, 1000)
	}
}

// trySeeds runs seeds on all processors.
func trySeeds(t *testing.T, from, n uint64) {
	began := time.Now()
	var next, failed atomic.Uint64
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint("worker", i), func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1) - 1; seed < n && (!*simFirst || failed.Load() == 0); seed = next.Add(1) - 1 {
					if tryEachSeed(t, from+seed).failed() {
						failed.Add(1)
					}
				}
			})
		}
	})
	t.Logf("%d of %d seeds failed; %.0f seeds a minute", failed.Load(), n, float64(n)/time.Since(began).Minutes())
}

func tryEachSeed(t *testing.T, seed uint64) *sim {
	defer func() {
		if p := recover(); p != nil { // a goroutine was left, or all wait for ever
			t.Errorf("seed %d: %v", seed, p)
			panic(p)
		}
	}()
	s := simulate(t, seed)
	for _, f := range s.faults {
		t.Errorf("seed %d: %s", seed, f)
	}
	if s.failed() {
		t.Logf("run it again: go test ./internal/order -run TestSimulation$ -seed %d", seed)
		if !*simFirst && *simSeed == 0 {
			keepSeed(t, seed)
		}
	}
	return s
}

func keptSeeds(t *testing.T) (seeds []uint64) {
	text, err := os.ReadFile(seedsFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		number, _, _ := strings.Cut(line, "#")
		if number = strings.TrimSpace(number); number == "" {
			continue
		}
		seed, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, seed)
	}
	return seeds
}

var keeping sync.Mutex

func keepSeed(t *testing.T, seed uint64) {
	keeping.Lock()
	defer keeping.Unlock()
	for _, kept := range keptSeeds(t) {
		if kept == seed {
			return
		}
	}
	file, err := os.OpenFile(seedsFile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer file.Close()
	if _, err := fmt.Fprintln(file, seed); err != nil {
		t.Error(err)
	}
}

// The same seed gives the same run, whatever the scheduler does.
func TestSimulationRepeats(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		a, b := simulate(t, seed+1), simulate(t, seed+1)
		if a.hash() == b.hash() {
			continue
		}
		x, y := a.history(), b.history()
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				t.Errorf("seed %d: event %d is %v, and the second time %v", seed+1, i, x[i], y[i])
				break
			}
		}
	}
}
