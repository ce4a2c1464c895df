package history

import (
	"fmt"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
)

// model is the sequential specification of one SKU, with the operations of its history,
// or that of one order's life.
//
// An order that was not cancelled in the end holds its units from its creation on,
// whatever its status. So its payments and reads, which all began after a 201, are a
// history of their own: linearizability is local. That keeps both short.
//
// An operation takes effect at one moment between its begin and its end. The history is
// linearizable if there are such moments that step allows, one operation after the other,
// from the SKU's creation to the database's content after all calls.
type model struct {
	sku          string
	units, limit int
	entries      []*entry
	ops          []*op // by begin
	looks        []*op // those of them that may change nothing
	end          final
	life         bool // of the only entry
}

// entry is an order or a restock: what an idempotency key may stand for.
type entry struct {
	customer, key string
	id            uuid.UUID
	quantity      int
	restock       bool
	// row is the mark of its row; absent if it has none.
	row mark
	// seq is the write that made the row, and before the number of rows with a smaller
	// one. MySQL counts a SKU's writes in seq, so that rows were made in this order. Without
	// this help the check of a history with many ambiguous calls would take for ever. counts
	// is unset for an entry without a row, or whose row no call explains.
	seq    uint64
	before int
	counts bool
}

// mark is what has become of an entry.
type mark byte

const (
	absent    mark = '-'
	reserved  mark = 'r'
	paid      mark = 'p'
	cancelled mark = 'c'
	expired   mark = 'e' // only of a row, where it is wrong
	restocked mark = '+'
)

var marks = map[string]mark{"reserved": reserved, "paid": paid, "cancelled": cancelled}

func (m mark) String() string {
	for name, mark := range marks {
		if mark == m {
			return name
		}
	}
	return map[mark]string{absent: "absent", expired: "expired", restocked: "made"}[m]
}

// final is what the database holds after all calls.
type final struct{ units, available int }

// verb is what an operation does.
type verb uint8

const (
	makes        verb = iota // an order or a restock
	pays                     // also again
	cancels                  // also again
	ends                     // compares the database with the state
	shows                    // an order's status, or that an order or a restock exists
	soldOut                  // refuses an order: the rest refuse, too
	insufficient             // fewer units than the order's are available
	overLimit                // the customer would hold too much
)

// op is one operation: an answered call, or what calls without an answer have done.
type op struct {
	verb
	entry int // its index; -1 for a refusal, which has none
	// mark is what shows has shown; restocked and reserved stand for any but absent.
	mark         mark
	call         *call // nil for ends
	began, ended time.Duration
	// looksBefore are the looks that began before this operation.
	looksBefore int
	look        int // its index in looks; -1 if it is none
}

// state is comparable and small.
type state struct {
	available int
	made      int    // entries that count and have been made
	marks     string // a mark for each entry
	looked    string // a byte for each look that was made
}

func (m *model) initial() state {
	first := absent
	if m.life {
		first = reserved
	}
	return state{available: m.units, marks: strings.Repeat(string(first), len(m.entries)), looked: strings.Repeat("-", len(m.looks))}
}

// step is apply, with looks made as soon as they are possible and change nothing: another
// operation has to wait for those that began before it. That loses nothing, as a look that
// is made earlier forbids no other operation. It saves the search through all orders of
// the looks, which are exponentially many.
func (m *model) step(s state, o *op) (state, bool) {
	for i, look := range m.looks[:o.looksBefore] {
		if s.looked[i] == '-' {
			if next, why := m.apply(s, look, false); why == "" && next == s {
				return s, false
			}
		}
	}
	next, why := m.apply(s, o, false)
	if o.look >= 0 {
		next.looked = set(s.looked, o.look, '+')
	}
	return next, why == ""
}

