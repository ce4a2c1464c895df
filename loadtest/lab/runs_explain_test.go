package lab

import (
	"testing"
	"time"

	"flashsale/internal/record"
	"flashsale/internal/strategy"
	"flashsale/loadtest/steps"
)

// The sentence says what was recorded, and no more.
func TestExplanationIsWhatTheRecordsSay(t *testing.T) {
	for name, want := range map[string]string{
		"none":      "B and A both read 1 unit before either wrote; both wrote 0, so the same unit was sold twice.",
		"process":   "A and B both read 1 unit before either wrote; both wrote 0, so the same unit was sold twice. Each replica has a lock of its own, so neither waited for the other.",
		"version":   "A sold the last unit; the other order had already reached B, and was refused: sold out. Before that, MySQL had rejected its write: the row has changed, or has too few units. No unit was sold twice.",
		"etcd":      "B sold the last unit under token 9; the other order reached A, which forwarded it to B, and it was refused there: sold out. No unit was sold twice.",
		"etcd-cas":  "A sold the last unit; the other order had already reached B, and was refused: sold out. No unit was sold twice.",
		"take-over": "No order was refused, and no unit was sold twice: there is nothing to draw.",
	} {
		all := recorded(t, name)
		some := steps.Interleaving(all, "lamp")
		race := some != nil
		if !race {
			some = steps.LastUnit(all, "lamp")
		}
		row, err := strategy.Find(all[0].Strategy)
		if err != nil && name != "take-over" {
			t.Fatal(err)
		}
		if got := explain(some, race, row, 0); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A holder that was paused past its TTL is told by the time from its lock to its commit,
// also if its read was recorded only when it went on.
func TestExplanationOfAPausedHolder(t *testing.T) {
	began := time.Now()
	step := func(ms int, replica string, kind record.Kind, seq uint64) record.Step {
		s := record.Step{Kind: kind, Replica: replica, Customer: replica, Key: replica, Wall: began.Add(time.Duration(ms) * time.Millisecond), SKU: "lamp", Quantity: 1, Seq: seq}
		if kind == record.Committed {
			s.Before, s.After, s.Order = new(int64(2)), new(int64(1)), replica
		}
		return s
	}
	all := []record.Step{
		step(0, "A", record.Locked, 0), step(3000, "B", record.Locked, 0), step(3001, "B", record.Read, 4), step(3002, "B", record.Wrote, 5), step(3003, "B", record.Committed, 5),
		step(5000, "A", record.Read, 4), step(5001, "A", record.Wrote, 5), step(5002, "A", record.Committed, 5),
	}
	some := steps.Interleaving(all, "lamp")
	want := "B and A both read 2 units before either had committed; both wrote 1, so the same unit was sold twice. " +
		"A committed 5s after it had got the lock. B had got the lock in between, so the lease of A had ended; nothing stopped its write. The records lack 3 steps, because the disk was too slow for them."
	if got := explain(some, true, strategy.Strategy{Lock: strategy.EtcdTextbook}, 3); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
