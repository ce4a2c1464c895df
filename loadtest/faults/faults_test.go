package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

func TestTimesCountFromTheFault(t *testing.T) {
	const ms = time.Millisecond
	sold := func(sent, done time.Duration) attack.Answer {
		return attack.Answer{Outcome: attack.Accepted, Sent: sent, Done: done}
	}
	refused := func(sent, done time.Duration) attack.Answer {
		return attack.Answer{Outcome: attack.Refused, Sent: sent, Done: done}
	}
	const fault = 100 * ms
	for name, tt := range map[string]struct {
		answers          []attack.Answer
		first, gap, wait time.Duration
	}{
		"nothing counts before the fault": {[]attack.Answer{sold(0, 90*ms), sold(95*ms, 101*ms), sold(101*ms, 105*ms)}, 5 * ms, 4 * ms, 6 * ms},
		"from the fault":                  {[]attack.Answer{sold(0, 50*ms), sold(60*ms, 180*ms), sold(180*ms, 190*ms)}, 90 * ms, 80 * ms, 120 * ms},
		"between two sales, in any order": {[]attack.Answer{sold(0, 200*ms), sold(0, 110*ms)}, 0, 90 * ms, 200 * ms},
		"an error is not a sale":          {[]attack.Answer{sold(100*ms, 110*ms), refused(100*ms, 150*ms), sold(110*ms, 160*ms)}, 10 * ms, 50 * ms, 50 * ms},
		"no sale until the last answer":   {[]attack.Answer{sold(100*ms, 110*ms), refused(110*ms, 300*ms)}, 10 * ms, 190 * ms, 190 * ms},
		"an order sent before the fault":  {[]attack.Answer{sold(90*ms, 110*ms), sold(105*ms, 150*ms)}, 50 * ms, 40 * ms, 45 * ms},
		"no sale at all":                  {[]attack.Answer{sold(0, 90*ms)}, 0, 0, 0},
	} {
		first, gap, wait := firstSale(tt.answers, fault), longestGap(tt.answers, fault), longestWait(tt.answers, fault)
		if first != tt.first || gap != tt.gap || wait != tt.wait {
			t.Errorf("%s: first sale after %s, gap %s, wait %s; want %s, %s, %s", name, first, gap, wait, tt.first, tt.gap, tt.wait)
		}
	}
}

// TestFiguresTellWrongAnswersFromSlowRuns: a run that is slow but right misses the goal
// only; a run with a wrong answer is not OK, however fast.
func TestFiguresTellWrongAnswersFromSlowRuns(t *testing.T) {
	exact := Result{Verdict: strategy.Exact, WritableMS: 6000, OrdersMS: 6500, GapMS: 100, WaitMS: 100}
	with := func(change func(*Result)) Result { r := exact; change(&r); return r }
	for _, tt := range []struct {
		name        string
		table       *Table
		fault       string
		result      Result
		ok, goalMet bool
	}{
		{"a fast take-over", &Seller, "killed", exact, true, true},
		{"no sale for too long", &Seller, "killed", with(func(r *Result) { r.GapMS = 1001 }), true, false},
		{"a median that is too long", &Seller, "stopped", with(func(r *Result) { r.GapMS = 301 }), true, false},
		{"only the wait has a goal", &Seller, "parted", with(func(r *Result) { r.GapMS = 60_000 }), true, true},
		{"a wait that is too long", &Seller, "parted", with(func(r *Result) { r.WaitMS = 5051 }), true, false},
		{"a lost order", &Seller, "killed", with(func(r *Result) { r.Verdict = strategy.Lost }), false, true},
		{"a wrong answer", &Seller, "killed", with(func(r *Result) { r.Wrong = 1 }), false, true},
		{"a fast fail-over", &Database, "kill", exact, true, true},
		{"no sale for too long after a kill", &Database, "kill", with(func(r *Result) { r.GapMS = 10_001 }), true, false},
		{"orders long after the first write", &Database, "kill", with(func(r *Result) { r.OrdersMS = 7001 }), true, false},
		{"a fault without a goal", &Database, "cut", with(func(r *Result) { r.GapMS = 60_000 }), true, true},
		{"a lost payment", &Database, "kill", with(func(r *Result) { r.Lost = 1 }), false, true},
	} {
		f := Figures{Product: sandbox.RealMySQL, Table: tt.table}
		tt.result.Fault = tt.fault
		if f.Add(tt.result); f.OK != tt.ok || f.GoalMet != tt.goalMet {
			t.Errorf("%s: OK is %v and GoalMet %v, want %v and %v", tt.name, f.OK, f.GoalMet, tt.ok, tt.goalMet)
		}
	}
}

func TestFiguresHaveMedianAndMaximumOfEachFault(t *testing.T) {
	f := Figures{Table: &Seller}
	for _, r := range []Result{{Fault: "killed", GapMS: 100}, {Fault: "killed", GapMS: 2000}, {Fault: "killed", GapMS: 300}, {Fault: "parted", GapMS: 5000, WaitMS: 100}} {
		f.Add(r)
	}
	if f.MedianMS["killed"] != 300 || f.MaxMS["killed"] != 2000 || f.MaxMS["parted"] != 100 || len(f.MaxMS) != 2 {
		t.Errorf("got medians %v and maxima %v", f.MedianMS, f.MaxMS)
	}
}

func TestAnswersOtherThan503And504AreWrong(t *testing.T) {
	reasons := []proof.Reason{{Status: 503, Count: 5}, {Status: 504, Count: 2}, {Status: 500, Slug: "internal", Count: 1}, {Slug: "connection reset", Count: 1}}
	if errors, wrong := split(reasons); errors != 7 || wrong != 2 {
		t.Errorf("got %d errors and %d wrong answers, want 7 and 2", errors, wrong)
	}
}

// TestPaymentWithoutAPaidOrderIsLost: an answer 200 counts, whatever the row says.
func TestPaymentWithoutAPaidOrderIsLost(t *testing.T) {
	paid, reserved, other := uuid.New(), uuid.New(), uuid.New()
	records := proof.Records{Rows: []proof.Row{{ID: paid, Status: "paid"}, {ID: reserved, Status: "reserved"}, {ID: other, Status: "reserved"}}}
	got := unpaid(map[uuid.UUID]bool{paid: true, reserved: true}, &records)
	if len(got) != 1 || !strings.Contains(got[0], reserved.String()) {
		t.Errorf("got %q, want only order %s", got, reserved)
	}
}

func TestFindNamesAnUnknownFault(t *testing.T) {
	for table, want := range map[*Table]string{
		&Seller:   `unknown fault "nope": must be one of killed, stopped, parted`,
		&Database: `unknown fault "nope": must be one of kill, switch, cut, majority`,
	} {
		if _, err := table.Find([]string{table.Names()[0], "nope"}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
