package history

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"flashsale/loadtest/attack"
)

// The tests write a history as lines "FROM-TO CALL: ANSWER", in milliseconds, and the
// database as lines "THING STATUS", in the order of their writes. Order a1 is customer a's,
// restock +1 an administrator's:
//
//	0-10 order a1 2: 201
//	5-15 pay a1: lost
const (
	lost   = "lost"
	replay = "replay"
)

func idOf(name string) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)) }

func customerOf(name string) string {
	if name[0] == '+' {
		return ""
	}
	return name[:1]
}

// parse reads a call.
func parse(t *testing.T, line string) *call {
	t.Helper()
	asked, answer, ok := strings.Cut(line, ": ")
	words := strings.Fields(asked)
	if !ok || len(words) < 3 {
		t.Fatalf("not a call: %s", line)
	}
	c := &call{}
	var from, to int
	if _, err := fmt.Sscanf(words[0], "%d-%d", &from, &to); err != nil {
		t.Fatalf("not a call: %s: %v", line, err)
	}
	c.began, c.ended = time.Duration(from)*time.Millisecond, time.Duration(to)*time.Millisecond
	c.kind = map[string]Kind{"order": Order, "pay": Payment, "cancel": Cancellation, "restock": Restock, "read": Read}[words[1]]
	c.customer = customerOf(words[2])
	if c.kind == Order || c.kind == Restock {
		c.key = words[2]
		if _, err := fmt.Sscan(words[3], &c.quantity); err != nil {
			t.Fatalf("not a call: %s: %v", line, err)
		}
	} else {
		c.order = idOf(words[2])
	}
	switch id, other, _ := strings.Cut(answer, " "); id {
	case "201", replay:
		c.Status, c.Replayed, c.OrderID = http.StatusCreated, id == replay, idOf(words[2]+other)
	case "paid", "cancelled", "reserved":
		c.Status, c.shown = http.StatusOK, answer
	case lost:
	case "500", "503", "504":
		_, _ = fmt.Sscan(answer, &c.Status)
	default:
		c.Status, c.Reason = http.StatusConflict, answer
	}
	c.Outcome = attack.OutcomeOf(c.Status, c.Reason)
	return c
}

// lines returns the lines of a text that are not empty.
func lines(text string) []string {
	all := strings.Split(text, "\n")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return slices.DeleteFunc(all, func(line string) bool { return line == "" })
}

// judge checks a history of a SKU with 4 units.
func judge(t *testing.T, limit int, calls, rows string, available int) (*History, []string) {
	t.Helper()
	s := &sale{sku: "lamp", units: 4, limit: limit}
	asked := map[string]int{}
	for _, line := range lines(calls) {
		c := parse(t, line)
		s.calls = append(s.calls, c)
		if c.quantity > 0 {
			asked[c.key] = c.quantity
		}
	}
	r := &record{final: final{units: 4, available: available}}
	for i, line := range lines(rows) {
		name, status, _ := strings.Cut(line, " ")
		status, other, _ := strings.Cut(status, " ") // another id under the same key
		r.rows = append(r.rows, row{id: idOf(name + other), customer: customerOf(name), key: name, quantity: max(1, asked[name]), status: status, seq: uint64(i)})
		if name[0] == '+' {
			r.units += asked[name]
		}
	}
	h := &History{sales: []*sale{s}}
	report, err := h.check(t.Context(), map[string]*record{"lamp": r})
	if err != nil {
		t.Fatal(err)
	}
	return h, report.Violations
}

type example struct {
	name        string
	limit       int
	calls, rows string
	available   int
	want        string // part of the violation; "" is none
}

