package bench

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCPUTimeAcceptsAnyProgramName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stat")
	// utime is 250 ticks, stime 50.
	text := "42 (a) b ((c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 9 20 0 4 0 100 1000 100\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := cpuTime(path); err != nil || got != 3*time.Second {
		t.Errorf("got %s, %v, want 3s", got, err)
	}
	if err := os.WriteFile(path, []byte("42 (cut off) S 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cpuTime(path); err == nil {
		t.Error("no error for a truncated file")
	}
}

// TestGaugeMeasuresWork measures this process.
func TestGaugeMeasuresWork(t *testing.T) {
	g := &gauge{groups: []group{{"self", []int{os.Getpid()}}}}
	g.read()
	const work = 300 * time.Millisecond
	before, err := cpuTime(procPath(os.Getpid(), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	used := before
	for used-before < work { // by the same clock: the machine may be busy
		for n := range 1_000_000 {
			sink += n
		}
		if used, err = cpuTime(procPath(os.Getpid(), "stat")); err != nil {
			t.Fatal(err)
		}
	}
	g.read()
	all, err := g.usages()
	if err != nil {
		t.Fatal(err)
	}
	if got := all["self"]; got.cpu < work || got.peakRSS < 1<<20 {
		t.Errorf("got usage %+v after %s of work", got, work)
	}
}

var sink int

func TestGaugeOfMissingProcessFails(t *testing.T) {
	g := &gauge{groups: []group{{"gone", []int{1 << 30}}}}
	g.read()
	g.read()
	if _, err := g.usages(); err == nil {
		t.Error("no error for a missing process")
	}
}
