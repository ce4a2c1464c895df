package stock

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"flashsale/internal/strategy"
)

// These statements have no placeholders, for which the driver would search the whole
// packet. SKUs are hexadecimal, so that nothing must be escaped.

// Take takes units from a row, of which the claim's holder has the copy Row, for orders
// made at a time of the database's clock.
type Take struct {
	Claim Claim
	Row   Row
	Units int64
	At    time.Time
}

// ClockTolerance is how much the time of orders may differ from the database's clock when
// they are written. A desk extrapolates that clock by its own, which stops while the host
// is suspended. The tolerance is longer than a batch waits for the previous transaction,
// and much shorter than any payment window.
const ClockTolerance = 3 * time.Second

// Statement takes the units. It changes one row, or none if Condition is false.
func (t Take) Statement() string {
	set := fmt.Sprintf("available = %d, seq = %d", t.Row.Available-t.Units, t.Row.Seq+1)
	switch t.Claim.Fence {
	case strategy.FenceWrite:
		set += fmt.Sprintf(", fence = %d", t.Claim.Token)
	case strategy.FenceClaim:
		set = fmt.Sprintf("available = available - %d, seq = seq + 1, fence = %d", t.Units, t.Claim.Token)
	}
	return "UPDATE stock SET " + set + ", updated_at = NOW(6) WHERE " + t.Condition()
}

// Condition is true if the fence admits the take and the SKU is not withdrawn. With
// FenceClaim the row must be as in the copy, the sale open, and the orders' time near the
// database's.
func (t Take) Condition() string {
	switch t.Claim.Fence {
	case strategy.FenceOff:
		return fmt.Sprintf("sku = x'%x' AND withdrawn_at IS NULL", t.Claim.SKU)
	case strategy.FenceWrite:
		return fmt.Sprintf("sku = x'%x' AND fence <= %d AND withdrawn_at IS NULL", t.Claim.SKU, t.Claim.Token)
	}
	return t.claimed() + " AND " + between(t.window())
}

// Admits is Condition with FenceClaim, for a row that is not in MySQL. The simulation of
// the order path uses it.
func (t Take) Admits(row *Stock, now time.Time) bool {
	from, until := t.window()
	return row.SKU == t.Claim.SKU && !now.Before(from.Truncate(time.Microsecond)) && now.Before(until.Truncate(time.Microsecond)) &&
		!slices.ContainsFunc(t.guards(), func(g guard) bool { return !g.holds(row) })
}

// guard is a condition on a column of the row.
type guard struct {
	column string
	of     func(*Stock) int64
	op     string // = or >=
	want   int64
}

func (g guard) holds(row *Stock) bool {
	got := g.of(row)
	return got == g.want || got > g.want && g.op == ">="
}

// guards are the conditions on the row with FenceClaim.
func (t Take) guards() []guard {
	return []guard{
		{"fence", func(s *Stock) int64 { return int64(s.Fence) }, "=", int64(t.Claim.Token)},
		{"seq", func(s *Stock) int64 { return int64(s.Seq) }, "=", int64(t.Row.Seq)},
		{"available", func(s *Stock) int64 { return s.Available }, ">=", t.Units},
	}
}

// claimed is the condition on the row with FenceClaim.
func (t Take) claimed() string {
	text := fmt.Appendf(nil, "sku = x'%x'", t.Claim.SKU)
	for _, g := range t.guards() {
		text = fmt.Appendf(text, " AND %s %s %d", g.column, g.op, g.want)
	}
	return string(text)
}

// window is when the units may be taken. The copy of the sale's window is current if the
// row is, because a change of it moves seq.
func (t Take) window() (from, until time.Time) {
	from, until = t.At.Add(-ClockTolerance), t.At.Add(ClockTolerance)
	for _, starts := range []*time.Time{t.Row.VisibleFrom, t.Row.SaleStartsAt} {
		if starts != nil {
			from = later(from, *starts)
		}
	}
	if t.Row.SaleEndsAt != nil {
		until = earlier(until, *t.Row.SaleEndsAt)
	}
	return from, until
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// between is a condition on the database's clock.
func between(from, until time.Time) string {
	return fmt.Sprintf("NOW(6) >= '%s' AND NOW(6) < '%s'", from.UTC().Format(DateTime), until.UTC().Format(DateTime))
}

// DateTime is the layout of a DATETIME(6) literal.
const DateTime = "2006-01-02 15:04:05.000000"

// takeTogether is how many SKUs share one statement. A statement for each SKU costs the
// server three times an order's INSERT; a statement for more SKUs compares each row with
// half of their names.
const takeTogether = 32

// WriteTakes writes the statements that take the units of several SKUs. If some units
// were not taken, they stop the packet with an error that IsStopped recognizes.
func WriteTakes(b *strings.Builder, takes []Take) {
	for len(takes) > 0 {
		n := 1
		for n < min(len(takes), takeTogether) && takes[0].Claim.Fence == strategy.FenceClaim && takes[n].Claim.Fence == strategy.FenceClaim {
			n++
		}
		if n == 1 {
			b.WriteString(takes[0].Statement())
		} else {
			b.WriteString(together(takes[:n]))
		}
		fmt.Fprintf(b, "; "+stopUnless+"; ", n)
		takes = takes[n:]
	}
}

// together is the statement that takes the units of several SKUs with FenceClaim.
func together(takes []Take) string {
	var cases, conditions []string
	from, until := takes[0].window()
	for _, t := range takes {
		cases = append(cases, fmt.Sprintf(" WHEN x'%x' THEN %d", t.Claim.SKU, t.Units))
		conditions = append(conditions, t.claimed())
		starts, ends := t.window()
		from, until = later(from, starts), earlier(until, ends)
	}
	return "UPDATE stock SET available = available - CASE sku" + strings.Join(cases, "") + " END, seq = seq + 1, updated_at = NOW(6) WHERE " +
		between(from, until) + " AND (" + strings.Join(conditions, " OR ") + ")"
}

// stopUnless is a statement that fails, with an error that IsStopped recognizes, unless
// the statement before it changed that many rows. The server then skips the rest of the
// packet, and the transaction stays open until ROLLBACK.
//
// It assigns a variable because MariaDB's DO ignores errors.
const stopUnless = "SET @stop = IF(ROW_COUNT() = %d, 0, (SELECT 1 UNION SELECT 2))"

// StopIf is a statement that stops the packet in the same way if a condition is true or
// NULL, but with an error that IsStoppedIf recognizes: the largest integer plus one.
func StopIf(condition string) string {
	return "SET @stop = 9223372036854775807 + IF(NOT (" + condition + "), 0, 1)"
}

// Stop is stopUnless for one row.
var Stop = fmt.Sprintf(stopUnless, 1)

// errManyRows is the error of a subquery that returns more than one row.
const errManyRows = 1242

// errOutOfRange is the error of an integer that is too large.
const errOutOfRange = 1690

// IsStopped reports whether err comes from Stop or WriteTakes.
func IsStopped(err error) bool { return serverError(err) == errManyRows }

// IsStoppedIf reports whether err comes from StopIf.
func IsStoppedIf(err error) bool { return serverError(err) == errOutOfRange }
