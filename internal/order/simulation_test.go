package order

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var (
	simSeeds = flag.Int("seeds", 300, "how many seeds TestSimulation runs")
	simSeed  = flag.Uint64("seed", 0, "the one seed that TestSimulation runs, with its log")
)

func TestSimulation(t *testing.T) {
	if *simSeed > 0 {
		s := simulate(t, *simSeed)
		for _, e := range s.history() {
			fmt.Printf("%12s %s\n", e.at, e.text)
		}
		for _, f := range s.faults {
			t.Error(f)
		}
		return
	}
	began := time.Now()
	for seed := range uint64(*simSeeds) {
		s := simulate(t, seed+1)
		for _, f := range s.faults {
			t.Errorf("seed %d: %s", seed+1, f)
		}
	}
	t.Logf("%.0f seeds a minute", float64(*simSeeds)/time.Since(began).Minutes())
}

// The same seed gives the same run, whatever the scheduler does.
func TestSimulationRepeats(t *testing.T) {
	for seed := range uint64(*simSeeds) / 10 {
		a, b := simulate(t, seed+1), simulate(t, seed+1)
		if a.hash() == b.hash() {
			continue
		}
		x, y := a.history(), b.history()
		dump(t, seed, "a", x)
		dump(t, seed, "b", y)
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				t.Errorf("seed %d: event %d is %s %s, and the second time %s %s", seed+1, i, x[i].at, x[i].text, y[i].at, y[i].text)
				break
			}
		}
	}
}

func dump(t *testing.T, seed uint64, name string, x []simEvent) {
	var b strings.Builder
	for _, e := range x {
		fmt.Fprintf(&b, "%12s %s\n", e.at, e.text)
	}
	os.WriteFile(fmt.Sprintf("/tmp/sim-div-%d-%s.txt", seed+1, name), []byte(b.String()), 0o644)
}
