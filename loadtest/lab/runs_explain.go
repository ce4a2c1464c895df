package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"flashsale/internal/record"
	"flashsale/loadtest/proof"
)

// explain says in words what the steps of two orders show. race says that both sold the
// same unit; otherwise some are the steps of the last unit.
func explain(some []record.Step, race bool, lost int64) string {
	var text string
	switch {
	case race:
		text = explainRace(some)
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

// sale is one order of a diagram.
type sale struct {
	read, wrote, committed *record.Step
}

// explainRace describes the two orders that sold the same unit.
func explainRace(some []record.Step) string {
	var sales []sale
	for i := range some {
		c := &some[i]
		if c.Kind != record.Committed {
			continue
		}
		one := sale{committed: c}
		for j := range some {
			s := &some[j]
			if s.Key != c.Key || s.Customer != c.Customer || s.Replica != c.Replica {
				continue
			}
			switch {
			case s.Kind == record.Read && s.Seq+1 == c.Seq:
				one.read = s
			case s.Kind == record.Wrote && s.Seq == c.Seq:
				one.wrote = s
			}
		}
		sales = append(sales, one)
	}
	if len(sales) < 2 {
		return "Two orders sold the same unit; the records lack some of their steps."
	}
	a, b := sales[0], sales[1]
	who := fmt.Sprintf("%s and %s both", a.committed.Replica, b.committed.Replica)
	if a.committed.Replica == b.committed.Replica {
		who = "Two orders at " + a.committed.Replica + " both"
	}
	left, after := unitsText(*a.committed.Before), proof.Comma(*a.committed.After)
	text := fmt.Sprintf("%s sold from %s and left %s", who, left, after)
	if a.read != nil && b.read != nil {
		first := a.committed
		moment := "before either had committed"
		if a.wrote != nil && b.wrote != nil {
			if first = a.wrote; b.wrote.Wall.Before(first.Wall) {
				first = b.wrote
			}
			moment = "before either wrote"
		}
		if a.read.Wall.After(first.Wall) || b.read.Wall.After(first.Wall) {
			moment = "before they saw each other's write"
		}
		text = fmt.Sprintf("%s read %s %s; both wrote %s", who, left, moment, after)
	}
	text += ", so the same unit was sold twice."
	for _, one := range sales[:2] {
		if one.read == nil {
			continue
		}
		if still := one.committed.Wall.Sub(one.read.Wall); still >= faultTTL {
			text += fmt.Sprintf(" %s took %s from its read to its commit: longer than the TTL, so its lock had ended, and nothing stopped its write.", one.committed.Replica, still.Round(100*time.Millisecond))
		}
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
