package lab

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"flashsale/internal/record"
	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
)

// Diagram is a sequence diagram: what several actors did, in the order of time. Runs,
// lessons and games are all drawn from it, by diagram.js.
type Diagram struct {
	Lanes []Lane        `json:"lanes"`
	Steps []DiagramStep `json:"steps"`
}

// Lane is one actor, in the order from left to right.
type Lane struct {
	Name string `json:"name"`
	// Kind is "replica", "buyer", "database", "lock" or "other".
	Kind string `json:"kind"`
}

// DiagramStep is something that an actor did.
type DiagramStep struct {
	// US is the time since the first step, in microseconds.
	US   int64 `json:"us"`
	Lane int   `json:"lane"`
	// To is the lane that an arrow goes to, or Lane for a step without an arrow.
	To int `json:"to"`
	// Kind gives the step its look: "order", "read", "write", "commit", "lock", "refuse",
	// "forward", "answer", "fault" or "note".
	Kind string `json:"kind"`
	Text string `json:"text"`
	// Order tells the orders of the diagram apart: 1, 2 and so on; 0 for none.
	Order int `json:"order"`
	// Wrong marks the steps without which the unit would not have been sold twice.
	Wrong bool `json:"wrong"`
	// Detail has what the record says, line by line.
	Detail []string `json:"detail"`
}

// actor is whom a recorded step is about.
type actor int

const (
	buyer actor = iota
	replica
	other // the replica in To
	store
	locks
)

// drawn has how each kind of step is drawn. Other kinds are about the file, not about orders.
var drawn = map[record.Kind]struct {
	kind     string
	from, to actor
	text     func(s *record.Step) string
}{
	record.Arrived:    {"order", buyer, replica, func(s *record.Step) string { return "orders " + testbed.Units(int64(s.Quantity)) }},
	record.Read:       {"read", replica, store, func(s *record.Step) string { return "reads: " + left(s.Before) }},
	record.Wrote:      {"write", replica, store, func(s *record.Step) string { return "writes: " + left(s.After) }},
	record.Committed:  {"commit", replica, store, func(s *record.Step) string { return "commits: " + left(s.After) }},
	record.Rejected:   {"refuse", store, replica, func(s *record.Step) string { return "no effect: " + lastPart(s.Reason) }},
	record.Unknown:    {"fault", store, replica, words("the answer to the commit is lost")},
	record.Took:       {"write", replica, store, func(s *record.Step) string { return "takes " + testbed.Units(int64(s.Quantity)) + ": " + left(s.After) }},
	record.GaveBack:   {"write", replica, store, func(s *record.Step) string { return "gives back " + testbed.Units(int64(s.Quantity)) }},
	record.Forwarded:  {"forward", replica, other, words("forwards the order")},
	record.Refused:    {"refuse", replica, replica, func(s *record.Step) string { return "refuses: " + s.Reason }},
	record.Replayed:   {"note", replica, replica, words("the key has this order already")},
	record.Answered:   {"answer", replica, buyer, answered},
	record.LockAsked:  {"lock", replica, locks, words("asks for the lock")},
	record.Locked:     {"lock", locks, replica, granted},
	record.LockFailed: {"refuse", locks, replica, func(s *record.Step) string { return "no lock: " + lastPart(s.Reason) }},
	record.Claimed: {"lock", replica, store, func(s *record.Step) string {
		return fmt.Sprintf("claims with token %d, reads: %s", s.Token, left(s.Before))
	}},
	record.Unlocked: {"lock", replica, locks, words("releases the lock")},
	record.LockLost: {"fault", locks, replica, words("the lock had already ended")},
	record.TookOver: {"fault", replica, locks, func(s *record.Step) string { return "takes over the lock of " + s.To + ": it is " + s.Reason }},
	record.Dropped:  {"note", replica, replica, func(s *record.Step) string { return fmt.Sprintf("%d steps are missing here", s.Lost) }},
}

func words(text string) func(*record.Step) string { return func(*record.Step) string { return text } }

func granted(s *record.Step) string {
	if s.Token == 0 {
		return "grants the lock"
	}
	return fmt.Sprint("grants the lock, token ", s.Token)
}

// answered is what the buyer is told, without the error behind it.
func answered(s *record.Step) string {
	reason, _, _ := strings.Cut(s.Reason, ": ")
	return "answers: " + reason
}

func lastPart(reason string) string { return reason[strings.LastIndex(": "+reason, ": "):] }

func left(n *int64) string {
	if n == nil {
		return "no row"
	}
	return testbed.Units(*n) + " left"
}

