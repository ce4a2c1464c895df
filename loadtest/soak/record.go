package soak

import (
	"cmp"
	"slices"
	"sync"

	"flashsale/loadtest/attack"
)

// The claims that the soak checks, besides those of the audit and of package proof.
const (
	Answered     = "every request is answered while there is no fault"
	NoFault      = "no answer is a 500"
	InContract   = "every answer conforms to the contract"
	Flows        = "calls are served again after a fault"
	AsModelled   = "the state allows the answer"
	SameReplay   = "a replay is the first answer, byte for byte"
	OneOutcome   = "one key makes one order"
	WindowHolds  = "a payment after the window never gets the units"
	Expires      = "an unpaid order expires and returns its units"
	NothingLeft  = "all units that are left can be bought, and no more"
	LateListed   = "a payment that came too late is listed once"
	AnswersMatch = "every 201 has its row, every row its request, every order its last status"
)

// Violation is one broken claim.
type Violation struct {
	Invariant string `json:"invariant"`
	Detail    string `json:"detail"`
	// World is where it was seen; Calls are the last calls there.
	World string   `json:"world,omitempty"`
	Calls []string `json:"calls,omitempty"`
}

// broken is a violation as an error. It ends the world, whose model no longer holds.
type broken struct{ invariant, detail string }

func (b *broken) Error() string { return b.invariant + ": " + b.detail }

// Count is how often a call had an outcome.
type Count struct {
	Call    string `json:"call"`
	Outcome string `json:"outcome"`
	Count   int    `json:"count"`
}

const maxViolations = 50

// record collects the observations of all worlds. It is safe for concurrent use.
type record struct {
	mu         sync.Mutex
	counts     map[[2]string]int
	violations []Violation
	broken     int
	skus       []string
	asked      []attack.Order
	answers    []attack.Answer
	// last is the status that each order must have at the end; late has the payments that
	// must be listed.
	last      map[string]string
	late      map[latePayment]bool
	worlds    int
	uncertain int
	// onViolation, unless nil, is called after each violation.
	onViolation func()
}

type latePayment struct{ orderID, reference string }

func newRecord() *record {
	return &record{counts: map[[2]string]int{}, last: map[string]string{}, late: map[latePayment]bool{}, violations: []Violation{}}
}

// do calls f while no other goroutine uses the record.
func (r *record) do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *record) violate(v Violation) {
	r.do(func() {
		r.broken++
		if len(r.violations) < maxViolations {
			r.violations = append(r.violations, v)
		}
	})
	if r.onViolation != nil {
		r.onViolation()
	}
}

func (r *record) finished(w *world) {
	r.do(func() {
		r.worlds++
		for _, o := range w.orders {
			r.answer(w, o, attack.Answer{Outcome: attack.Accepted, OrderID: o.is.ID})
			if o.is.Status != "reserved" { // a reserved order may expire later
				r.last[o.is.ID.String()] = string(o.is.Status)
			}
			for _, reference := range o.late {
				r.late[latePayment{o.is.ID.String(), reference}] = true
			}
		}
		for _, o := range w.maybe {
			r.answer(w, o, attack.Answer{Outcome: attack.Ambiguous})
		}
	})
}

func (r *record) answer(w *world, o *order, a attack.Answer) {
	a.Seq = len(r.answers)
	r.asked = append(r.asked, attack.Order{Customer: o.by.name, Key: o.key, SKU: w.sku, Quantity: int(o.quantity)})
	r.answers = append(r.answers, a)
}

func (r *record) table() []Count {
	counts := make([]Count, 0, len(r.counts))
	for at, n := range r.counts {
		counts = append(counts, Count{Call: at[0], Outcome: at[1], Count: n})
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Call, b.Call), cmp.Compare(a.Outcome, b.Outcome))
	})
	return counts
}