var right = []example{
	{name: "one call after the other", calls: `
		0-10 order a1 3: 201
		20-30 order b1 2: insufficient-stock
		40-50 order b2 1: 201
		60-70 order b3 1: sold-out
		80-90 order a1 3: replay
		100-110 pay a1: paid
		120-130 pay a1: paid
		140-150 cancel a1: already-paid
		160-170 cancel b2: cancelled
		180-190 read a1: paid
		200-210 read b2: cancelled
		220-230 pay b2: order-cancelled`,
		rows: "a1 paid\nb2 cancelled", available: 1},
	{name: "at the same time, in the other order", calls: `
		0-100 order a1 2: sold-out
		10-90 order b1 4: 201`,
		rows: "b1 reserved"},
	{name: "an order without an answer was made later", calls: `
		0-10 order a1 4: lost
		20-30 order b1 1: 201
		40-50 cancel b1: cancelled`,
		rows: "b1 cancelled\na1 reserved"},
	{name: "an order without an answer was never made", calls: `
		0-10 order a1 4: lost
		20-30 order b1 4: 201`,
		rows: "b1 reserved"},
	{name: "an order is made after its 504", calls: `
		0-10 order a1 4: 504
		20-30 order b1 4: 201
		40-50 cancel b1: cancelled
		60-70 order c1 1: sold-out`,
		rows: "b1 cancelled\na1 reserved"},
	{name: "a refusal between a lost call and its order", calls: `
		0-10 order b1 4: 201
		20-30 order a1 2: lost
		40-50 order a1 2: sold-out
		60-70 cancel b1: cancelled
		80-90 order c1 4: insufficient-stock`,
		rows: "b1 cancelled\na1 reserved", available: 2},
	{name: "a replay after sold out", calls: `
		0-10 order a1 4: 201
		20-30 order b1 1: sold-out
		40-50 order a1 4: replay`,
		rows: "a1 reserved"},
	{name: "a replay of a lost call", calls: `
		0-10 order a1 4: lost
		20-30 order b1 1: sold-out
		40-50 order a1 4: replay`,
		rows: "a1 reserved"},
	{name: "a replica's own second try is a replay", calls: "0-10 order a1 4: replay", rows: "a1 reserved"},
	{name: "one key at two replicas at once", calls: `
		0-50 order a1 4: replay
		10-60 order a1 4: 201`,
		rows: "a1 reserved"},
	{name: "returned units are sold again", calls: `
		0-10 order a1 4: 201
		20-30 cancel a1: cancelled
		40-50 order b1 4: 201
		60-70 order a1 4: replay
		80-90 cancel a1: cancelled`,
		rows: "a1 cancelled\nb1 reserved"},
	{name: "a lost cancellation and a lost payment have happened", calls: `
		0-10 order a1 2: 201
		0-10 order b1 2: 201
		20-30 cancel a1: lost
		20-30 pay b1: 504
		40-50 order c1 1: sold-out
		60-70 order c2 2: 201`,
		rows: "a1 cancelled\nb1 paid\nc2 reserved"},
	{name: "a lost cancellation and a lost payment have not happened", calls: `
		0-10 order a1 4: 201
		20-30 cancel a1: lost
		20-30 pay a1: lost
		40-50 order c1 1: sold-out
		60-70 read a1: reserved`,
		rows: "a1 reserved"},
	{name: "a restock, its replay, and a lost one", calls: `
		0-10 order a1 4: 201
		20-30 restock +1 2: 201
		40-50 restock +1 2: replay
		60-70 restock +2 1: lost
		80-90 order b1 3: 201`,
		rows: "a1 reserved\n+1 made\n+2 made\nb1 reserved"},
	{name: "the limit counts what is held", limit: 2, calls: `
		0-10 order a1 2: 201
		20-30 order a2 1: customer-limit
		40-50 order b1 1: 201
		60-70 cancel a1: cancelled
		80-90 order a3 2: 201`,
		rows: "a1 cancelled\nb1 reserved\na3 reserved", available: 1},
	{name: "a 503 and then an answer", calls: `
		0-10 order a1 4: 503
		20-30 order a1 4: 201`,
		rows: "a1 reserved"},
	{name: "in flight", calls: `
		0-100 order a1 4: 201
		10-20 order a1 4: request-in-flight`,
		rows: "a1 reserved"},
}