// diagramOf draws recorded steps, which must be in the order of time. Started steps are
// not drawn; if there are any, their strategy names the lane of the lock. diagramOf
// returns nil if nothing is left to draw.
func diagramOf(some []record.Step) *Diagram {
	var of strategy.Strategy
	if i := slices.IndexFunc(some, func(s record.Step) bool { return s.Kind == record.Started }); i >= 0 {
		of, _ = strategy.Find(some[i].Strategy)
	}
	some = slices.DeleteFunc(slices.Clone(some), func(s record.Step) bool { _, ok := drawn[s.Kind]; return !ok })
	if len(some) == 0 {
		return nil
	}
	d := &Diagram{Lanes: lanesOf(some, of)}
	wrong := soldTwice(some)
	var orders [][2]string
	for i, s := range some {
		look := drawn[s.Kind]
		lane := func(a actor) int { return slices.Index(d.Lanes, laneOf(a, &s, of)) }
		step := DiagramStep{
			US: s.Wall.Sub(some[0].Wall).Microseconds(), Lane: lane(look.from), To: lane(look.to),
			Kind: look.kind, Text: look.text(&s), Wrong: wrong[i], Detail: detailOf(&s),
		}
		if s.Key != "" {
			order := [2]string{s.Customer, s.Key}
			if !slices.Contains(orders, order) {
				orders = append(orders, order)
			}
			step.Order = slices.Index(orders, order) + 1
		}
		if slices.ContainsFunc(some[i:], func(later record.Step) bool { return later.Wall.Before(s.Wall) }) {
			step.Detail = append(step.Detail, "recorded late: it happened before a step that was recorded earlier")
		}
		d.Steps = append(d.Steps, step)
	}
	for i, lane := range d.Lanes {
		if strings.HasPrefix(lane.Name, "buyer-") { // a name of the load, which is long and says nothing
			d.Lanes[i].Name = fmt.Sprint("buyer ", i+1) // buyers come first
		}
	}
	return d
}

// lanesOf returns buyers in the order of their orders, then replicas, databases and locks.
func lanesOf(some []record.Step, of strategy.Strategy) []Lane {
	var lanes []Lane
	for _, s := range some {
		for _, a := range []actor{drawn[s.Kind].from, drawn[s.Kind].to} {
			if l := laneOf(a, &s, of); !slices.Contains(lanes, l) {
				lanes = append(lanes, l)
			}
		}
	}
	kinds := []string{"buyer", "replica", "database", "lock"}
	slices.SortStableFunc(lanes, func(a, b Lane) int {
		if a.Kind == b.Kind && a.Kind != "buyer" {
			return cmp.Compare(a.Name, b.Name)
		}
		return slices.Index(kinds, a.Kind) - slices.Index(kinds, b.Kind)
	})
	return lanes
}

func laneOf(a actor, s *record.Step, of strategy.Strategy) Lane {
	switch {
	case a == buyer:
		return Lane{s.Customer, "buyer"}
	case a == replica:
		return Lane{s.Replica, "replica"}
	case a == other:
		return Lane{s.To, "replica"}
	case a == store && s.In != "":
		return Lane{s.In, "database"}
	case a == store:
		return Lane{"MySQL", "database"}
	case of.Lock == strategy.Process:
		return Lane{"mutex of " + s.Replica, "lock"}
	}
	return Lane{cmp.Or(lockServers[of.Server], "lock"), "lock"}
}

var lockServers = map[strategy.Server]string{
	strategy.InEtcd: "etcd", strategy.InZooKeeper: "ZooKeeper", strategy.InRedis: "Redis", strategy.InRedlock: "Redlock",
	strategy.InMemcached: "memcached", strategy.InKubernetes: "Kubernetes",
}

// soldTwice returns the places of the reads and writes of two orders that sold the same
// unit, if there are such orders: both orders wrote the version after the one that both
// had read.
func soldTwice(some []record.Step) map[int]bool {
	for i, a := range some {
		for _, b := range some[i+1:] {
			if a.Kind != record.Committed || b.Kind != record.Committed || a.Seq != b.Seq || a.Order == b.Order ||
				*a.After >= *b.Before || *b.After >= *a.Before {
				continue
			}
			wrong := map[int]bool{}
			for _, c := range []record.Step{a, b} {
				of := func(kind record.Kind, seq uint64) {
					for j, s := range some {
						if s.Kind == kind && s.Seq == seq && s.In == c.In && s.Customer == c.Customer && s.Key == c.Key {
							wrong[j] = true
						}
					}
				}
				of(record.Read, c.Seq-1)
				before := len(wrong)
				if of(record.Wrote, c.Seq); len(wrong) == before {
					of(record.Committed, c.Seq) // the write was in one packet with the commit
				}
			}
			return wrong
		}
	}
	return nil
}

// detailOf has the fields of a record that apply, in plain words.
func detailOf(s *record.Step) []string {
	lines := []string{fmt.Sprintf("step %q of %s, %.6f s after its start", s.Kind, s.Replica, s.Mono.Seconds())}
	add := func(known bool, format string, args ...any) {
		if known {
			lines = append(lines, fmt.Sprintf(format, args...))
		}
	}
	add(s.Before != nil && s.After == nil, "available %d", value(s.Before))
	add(s.After != nil, "available %d, before %d", value(s.After), value(s.Before))
	add(s.Before != nil && s.In == "", "seq %d", s.Seq)
	add(s.In != "", "revision %d in %s", s.Seq, s.In)
	add(s.Token != 0, "token %d", s.Token)
	add(s.Order != "", "order %s", s.Order)
	add(s.Key != "", "customer %s, key %s", s.Customer, s.Key)
	add(s.To != "", "to %s", s.To)
	add(s.Reason != "", "reason: %s", s.Reason)
	return lines
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}
