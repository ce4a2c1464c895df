package proof

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
)

var plan = attack.Plan{
	Targets: []string{"http://a", "http://b"}, SKUs: []string{"one"}, MaxQuantity: 1,
	Rate: 10, Duration: time.Second, Seed: 1,
}

// scene is an exact run: ten buyers, six units. Request 6 got no answer, but its
// order exists. Request 7 got an error. Requests 5, 8 and 9 were refused.
type scene struct {
	answers []attack.Answer
	records Records
}

const sceneUnits = 6

func newScene() *scene {
	s := &scene{}
	for seq := range plan.Requests() {
		s.answers = append(s.answers, attack.Answer{Seq: seq, Outcome: attack.SoldOut, Status: 409})
	}
	for seq := range 5 {
		s.answers[seq] = attack.Answer{Seq: seq, Outcome: attack.Accepted, Status: 201, OrderID: id(seq)}
		s.sell(seq)
	}
	s.answers[6] = attack.Answer{Seq: 6, Outcome: attack.Ambiguous}
	s.sell(6)
	s.answers[7] = attack.Answer{Seq: 7, Outcome: attack.Refused, Status: 503}
	s.balance(0)
	return s
}

// sell adds the row that request seq asked for.
func (s *scene) sell(seq int) {
	o := plan.Order(seq)
	s.records.Rows = append(s.records.Rows, Row{
		ID: id(seq), SKU: o.SKU, Customer: o.Customer, Key: o.Key, Quantity: o.Quantity, Status: "reserved",
	})
}

// ask adds a request other than an order, for the order of request of.
func (s *scene) ask(call attack.Call, of int, outcome attack.Outcome) {
	s.answers = append(s.answers, attack.Answer{Seq: len(s.answers), Call: call, Of: of, OrderID: id(of), Outcome: outcome})
}

// balance makes the audit match the rows, with that many units left.
func (s *scene) balance(available int64) {
	sold := int64(0)
	for _, row := range s.records.Rows {
		sold += int64(row.Quantity)
	}
	s.records.Balances = []stock.Balance{{
		SKU: "one", Units: sceneUnits, Available: available, Reserved: sold, Oversold: max(0, sold-sceneUnits), OK: true,
	}}
}

func id(n int) uuid.UUID {
	var u uuid.UUID
	binary.BigEndian.PutUint64(u[8:], uint64(n+1))
	return u
}

