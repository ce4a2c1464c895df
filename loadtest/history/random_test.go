package history

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"flashsale/loadtest/attack"
)

// service is a SKU served one call after the other: what the model must admit. Its
// mistakes are what the model must not.
type service struct {
	rng       *rand.Rand
	available int
	limit     int
	rows      []*row
	byKey     map[string]*row
	mistake   string
	erred     bool
}

// errs reports, now and then, that the service makes that mistake.
func (s *service) errs(mistake string) bool {
	if s.mistake != mistake || s.rng.IntN(4) > 0 {
		return false
	}
	s.erred = true
	return true
}

func (s *service) write(c *call, status string) *row {
	id, _ := uuid.NewRandomFromReader(rngReader{s.rng}) // never fails
	r := &row{id: id, customer: c.customer, key: c.key, quantity: c.quantity, status: status, seq: uint64(len(s.rows))}
	s.byKey[c.key] = r
	if !s.errs("loses rows") {
		s.rows = append(s.rows, r)
	}
	return r
}

type rngReader struct{ *rand.Rand }

func (r rngReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.IntN(256))
	}
	return len(b), nil
}

func (s *service) serve(c *call) {
	refuse := func(reason string) { c.Status, c.Reason = http.StatusConflict, reason }
	if r := s.byKey[c.key]; r != nil && !s.errs("forgets keys") {
		c.Status, c.Replayed, c.OrderID = http.StatusCreated, true, r.id
		return
	}
	switch c.kind {
	case Restock:
		s.available += c.quantity
		c.Status, c.OrderID = http.StatusCreated, s.write(c, "").id
		return
	case Order:
		held := 0
		for _, r := range s.rows {
			if r.customer == c.customer && r.status != "cancelled" {
				held += r.quantity
			}
		}
		switch {
		case s.limit > 0 && held+c.quantity > s.limit && (s.available < c.quantity || !s.errs("ignores the limit")):
			refuse("customer-limit")
		case s.available == 0 || s.errs("refuses too early"):
			refuse("sold-out")
		case s.available < c.quantity && !s.errs("oversells"):
			refuse("insufficient-stock")
		default:
			s.available -= c.quantity
			c.Status, c.OrderID = http.StatusCreated, s.write(c, "reserved").id
		}
		return
	}
	for _, r := range s.rows {
		if r.id != c.order {
			continue
		}
		switch {
		case c.kind == Payment && r.status == "cancelled" && !s.errs("pays what is cancelled"):
			refuse("order-cancelled")
		case c.kind == Payment:
			r.status = "paid"
		case c.kind == Cancellation && r.status == "paid":
			refuse("already-paid")
		case c.kind == Cancellation && r.status == "reserved":
			r.status = "cancelled"
			s.available += r.quantity
			if s.errs("returns units twice") {
				s.available += r.quantity
			}
		}
		if c.Status == 0 {
			c.Status, c.shown = http.StatusOK, r.status
		}
	}
}

// random returns a history in which about twice depth calls are under way at a time, the
// database, and whether the service made its mistake.
func random(seed uint64, depth int, mistake string) (s *sale, r record, erred bool) {
	const calls = 120
	rng := rand.New(rand.NewPCG(seed, 0))
	s = &sale{sku: fmt.Sprint("seed-", seed), units: 5 + rng.IntN(15), limit: rng.IntN(2) * 6}
	svc := &service{rng: rng, available: s.units, limit: s.limit, byKey: map[string]*row{}, mistake: mistake}
	var asks []ask
	for i := range calls {
		a := ask{kind: Order, customer: customer(rng.IntN(5)), key: fmt.Sprint("key-", i), quantity: 1 + rng.IntN(3)}
		switch roll := rng.IntN(100); {
		case roll < 3:
			a = ask{kind: Restock, key: fmt.Sprint("restock-", i), quantity: 1 + rng.IntN(3)}
		case roll < 25 && len(asks) > 0:
			a = asks[rng.IntN(len(asks))]
		case roll < 60:
			for _, r := range svc.rows { // the last of them, or an earlier one
				if r.customer != "" && (a.kind == Order || rng.IntN(3) > 0) {
					a = ask{kind: []Kind{Payment, Cancellation, Cancellation, Read}[rng.IntN(4)], customer: r.customer, order: r.id}
				}
			}
		}
		if a.key != "" {
			asks = append(asks, a)
		}
		at := time.Duration(i+1) * time.Millisecond
		c := &call{ask: a, began: at - time.Duration(rng.IntN(depth*int(time.Millisecond))), ended: at + time.Duration(rng.IntN(depth*int(time.Millisecond)))}
		switch rng.IntN(10) {
		case 0: // applied, not answered
			svc.serve(c)
			c.Answer, c.shown = attack.NoAnswer("lost"), ""
		case 1: // neither
			c.Answer = attack.NoAnswer("lost")
		default:
			svc.serve(c)
		}
		c.Outcome = attack.OutcomeOf(c.Status, c.Reason)
		s.calls = append(s.calls, c)
	}
	r = record{final: final{units: s.units, available: svc.available}}
	for _, row := range svc.rows {
		r.rows = append(r.rows, *row)
		if row.customer == "" {
			r.units += row.quantity
		}
	}
	return s, r, svc.erred
}

// TestRandomHistories checks histories of a right service and of wrong ones, from two
// calls at a time to as many as wait after a fault. Each must be decided, and soon.
func TestRandomHistories(t *testing.T) {
	const histories = 30
	for _, depth := range []int{1, 4, 20} {
		for _, mistake := range []string{"", "loses rows", "forgets keys", "ignores the limit", "refuses too early", "oversells", "returns units twice", "pays what is cancelled"} {
			wrong, caught, slowest := 0, 0, time.Duration(0)
			for seed := range uint64(histories) {
				s, r, erred := random(seed, depth, mistake)
				h := &History{sales: []*sale{s}}
				began := time.Now()
				report, err := h.check(t.Context(), map[string]*record{s.sku: &r})
				if err != nil {
					t.Fatal(err)
				}
				slowest = max(slowest, time.Since(began))
				if erred {
					wrong++
				}
				if len(report.Violations) > 0 {
					caught++
				}
				if !erred && len(report.Violations) > 0 || strings.Contains(strings.Join(report.Violations, ""), "not decided") {
					t.Fatalf("seed %d, depth %d, mistake %q: %s", seed, depth, mistake, report.Violations[0])
				}
			}
			t.Logf("%d calls under way, mistake %q: %d of %d caught, the slowest check took %s", 2*depth, mistake, caught, wrong, slowest)
			if caught < wrong/2 || mistake != "" && wrong == 0 {
				t.Errorf("%d calls under way, mistake %q: caught %d of %d", 2*depth, mistake, caught, wrong)
			}
		}
	}
}
