package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"flashsale/internal/record"
	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
)

// explain says in words what the steps of two orders show. race says that both sold the
// same unit; otherwise some are the steps of the last unit.
func explain(some []record.Step, race bool, row strategy.Strategy, lost int64) string {
	var text string
	switch {
	case race:
		text = explainRace(some, row)
	case some != nil:
		text = explainLastUnit(some)
	default:
		text = "No order was refused, and no unit was sold twice: there is nothing to draw."
	}
	if lost > 0 {
		text += fmt.Sprintf(" The records lack %s, because the disk was too slow for them.", plural(lost, "step"))
	}
	return text
}

// sale is one order of a diagram: its steps, as places in the diagram, or -1.
type sale struct {
	*record.Step                   // the commit
	locked, read, wrote, committed int
}

// salesOf returns the orders that were committed.
func salesOf(some []record.Step) (sales []sale) {
	for i := range some {
		c := &some[i]
		if c.Kind != record.Committed {
			continue
		}
		of := func(match func(record.Step) bool) int {
			return slices.IndexFunc(some, func(s record.Step) bool {
				return s.Key == c.Key && s.Customer == c.Customer && s.Replica == c.Replica && match(s)
			})
		}
		sales = append(sales, sale{
			Step:      c,
			locked:    of(func(s record.Step) bool { return s.Kind == record.Locked }),
			read:      of(func(s record.Step) bool { return s.Kind == record.Read && s.Seq+1 == c.Seq }),
			wrote:     of(func(s record.Step) bool { return s.Kind == record.Wrote && s.Seq == c.Seq }),
			committed: i,
		})
	}
	return sales
}

// explainRace describes the two orders that sold the same unit.
func explainRace(some []record.Step, row strategy.Strategy) string {
	sales := salesOf(some)
	if len(sales) < 2 {
		return "Two orders sold the same unit; the records lack some of their steps."
	}
	a, b := sales[0], sales[1]
	who := fmt.Sprintf("%s and %s both", a.Replica, b.Replica)
	if a.Replica == b.Replica {
		who = "Two orders at " + a.Replica + " both"
	}
	left, after := unitsText(*a.Before), proof.Comma(*a.After)
	text := fmt.Sprintf("%s sold from %s and left %s", who, left, after)
	if a.read >= 0 && b.read >= 0 {
		moment := "before either had committed" // by the versions that they read
		if a.wrote >= 0 && b.wrote >= 0 && max(a.read, b.read) < min(a.wrote, b.wrote) {
			moment = "before either wrote"
		}
		text = fmt.Sprintf("%s read %s %s; both wrote %s", who, left, moment, after)
	}
	text += ", so the same unit was sold twice."
	if a.locked < 0 || b.locked < 0 {
		return text
	}
	if row.Lock == strategy.Process {
		return text + " Each replica has a lock of its own, so neither waited for the other."
	}
	if a.locked > b.locked {
		a, b = b, a
	}
	if b.locked < a.committed { // b got the lock while a had it, as far as a knew
		text += fmt.Sprintf(" %s committed %s after it had got the lock. %s had got the lock in between, so the lease of %s had ended; nothing stopped its write.",
			a.Replica, a.Wall.Sub(some[a.locked].Wall).Round(100*time.Millisecond), b.Replica, a.Replica)
	}
	return text
}

// explainLastUnit describes the order that took the last unit, and one that was refused.
func explainLastUnit(some []record.Step) string {
	find := func(match func(*record.Step) bool) *record.Step {
		if i := slices.IndexFunc(some, func(s record.Step) bool { return match(&s) }); i >= 0 {
			return &some[i]
		}
		return nil
	}
	taken := find(func(s *record.Step) bool { return s.Kind == record.Committed })
	refused := find(func(s *record.Step) bool { return s.Kind == record.Refused })
	if taken == nil || refused == nil {
		return ""
	}
	same := func(s *record.Step) bool { return s.Customer == refused.Customer && s.Key == refused.Key }
	text := fmt.Sprintf("%s sold the last unit", taken.Replica)
	if left := *taken.After; left > 0 {
		text = fmt.Sprintf("%s sold a unit and left %s", taken.Replica, proof.Comma(left))
	}
	if taken.Token != 0 {
		text += fmt.Sprintf(" under token %d", taken.Token)
	}
	at := find(func(s *record.Step) bool { return s.Kind == record.Arrived && same(s) })
	switch {
	case at != nil && at.Replica != refused.Replica:
		text += fmt.Sprintf("; the other order reached %s, which forwarded it to %s, and it was refused there", at.Replica, refused.Replica)
	case at != nil && at.Wall.Before(taken.Wall):
		text += fmt.Sprintf("; the other order had already reached %s, and was refused", refused.Replica)
	default:
		text += fmt.Sprintf("; the other order reached %s afterwards, and was refused", refused.Replica)
	}
	if refused.Reason != "" {
		text += ": " + strings.TrimSuffix(refused.Reason, ".")
	}
	text += "."
	if r := find(func(s *record.Step) bool { return s.Kind == record.Rejected && same(s) }); r != nil {
		text += fmt.Sprintf(" Before that, MySQL had rejected its write: %s.", strings.TrimSuffix(r.Reason, "."))
	}
	if l := find(func(s *record.Step) bool { return s.Kind == record.Locked && same(s) }); l != nil && l.Wall.After(taken.Wall) {
		text += " It had to wait for the lock, so it read what the first one had written."
	}
	return text + " No unit was sold twice."
}

func unitsText(n int64) string { return plural(n, "unit") }

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return proof.Comma(n) + " " + noun + "s"
}
