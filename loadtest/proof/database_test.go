package proof

import (
	"testing"

	"flashsale/loadtest/attack"
)

func TestRecordsOfAllowForLostAnswers(t *testing.T) {
	s := newScene()                // five promised orders, and one without an answer
	promised := s.records.Rows[:5] // what can be read back
	for _, tt := range []struct {
		name       string
		available  int64
		violations int
	}{
		{"the order without an answer exists", 0, 0},
		{"that order does not exist", 1, 0},
		{"a unit too many", 2, 1},
		{"a unit too few", -1, 1},
	} {
		got := RecordsOf(promised, []attack.Stock{{SKU: "one", Units: sceneUnits, Available: tt.available}}, &plan, s.answers)
		if len(got.Violations) != tt.violations {
			t.Errorf("%s: got violations %v, want %d", tt.name, got.Violations, tt.violations)
		}
		if b := got.Balances[0]; b.Reserved != 5 || b.Available != tt.available {
			t.Errorf("%s: got balance %+v", tt.name, b)
		}
	}
}

func TestRecordsOfShowAnOversell(t *testing.T) {
	s := newScene()
	got := RecordsOf(s.records.Rows[:5], []attack.Stock{{SKU: "one", Units: 3}}, &plan, s.answers)
	if got.Balances[0].Oversold != 2 {
		t.Errorf("got oversold %d, want 2", got.Balances[0].Oversold)
	}
}
