package stock

import (
	"fmt"
	"strings"
	"time"

	"flashsale/internal/strategy"
)

// This file is the text of what takes units behind a fence. It has no arguments: the
// driver would look for their places in all of the packet. SKUs are written in
// hexadecimal digits, in which nothing has to be escaped.

// Take is units to be taken from a row as a tenure knows it, for orders that are
// made at a time by the database's clock.
type Take struct {
	Claim Claim
	Row   Row
	Units int64
	At    time.Time
}

// ClockTolerance is how far the time of a batch's orders may be from the database's
// when they are written. A tenure extrapolates the database's clock by its own,
// which stands still while the host is suspended, and knows of no step of the
// other. It is longer than a batch waits for the transaction before it, and far
// shorter than any payment window.
const ClockTolerance = 3 * time.Second

// Statement takes the units. It changes one row, or none where the Condition does
// not hold.
func (t Take) Statement() string {
	set := fmt.Sprintf("available = %d, seq = %d", t.Row.Available-t.Units, t.Row.Seq+1)
	switch t.Claim.Fence {
	case strategy.FenceOff:
	case strategy.FenceWrite:
		set += fmt.Sprintf(", fence = %d", t.Claim.Token)
	default: // FenceClaim
		set = fmt.Sprintf("available = available - %d, seq = seq + 1, fence = %d", t.Units, t.Claim.Token)
	}
	return "UPDATE stock SET " + set + ", updated_at = NOW(6) WHERE " + t.Condition()
}

// Condition is when units are taken: where the row is as the tenure knows it. Behind
// FenceClaim the sale must be open as well, and the orders' time near the
// database's.
func (t Take) Condition() string {
	if t.Claim.Fence == strategy.FenceOff || t.Claim.Fence == strategy.FenceWrite {
		return t.guard()
	}
	from, until := t.window()
	return t.guard() + " AND " + between(from, until)
}

// guard is the condition on the row.
func (t Take) guard() string {
	switch t.Claim.Fence {
	case strategy.FenceOff:
		return fmt.Sprintf("sku = x'%x'", t.Claim.SKU)
	case strategy.FenceWrite:
		return fmt.Sprintf("sku = x'%x' AND fence <= %d", t.Claim.SKU, t.Claim.Token)
	default: // FenceClaim
		return fmt.Sprintf("sku = x'%x' AND fence = %d AND seq = %d AND available >= %d", t.Claim.SKU, t.Claim.Token, t.Row.Seq, t.Units)
	}
}

// window is when the units may be taken. The sale's is the one that the tenure
// knows: it moves seq when it is changed.
func (t Take) window() (from, until time.Time) {
	from, until = t.At.Add(-ClockTolerance), t.At.Add(ClockTolerance)
	if starts := t.Row.SaleStartsAt; starts != nil && starts.After(from) {
		from = *starts
	}
	if ends := t.Row.SaleEndsAt; ends != nil && ends.Before(until) {
		until = *ends
	}
	return from, until
}

// between is a condition on the database's clock.
func between(from, until time.Time) string {
	return fmt.Sprintf("NOW(6) >= '%s' AND NOW(6) < '%s'", from.UTC().Format(DateTime), until.UTC().Format(DateTime))
}

// DateTime is the form of a DATETIME(6) in a statement's text.
const DateTime = "2006-01-02 15:04:05.000000"

// takeTogether is how many SKUs one statement takes units of. A statement for each
// costs the server three times as much as the row of an order does; and of so many
// together, it compares each row with half of their names.
const takeTogether = 32

// WriteTakes writes the statements that take the units of several SKUs, each with
// its end. Behind them all units were taken: where some were not, they stop the
// packet with an error that IsStopped knows.
func WriteTakes(b *strings.Builder, takes []Take) {
	for len(takes) > 0 {
		n := 1
		for n < min(len(takes), takeTogether) && takes[0].shares() && takes[n].shares() {
			n++
		}
		if n == 1 {
			b.WriteString(takes[0].Statement())
		} else {
			writeTogether(b, takes[:n])
		}
		fmt.Fprintf(b, "; "+stopUnless+"; ", n)
		takes = takes[n:]
	}
}

// shares reports whether t can be one of several in a statement.
func (t Take) shares() bool { return t.Claim.Fence == strategy.FenceClaim }

func writeTogether(b *strings.Builder, takes []Take) {
	from, until := takes[0].window()
	b.WriteString("UPDATE stock SET available = available - CASE sku")
	for _, t := range takes {
		fmt.Fprintf(b, " WHEN x'%x' THEN %d", t.Claim.SKU, t.Units)
		tFrom, tUntil := t.window()
		if tFrom.After(from) {
			from = tFrom
		}
		if tUntil.Before(until) {
			until = tUntil
		}
	}
	b.WriteString(" END, seq = seq + 1, updated_at = NOW(6) WHERE " + between(from, until) + " AND (")
	for i, t := range takes {
		if i > 0 {
			b.WriteString(" OR ")
		}
		b.WriteString(t.guard())
	}
	b.WriteString(")")
}

// stopUnless is a statement that fails, with an error that IsStopped knows, unless
// the one before it changed so many rows. The server leaves out what follows in the
// same packet; the transaction stays open until ROLLBACK.
//
// It assigns a variable, since MariaDB's DO succeeds whatever error it meets.
const stopUnless = "SET @stop = IF(ROW_COUNT() = %d, 0, (SELECT 1 UNION SELECT 2))"

// Stop is that statement for one row.
var Stop = fmt.Sprintf(stopUnless, 1)

// errManyRows is the error of a subquery that has two rows where one can be.
const errManyRows = 1242

// IsStopped reports whether err is that of Stop, or of WriteTakes.
func IsStopped(err error) bool { return serverError(err) == errManyRows }
