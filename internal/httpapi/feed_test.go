package httpapi

import (
	"container/list"
	"context"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashsale/internal/stock"
)

// Streams share a text only if they need the same events.
func TestEachStreamGetsTheEventsAfterItsRound(t *testing.T) {
	t.Parallel()
	f := &feed{topics: map[string]*topic{}, recent: list.New()}
	ids := regexp.MustCompile(`id: (\d+)`)
	check := func(after uint64, want ...string) {
		t.Helper()
		for range 2 { // the second is shared
			got := f.all(after, nil)
			var seqs []string
			for _, match := range ids.FindAllStringSubmatch(string(got.text), -1) {
				seqs = append(seqs, match[1])
			}
			if strings.Join(seqs, " ") != strings.Join(want, " ") || got.count != len(want) || got.round != f.round && f.valid {
				t.Errorf("after round %d: events %v, count %d, round %d; want %v, round %d", after, seqs, got.count, got.round, want, f.round)
			}
		}
	}
	check(0)
	f.take([]stock.Level{{SKU: "lamp", Seq: 1}, {SKU: "sofa", Seq: 2}}, true)
	check(0, "1", "2")
	check(1)
	f.take([]stock.Level{{SKU: "lamp", Seq: 3}}, true)
	check(1, "3")
	check(0, "2", "3")
	check(2)
	f.take([]stock.Level{{SKU: "sofa", Seq: 4}}, true)
	check(2, "4")
	check(1, "3", "4")
	check(0, "3", "4")
	f.take(nil, false)
	check(1)
}

// Between two batches of streams, the seller's goroutines can run.
func TestStreamsAreWokenInBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		streams := make([]*stream, 2*wakeBatch+1)
		for i := range streams {
			streams[i] = &stream{woken: make(chan struct{}, 1)}
		}
		streams[0].woken <- struct{}{} // it has not yet looked: nobody waits for it
		go wake(t.Context(), streams)
		for _, want := range []int{wakeBatch, 2 * wakeBatch, 2*wakeBatch + 1} {
			synctest.Wait()
			woken := 0
			for _, s := range streams {
				woken += len(s.woken)
			}
			if woken != want {
				t.Errorf("%d streams are woken, want %d", woken, want)
			}
			time.Sleep(wakeRest)
		}
	})
}

// An idle stream gets a heartbeat, one with events gets none, and both end when the replica
// drains, also if they look for events only after they were woken for it.
func TestFeedBeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		draining := make(chan struct{})
		f := &feed{topics: map[string]*topic{}, recent: list.New()}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { f.beat(ctx, draining) })
		feeds := &feeds{draining: draining}
		idle, busy := &written{}, &written{}
		for _, to := range []*written{idle, busy} {
			s := &stream{feeds: feeds, feed: f, to: to, woken: make(chan struct{}, 1)}
			running.Go(func() {
				for {
					f.all(0, s)
					if to == busy {
						s.write([]byte("event"))
					}
					if !s.wait() {
						to.ended = true
						return
					}
				}
			})
		}
		time.Sleep(10*beatSpacing + time.Millisecond)
		synctest.Wait()
		if idle.longest > heartbeat || idle.writes < 5 {
			t.Errorf("an idle stream was written %d times, with pauses of up to %s", idle.writes, idle.longest)
		}
		if want := strings.Repeat("event", busy.writes); busy.text.String() != want {
			t.Errorf("a stream with events got %q", busy.text.String())
		}
		close(draining)
		synctest.Wait()
		if !idle.ended || !busy.ended {
			t.Error("a stream goes on although the replica drains")
		}
		late := &stream{feeds: feeds, feed: f, to: &written{}, woken: make(chan struct{}, 1)}
		f.all(0, late)
		if late.wait() {
			t.Error("a stream that began to wait after the drain goes on")
		}
	})
}

// written counts what is written to a stream.
type written struct {
	text    strings.Builder
	writes  int
	last    time.Time
	longest time.Duration // between two writes
	ended   bool
}

func (w *written) Write(text []byte) (int, error) {
	now := time.Now()
	if w.writes > 0 {
		w.longest = max(w.longest, now.Sub(w.last))
	}
	w.last = now
	w.writes++
	return w.text.Write(text)
}

func (w *written) SetWriteDeadline(time.Time) error { return nil }
