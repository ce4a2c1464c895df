package proof

import (
	"testing"

	"flashsale/loadtest/attack"
)

func TestBooksFromServiceAllowsForLostAnswers(t *testing.T) {
	s := newScene()          // five promised orders, and one that nobody was told of
	told := s.books.Rows[:5] // what can be read back
	for _, tt := range []struct {
		name       string
		available  int64
		violations int
	}{
		{"the lost answer's order stands", 0, 0},
		{"it does not", 1, 0},
		{"a unit came from nowhere", 2, 1},
		{"units are gone", -1, 1},
	} {
		got := BooksFromService(&plan, s.answers, told, []attack.Stock{{SKU: "one", Units: sceneUnits, Available: tt.available}})
		if len(got.Violations) != tt.violations {
			t.Errorf("%s: violations %v, want %d", tt.name, got.Violations, tt.violations)
		}
		if b := got.Balances[0]; b.Reserved != 5 || b.Available != tt.available {
			t.Errorf("%s: balance %+v", tt.name, b)
		}
	}
}

func TestBooksFromServiceShowAnOversell(t *testing.T) {
	s := newScene()
	got := BooksFromService(&plan, s.answers, s.books.Rows[:5], []attack.Stock{{SKU: "one", Units: 3}})
	if got.Balances[0].Oversold != 2 {
		t.Errorf("oversold %d, want 2", got.Balances[0].Oversold)
	}
}
