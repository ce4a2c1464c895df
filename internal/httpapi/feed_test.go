package httpapi

import (
	"container/list"
	"regexp"
	"strings"
	"testing"

	"flashsale/internal/stock"
)

// Streams share a text only if they need the same events.
func TestEachStreamGetsTheEventsAfterItsRound(t *testing.T) {
	t.Parallel()
	f := &feed{topics: map[string]*topic{}, recent: list.New(), changed: make(chan struct{})}
	ids := regexp.MustCompile(`id: (\d+)`)
	check := func(after uint64, want ...string) {
		t.Helper()
		for range 2 { // the second is shared
			got, _ := f.all(after)
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
