package soak

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"flashsale/loadtest/attack"
)

// The claims that the soak checks, beside the audit's and those of package proof.
const (
	Answered     = "every request is answered while nobody disturbs the replicas"
	NoFault      = "no answer is a 500"
	InContract   = "every answer is in the contract"
	Flows        = "calls are served again after a fault"
	AsModelled   = "the answer is one that the state allows"
	SameReplay   = "a replay is the first answer, byte for byte"
	OneOutcome   = "one key makes one order"
	WindowHolds  = "a payment after the window never gets the units"
	Expires      = "what is not paid expires, and its units return"
	NothingLeft  = "what is left can be bought, and no more than that"
	LateKept     = "a payment that came too late is kept, once"
	BooksExplain = "every 201 has its row, every row its request, every order its last status"
)

// Violation is one broken claim.
type Violation struct {
	Invariant string `json:"invariant"`
	Detail    string `json:"detail"`
	// World is where it was seen, and Calls what was called there last.
	World string   `json:"world,omitempty"`
	Calls []string `json:"calls,omitempty"`
}

// broken is a violation as an error: the world's model is of no use after it.
type broken struct{ invariant, detail string }

func (b *broken) Error() string { return b.invariant + ": " + b.detail }

func breaks(invariant, format string, args ...any) error {
	return &broken{invariant, fmt.Sprintf(format, args...)}
}

// Count is how often a call had an outcome.
type Count struct {
	Call    string `json:"call"`
	Outcome string `json:"outcome"`
	Count   int    `json:"count"`
}

// maxViolations are kept. Many more say no more.
const maxViolations = 50

// record gathers what is seen. It is safe for concurrent use.
type record struct {
	mu         sync.Mutex
	counts     map[[2]string]int
	violations []Violation
	broken     int
	skus       []string
	asked      []attack.Order
	answers    []attack.Answer
	// last is the status that each order must have in the end; late the payments
	// that must be listed.
	last   map[string]string
	late   map[latePayment]bool
	worlds int
	// alarm is called with each violation; it may be nil.
	alarm func()
	// hazy worlds lost sight of what they had changed.
	hazy int
}

type latePayment struct{ orderID, reference string }

func newRecord() *record {
	return &record{counts: map[[2]string]int{}, last: map[string]string{}, late: map[latePayment]bool{}}
}

func (r *record) count(call, outcome string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[[2]string{call, outcome}]++
}

func (r *record) violate(v Violation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken++
	if len(r.violations) < maxViolations {
		r.violations = append(r.violations, v)
	}
	if r.alarm != nil {
		r.alarm()
	}
}

func (r *record) isHazy() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hazy++
}

// sells notes a SKU, for the audit.
func (r *record) sells(sku string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skus = append(r.skus, sku)
}

// settled notes what a world's customers were told, once the world is over.
func (r *record) settled(w *world) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.worlds++
	for _, o := range w.orders {
		r.answer(w, o, attack.Answer{Outcome: attack.Accepted, OrderID: o.is.ID})
		if o.is.Status != "reserved" { // one that was left behind may expire or not
			r.last[o.is.ID.String()] = string(o.is.Status)
		}
		for _, reference := range o.late {
			r.late[latePayment{o.is.ID.String(), reference}] = true
		}
	}
	for _, o := range w.ghosts {
		r.answer(w, o, attack.Answer{Outcome: attack.Ambiguous})
	}
}

func (r *record) answer(w *world, o *order, a attack.Answer) {
	a.Seq = len(r.answers)
	r.asked = append(r.asked, attack.Order{Customer: o.by.name, Key: o.key, SKU: w.sku, Quantity: int(o.quantity)})
	r.answers = append(r.answers, a)
}

// table is the counts, by call and outcome.
func (r *record) table() []Count {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make([]Count, 0, len(r.counts))
	for at, n := range r.counts {
		counts = append(counts, Count{Call: at[0], Outcome: at[1], Count: n})
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.Call, b.Call), cmp.Compare(a.Outcome, b.Outcome))
	})
	return counts
}