// apply returns the state after an operation, or why it is impossible in s: in words if
// they are wanted.
func (m *model) apply(s state, o *op, words bool) (next state, why string) {
	no := func(format string, args ...any) (state, string) {
		if !words {
			return s, "no"
		}
		return s, fmt.Sprintf(format, args...)
	}
	if o.verb == ends {
		return s, m.differs(s)
	}
	if o.verb >= soldOut {
		if i := m.existing(s, o.call.customer, o.call.key); i >= 0 {
			return no("an order with this key existed already, and must be replayed before any refusal")
		}
	}
	var e *entry
	var at mark
	if o.entry >= 0 {
		e, at = m.entries[o.entry], mark(s.marks[o.entry])
	}
	switch o.verb {
	case makes:
		held := m.held(s, e.customer)
		switch {
		case at != absent:
			return no("it existed already")
		case m.existing(s, e.customer, e.key) >= 0:
			return no("another one with this key existed already")
		case s.made < e.before:
			return no("its row was written as number %d, by seq, but %d writes were made", e.before+1, s.made)
		case !e.restock && s.available < e.quantity:
			return no("%d units were available", s.available)
		case !e.restock && m.limit > 0 && held+e.quantity > m.limit:
			return no("%s held %d units of at most %d", e.customer, held, m.limit)
		}
		if e.counts {
			s.made++
		}
		if e.restock {
			s.available += e.quantity
			return s.with(o.entry, restocked), ""
		}
		s.available -= e.quantity
		return s.with(o.entry, reserved), ""
	case pays:
		if at != reserved && at != paid {
			return no("the order was %s", at)
		}
		return s.with(o.entry, paid), ""
	case cancels:
		switch at {
		case reserved:
			s.available += e.quantity
			return s.with(o.entry, cancelled), ""
		case cancelled:
			return s, ""
		}
		return no("the order was %s", at)
	case shows:
		if at == absent || o.call.kind != Order && o.call.kind != Restock && at != o.mark {
			return no("it was %s", at)
		}
		return s, ""
	case soldOut:
		if s.available != 0 {
			return no("%d units were available", s.available)
		}
		return s, ""
	case insufficient:
		if s.available == 0 || s.available >= o.call.quantity {
			return no("%d units were available", s.available)
		}
		return s, ""
	}
	if held := m.held(s, o.call.customer); m.limit == 0 || held+o.call.quantity <= m.limit { // overLimit
		return no("the customer held %d units of at most %d", held, m.limit)
	}
	return s, ""
}

func (s state) with(entry int, m mark) state {
	s.marks = set(s.marks, entry, byte(m))
	return s
}

func set(text string, i int, b byte) string {
	if text[i] == b {
		return text
	}
	changed := []byte(text)
	changed[i] = b
	return string(changed)
}

// existing returns the index of what was made with the key; -1 if there is nothing.
func (m *model) existing(s state, customer, key string) int {
	for i, e := range m.entries {
		if e.key == key && e.customer == customer && mark(s.marks[i]) != absent {
			return i
		}
	}
	return -1
}

func (m *model) held(s state, customer string) int {
	held := 0
	for i, e := range m.entries {
		if at := mark(s.marks[i]); e.customer == customer && (at == reserved || at == paid) {
			held += e.quantity
		}
	}
	return held
}

// differs says how the database differs from s, or nothing.
func (m *model) differs(s state) string {
	units := m.units
	for i, e := range m.entries {
		what := "order"
		if e.restock {
			what = "restock"
			units += e.quantity
		}
		switch at := mark(s.marks[i]); {
		case at == e.row:
		case e.row == absent:
			return fmt.Sprintf("the %s %s (key %s), which was answered, has no row", what, e.id, e.key)
		case at == absent:
			return fmt.Sprintf("the row of the %s %s (key %s) belongs to no call that made it", what, e.id, e.key)
		default:
			return fmt.Sprintf("the row of the %s %s (key %s) is %s, but the calls leave it %s", what, e.id, e.key, e.row, at)
		}
	}
	switch {
	case m.life:
	case m.end.available != s.available:
		return fmt.Sprintf("the calls leave %d units available, but the database has %d", s.available, m.end.available)
	case m.end.units != units:
		return fmt.Sprintf("%d units were put on sale, but the database has %d", units, m.end.units)
	}
	return ""
}

// describe describes what operations have left.
func (m *model) describe(s state) string {
	if m.life {
		return "the order is " + mark(s.marks[0]).String()
	}
	return fmt.Sprintf("%d units are available", s.available)
}

// porcupine returns the model for the checker. Each step asks ended, which ends a check.
func (m *model) porcupine(ended func() bool) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return m.initial() },
		Step: func(s, o, _ any) (bool, any) {
			if ended() {
				return false, s
			}
			next, ok := m.step(s.(state), o.(*op))
			return ok, next
		},
		DescribeOperation: func(o, _ any) string { return o.(*op).String() },
		DescribeState:     func(s any) string { return m.describe(s.(state)) },
	}
}

// operations returns the history for the checker. Each lane is a caller that makes one
// call after the other, for the picture.
func (m *model) operations() []porcupine.Operation {
	var lanes []time.Duration // when the last call of each ended
	all := make([]porcupine.Operation, len(m.ops))
	for i, o := range m.ops {
		lane := 0
		for lane < len(lanes) && lanes[lane] >= o.began {
			lane++
		}
		if lane == len(lanes) {
			lanes = append(lanes, 0)
		}
		lanes[lane] = o.ended
		all[i] = porcupine.Operation{ClientId: lane, Input: o, Call: int64(o.began), Return: int64(o.ended)}
	}
	return all
}

func (o *op) String() string {
	switch {
	case o.call == nil:
		return "the database at the end"
	case o.call.ambiguous():
		return "its effect, by the database, of: " + o.call.String()
	}
	return o.call.String()
}