// TestEveryBrokenInvariantIsFound breaks one invariant at a time.
func TestEveryBrokenInvariantIsFound(t *testing.T) {
	exact := Findings{UnitsSold: sceneUnits}
	for _, tt := range []struct {
		name    string
		breakIt func(*scene)
		want    Findings
		verdict strategy.Verdict
	}{
		{"an exact run", func(*scene) {}, exact, strategy.Exact},
		{"oversold", func(s *scene) {
			s.answers[8] = attack.Answer{Seq: 8, Outcome: attack.Accepted, Status: 201, OrderID: id(8)}
			s.sell(8)
			s.balance(0)
		}, Findings{UnitsSold: 7, Oversold: 1}, strategy.Oversold},
		{"a promised order has no row", func(s *scene) {
			s.records.Rows = s.records.Rows[1:]
		}, Findings{UnitsSold: sceneUnits, Lost: 1}, strategy.Lost},
		{"a 201 names no order", func(s *scene) {
			s.answers[0].OrderID = uuid.Nil
		}, Findings{UnitsSold: sceneUnits, Lost: 1, Unexplained: 1}, strategy.Lost},
		{"a row has another SKU", func(s *scene) { s.records.Rows[0].SKU = "two" },
			Findings{UnitsSold: sceneUnits, Lost: 1}, strategy.Lost},
		{"a row has another customer", func(s *scene) { s.records.Rows[0].Customer += "x" },
			Findings{UnitsSold: sceneUnits, Lost: 1}, strategy.Lost},
		{"a row has another quantity", func(s *scene) { s.records.Rows[0].Quantity = 2 },
			Findings{UnitsSold: sceneUnits, Lost: 1}, strategy.Lost},
		{"a refused request has a row", func(s *scene) {
			s.sell(9)
		}, Findings{UnitsSold: sceneUnits, Unexplained: 1}, strategy.Lost},
		{"a failed request has a row", func(s *scene) {
			s.sell(7)
		}, Findings{UnitsSold: sceneUnits, Unexplained: 1}, strategy.Lost},
		{"a row belongs to no request", func(s *scene) {
			s.records.Rows = append(s.records.Rows, Row{ID: id(99), SKU: "one", Customer: "x", Key: "y", Quantity: 1, Status: "reserved"})
		}, Findings{UnitsSold: sceneUnits, Unexplained: 1}, strategy.Lost},
		{"the row of an unanswered request has another quantity", func(s *scene) { s.records.Rows[5].Quantity = 3 },
			Findings{UnitsSold: sceneUnits, Unexplained: 1}, strategy.Lost},
		{"one key has two rows", func(s *scene) {
			s.sell(0)
			s.records.Rows[6].ID = id(50)
		}, Findings{UnitsSold: sceneUnits, Duplicated: 1, Unexplained: 1}, strategy.Lost},
		{"one order is promised twice", func(s *scene) {
			s.answers[1].OrderID = s.answers[0].OrderID
		}, Findings{UnitsSold: sceneUnits, Lost: 1, Duplicated: 1, Unexplained: 1}, strategy.Lost},
		{"a customer holds more than the limit", func(s *scene) {
			s.records.Rows[6-1].Quantity = 1
			s.records.Rows[0].Limit, s.records.Rows[0].Quantity = 1, 2
		}, Findings{UnitsSold: sceneUnits, Lost: 1, LimitExceeded: 1}, strategy.Lost},
		{"the audit found a violation", func(s *scene) {
			s.records.Violations = []stock.Violation{{SKU: "one", Invariant: stock.TokensRise, Detail: "3 after 4"}}
		}, Findings{UnitsSold: sceneUnits, Violations: []stock.Violation{{SKU: "one", Invariant: stock.TokensRise, Detail: "3 after 4"}}},
			strategy.Lost},
		{"a buyer was refused units that are left", func(s *scene) {
			s.answers[4] = attack.Answer{Seq: 4, Outcome: attack.SoldOut}
			s.records.Rows = append(s.records.Rows[:4:4], s.records.Rows[5])
			s.balance(1)
		}, Findings{UnitsSold: 5, Available: 1, Undersold: 1, Unserved: 1}, strategy.Undersold},
		{"units are left because of errors", func(s *scene) {
			s.answers[4] = attack.Answer{Seq: 4, Outcome: attack.Refused, Status: 503}
			s.records.Rows = append(s.records.Rows[:4:4], s.records.Rows[5])
			s.balance(1)
			s.answers[5] = s.answers[4]
			s.answers = s.answers[:8] // no buyer was refused
		}, Findings{UnitsSold: 5, Available: 1, Unserved: 1}, strategy.Failed},
		{"too few buyers", func(s *scene) {
			s.answers = s.answers[:4]
			s.records.Rows = s.records.Rows[:4]
			s.balance(2)
		}, Findings{UnitsSold: 4, Available: 2}, strategy.Exact},
		{"a unit was returned after the refusals", func(s *scene) {
			s.records.Rows[0].Status = "cancelled"
			s.records.Balances[0].Reserved--
			s.records.Balances[0].Returned++
			s.records.Balances[0].Available++
			s.ask(attack.Cancel, 0, attack.Served)
		}, Findings{UnitsSold: 5, Available: 1, Returned: 1}, strategy.Exact},
		{"orders were paid and cancelled as answered", func(s *scene) {
			s.records.Rows[0].Status, s.records.Rows[1].Status, s.records.Rows[3].Status = "paid", "cancelled", "expired"
			s.ask(attack.Pay, 0, attack.Served)
			s.ask(attack.Cancel, 1, attack.Served)
			s.ask(attack.Pay, 2, attack.Ambiguous)
			s.ask(attack.Pay, 3, attack.Refused)
			s.ask(attack.Browse, 0, attack.Refused)
		}, exact, strategy.Exact},
		{"a payment without an answer was applied", func(s *scene) {
			s.records.Rows[0].Status = "paid"
			s.ask(attack.Pay, 0, attack.Ambiguous)
		}, exact, strategy.Exact},
		{"a service has another word for cancelled", func(s *scene) {
			s.records.Rows[0].Status = "refunded"
			s.ask(attack.Cancel, 0, attack.Served)
		}, exact, strategy.Exact},
		{"a cancelled order expired", func(s *scene) {
			s.records.Rows[0].Status = "expired"
			s.ask(attack.Cancel, 0, attack.Served)
		}, Findings{UnitsSold: sceneUnits, Misstated: 1}, strategy.Lost},
		{"a payment is missing", func(s *scene) {
			s.ask(attack.Pay, 0, attack.Served)
		}, Findings{UnitsSold: sceneUnits, Misstated: 1}, strategy.Lost},
		{"a paid order expired", func(s *scene) {
			s.records.Rows[0].Status = "expired"
			s.ask(attack.Pay, 0, attack.Served)
		}, Findings{UnitsSold: sceneUnits, Misstated: 1}, strategy.Lost},
		{"a refused payment was applied", func(s *scene) {
			s.records.Rows[0].Status = "paid"
			s.ask(attack.Pay, 0, attack.Refused)
		}, Findings{UnitsSold: sceneUnits, Misstated: 1}, strategy.Lost},
		{"a cancellation paid", func(s *scene) {
			s.records.Rows[0].Status = "paid"
			s.ask(attack.Cancel, 0, attack.Ambiguous)
		}, Findings{UnitsSold: sceneUnits, Misstated: 1}, strategy.Lost},
		{"an order was cancelled unasked", func(s *scene) {
			s.records.Rows[0].Status = "cancelled"
		}, Findings{UnitsSold: sceneUnits, Misstated: 1}, strategy.Lost},
		{"a read without an answer explains no order", func(s *scene) {
			s.ask(attack.Browse, 0, attack.Ambiguous)
			s.sell(len(s.answers) - 1)
		}, Findings{UnitsSold: sceneUnits, Unexplained: 1}, strategy.Lost},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene()
			tt.breakIt(s)
			got := Reconcile(plan.Order, s.answers, s.records)
			got.settle(s.answers, s.records.Rows)
			ignored := cmpopts.IgnoreFields(Findings{}, "Examples")
			if diff := cmp.Diff(tt.want, got.Findings, ignored, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
			if got.Verdict != tt.verdict {
				t.Errorf("got verdict %s, want %s", got.Verdict, tt.verdict)
			}
			if tt.verdict == strategy.Lost && len(got.Examples)+len(got.Violations) == 0 {
				t.Error("no example and no violation describes the finding")
			}
		})
	}
}