var wrong = []example{
	{name: "oversold by one", calls: `
		0-50 order a1 3: 201
		10-60 order b1 2: 201`,
		rows: "a1 reserved\nb1 reserved", available: -1, want: "but 1 units were available"},
	{name: "a lost order", calls: `
		0-10 order a1 3: 201
		20-30 order b1 1: 201`,
		rows: "b1 reserved", available: 3, want: "which was answered, has no row"},
	{name: "a 201 without a row, whose units were taken", calls: "0-10 order a1 3: 201", available: 1, want: "which was answered, has no row"},
	{name: "a replay without a row", calls: "0-10 order a1 3: lost\n20-30 order a1 3: replay", available: 4, want: "which was answered, has no row"},
	{name: "an order twice under one key", calls: `
		0-50 order a1 1: 201
		10-60 order a1 1: 201 second`,
		rows: "a1 reserved\na1 reserved second", available: 2, want: "another one with this key existed already"},
	{name: "two answers have made one order", calls: `
		0-10 order a1 1: 201
		20-30 order a1 1: 201`,
		rows: "a1 reserved", available: 3, want: "it existed already"},
	{name: "a second row that was never answered", calls: "0-10 order a1 1: 201",
		rows: "a1 reserved\na1 reserved second", available: 2, want: "belongs to no call that made it"},
	{name: "an unexplained order", calls: "0-10 order a1 1: 201", rows: "a1 reserved\nb1 reserved", available: 2, want: "belongs to no call that made it"},
	{name: "applied after a 503", calls: `
		0-10 order a1 1: 201
		20-30 order b1 2: 503`,
		rows: "a1 reserved\nb1 reserved", available: 1, want: "belongs to no call that made it"},
	{name: "applied after a refusal", calls: `
		0-10 order a1 4: 201
		20-30 order b1 2: sold-out
		40-50 cancel a1: cancelled`,
		rows: "a1 cancelled\nb1 reserved", available: 2, want: "belongs to no call that made it"},
	{name: "a refusal before the replay", calls: `
		0-10 order a1 4: 201
		20-30 order a1 4: sold-out`,
		rows: "a1 reserved", want: "must be replayed before any refusal"},
	{name: "a refusal after the replay of a lost call", calls: `
		0-10 order a1 4: lost
		20-30 order a1 4: replay
		40-50 order a1 4: sold-out`,
		rows: "a1 reserved", want: "must be replayed before any refusal"},
	{name: "sold out while units were there throughout", calls: `
		0-10 order a1 2: 201
		20-30 order b1 1: sold-out`,
		rows: "a1 reserved", available: 2, want: "but 2 units were available"},
	{name: "sold out by an order that began later", calls: `
		0-10 order b1 1: sold-out
		20-30 order a1 4: 201`,
		rows: "a1 reserved", want: "but 4 units were available"},
	{name: "insufficient while there is nothing", calls: `
		0-10 order a1 4: 201
		20-30 order b1 1: insufficient-stock`,
		rows: "a1 reserved", want: "but 0 units were available"},
	{name: "units return twice", calls: `
		0-10 order a1 2: 201
		20-30 cancel a1: cancelled
		40-50 cancel a1: cancelled`,
		rows: "a1 cancelled", available: 6, want: "the calls leave 4 units available, but the database has 6"},
	{name: "units that returned twice are sold", calls: `
		0-10 order a1 4: 201
		20-30 cancel a1: cancelled
		40-50 cancel a1: cancelled
		60-70 order b1 4: 201
		80-90 order c1 1: 201`,
		rows: "a1 cancelled\nb1 reserved\nc1 reserved", available: 3, want: "but 0 units were available"},
	{name: "units do not return", calls: `
		0-10 order a1 4: 201
		20-30 cancel a1: cancelled
		40-50 order b1 1: sold-out`,
		rows: "a1 cancelled", want: "but 4 units were available"},
	{name: "the limit is exceeded", limit: 2, calls: `
		0-50 order a1 1: 201
		10-60 order a2 2: 201`,
		rows: "a1 reserved\na2 reserved", available: 1, want: "a held 1 units of at most 2"},
	{name: "refused below the limit", limit: 2, calls: `
		0-10 order a1 1: 201
		20-30 order a2 1: customer-limit`,
		rows: "a1 reserved", available: 3, want: "the customer held 1 units of at most 2"},
	{name: "a cancelled order is paid", calls: `
		0-10 order a1 1: 201
		20-30 cancel a1: cancelled
		40-50 pay a1: paid`,
		rows: "a1 cancelled", available: 4, want: "but the order was cancelled"},
	{name: "paid and cancelled at once", calls: `
		0-10 order a1 1: 201
		20-50 cancel a1: cancelled
		30-60 pay a1: paid`,
		rows: "a1 paid", available: 4, want: "but the"},
	{name: "a payment is lost", calls: `
		0-10 order a1 1: 201
		20-30 pay a1: paid`,
		rows: "a1 reserved", available: 3, want: "is reserved, but the calls leave it paid"},
	{name: "a payment that nobody made", calls: "0-10 order a1 1: 201", rows: "a1 paid", available: 3, want: "is paid, but the calls leave it reserved"},
	{name: "a read goes back", calls: `
		0-10 order a1 1: 201
		20-30 pay a1: paid
		40-50 read a1: reserved`,
		rows: "a1 paid", available: 3, want: "but it was paid"},
	{name: "a restock is applied twice", calls: `
		0-10 order a1 4: 201
		20-30 restock +1 2: 201
		40-50 restock +1 2: replay`,
		rows: "a1 reserved\n+1 made", available: 4, want: "the calls leave 2 units available, but the database has 4"},
	{name: "a restock is made twice", calls: `
		0-10 order a1 4: 201
		20-30 restock +1 2: 201
		40-50 restock +1 2: 201 second`,
		rows: "a1 reserved\n+1 made\n+1 made second", available: 4, want: "another one with this key existed already"},
	{name: "a restock is lost", calls: `
		0-10 order a1 4: 201
		20-30 restock +1 2: 201
		40-50 order b1 1: sold-out`,
		rows: "a1 reserved", want: "but 2 units were available"},
	{name: "an order expires", calls: "0-10 order a1 4: 201", rows: "a1 expired", available: 4, want: "is expired, but the calls leave it reserved"},
	{name: "an internal error", calls: "0-10 order a1 4: 201\n20-30 order b1 1: 500", rows: "a1 reserved", want: "an internal error"},
	{name: "an answer of another call", calls: "0-10 order a1 4: 201\n20-30 order b1 1: price-changed", rows: "a1 reserved", want: "must not get"},
	{name: "nothing was sold", calls: "0-10 order a1 4: 503", available: 4, want: "the history shows nothing"},
}