func TestServiceWithoutAnswersFails(t *testing.T) {
	var answers []attack.Answer
	for seq := range 10 {
		answers = append(answers, attack.Answer{Seq: seq, Outcome: attack.Ambiguous})
	}
	got := Reconcile(plan.Order, answers, Records{Balances: []stock.Balance{{SKU: "one", Units: 3, Available: 3}}})
	if got.Verdict != strategy.Failed {
		t.Errorf("got verdict %s, want failed", got.Verdict)
	}
}

func TestCountsAddUp(t *testing.T) {
	got := Count(newScene().answers)
	want := Counts{Offered: 10, Accepted: 5, SoldOut: 3, Errors: 1, Ambiguous: 1, Reasons: []Reason{{0, "", 1}, {503, "", 1}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProvenNeedsEveryExpectedVerdict(t *testing.T) {
	run := func(got, expected strategy.Verdict) Run { return Run{Verdict: got, Expected: expected} }
	for _, tt := range []struct {
		name string
		runs []Run
		want bool
	}{
		{"no run", nil, false},
		{"as expected", []Run{run(strategy.Oversold, strategy.Oversold), run(strategy.Exact, strategy.Exact)}, true},
		{"an oversell did not happen", []Run{run(strategy.Exact, strategy.Oversold), run(strategy.Exact, strategy.Exact)}, false},
		{"an oversell happened", []Run{run(strategy.Oversold, strategy.Exact)}, false},
	} {
		p := Proof{Runs: tt.runs}
		if p.Settle(); p.Proven != tt.want {
			t.Errorf("%s: proven %v, want %v", tt.name, p.Proven, tt.want)
		}
	}
}

func TestSentences(t *testing.T) {
	for _, tt := range []struct {
		run  Run
		want string
	}{
		{Run{Strategy: "none", Stock: 300, Verdict: strategy.Oversold, Expected: strategy.Oversold,
			Findings: Findings{UnitsSold: 1234, Oversold: 934}},
			"none sold 1,234 units of 300: 934 units more than were on sale."},
		{Run{Strategy: "etcd", Stock: 2000, Verdict: strategy.Exact, Expected: strategy.Exact, Findings: Findings{UnitsSold: 2000}},
			"etcd sold 2,000 units of 2,000, each once, and every answer matches its order."},
		{Run{Strategy: "none", Stock: 1, Verdict: strategy.Exact, Expected: strategy.Oversold, Findings: Findings{UnitsSold: 1}},
			"none sold 1 unit of 1, each once, and every answer matches its order. Expected: oversold, " +
				"which did not happen this time; more load makes it more likely (--rate, --replicas)."},
		{Run{Stock: 9, Verdict: strategy.Lost, Expected: strategy.Exact, Findings: Findings{UnitsSold: 9, Lost: 1, Duplicated: 2}},
			"The service sold 9 units of 9, but the reconciliation found 1 order promised but missing, 2 orders that exist twice. Expected: exact."},
		{Run{Strategy: "version", Stock: 9, Verdict: strategy.Undersold, Expected: strategy.Exact,
			Findings: Findings{UnitsSold: 8, Undersold: 1}},
			"version sold 8 units of 9, but refused buyers while 1 unit is left. Expected: exact."},
	} {
		if got := tt.run.Sentence(); got != tt.want {
			t.Errorf("\ngot  %s\nwant %s", got, tt.want)
		}
	}
}