func TestRightHistoriesPass(t *testing.T) {
	for _, tt := range right {
		if _, got := judge(t, tt.limit, tt.calls, tt.rows, tt.available); len(got) > 0 {
			t.Errorf("%s: got violations %s", tt.name, strings.Join(got, "\n"))
		}
	}
}

func TestWrongHistoriesAreCaught(t *testing.T) {
	for _, tt := range wrong {
		_, got := judge(t, tt.limit, tt.calls, tt.rows, tt.available)
		if !slices.ContainsFunc(got, func(v string) bool { return strings.Contains(v, tt.want) }) {
			t.Errorf("%s: got violations %q, want one with %q", tt.name, got, tt.want)
		}
	}
}

func TestViolationIsDescribedAndDrawn(t *testing.T) {
	h, got := judge(t, 0, "0-10 order a1 3: 201\n20-30 order b1 2: 201", "a1 reserved\nb1 reserved", -1)
	want := "lamp: not linearizable: 1 of 3 operations fit in an order; then 1 units are available, and none of the next fits:\n" +
		"  b orders 2 with key b1 at replica 1, 0.020000-0.030000 s: 201, " + idOf("b1").String() + "\n" +
		"    but 1 units were available\n" +
		"  the last operations before:\n" +
		"  a orders 3 with key a1 at replica 1, 0.000000-0.010000 s: 201, " + idOf("a1").String()
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	paths, err := h.Visualize(t.TempDir())
	if err != nil || len(paths) != 1 {
		t.Fatalf("got %q, %v", paths, err)
	}
	page, err := os.ReadFile(paths[0])
	if err != nil || !strings.Contains(string(page), "b orders 2 with key b1") {
		t.Errorf("the picture does not show the order: %v", err)
	}
}
