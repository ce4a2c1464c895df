package faults

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// Result is the outcome of a run.
type Result struct {
	Fault  string `json:"fault"`
	Seller string `json:"seller"`
	// Server is the database server that failed, counted from 1; 0 for a fault of the
	// Seller.
	Server int `json:"server,omitempty"`
	// WritableMS is the time from the fault to the first write that a database server
	// takes, tried every few milliseconds; 0 for a fault of the Seller.
	WritableMS float64 `json:"writable_ms,omitempty"`
	// OrdersMS is the time from the fault to the first sale to a buyer who ordered after
	// it.
	OrdersMS float64 `json:"orders_ms"`
	// GapMS is the longest time without a sale, from the fault to the end of the run.
	GapMS float64 `json:"gap_ms"`
	// WaitMS is the longest wait of a buyer whose answer came after the fault.
	WaitMS float64 `json:"wait_ms"`
	Sold   int     `json:"sold"`
	Paid   int     `json:"paid,omitempty"`
	// Lost counts orders answered 201 that have no row, and payments answered 200 whose
	// order is not paid.
	Lost int `json:"lost"`
	// Errors counts orders answered 503 or 504. Reasons counts all answers to orders but
	// sales, by kind; Orders has the same for a fault of the Database.
	Errors  int            `json:"errors"`
	Reasons []proof.Reason `json:"reasons"`
	Orders  []proof.Reason `json:"orders,omitempty"`
	// Payments counts the answers to payments but successes, by kind.
	Payments []proof.Reason `json:"payments,omitempty"`
	// Wrong counts the answers that no fault excuses: all but successes, 503 and 504.
	Wrong   int              `json:"wrong"`
	Verdict strategy.Verdict `json:"verdict"`
	// Examples describe some of what is wrong.
	Examples []string `json:"examples"`
}

// OK reports whether every answer was right and has its row.
func (r *Result) OK() bool {
	return r.Verdict == strategy.Exact && r.Wrong == 0 && r.Lost == 0 && len(r.Examples) == 0
}

// assess measures the load and compares all answers with the database.
func (r *run) assess(ctx context.Context, load *attack.Result) (Result, error) {
	records, err := r.readRecords(ctx)
	if err != nil {
		return Result{}, err
	}
	found := proof.Reconcile(func(seq int) attack.Order { return r.asked[seq] }, r.answers, records)
	found.Unserved = 0 // units are left on purpose
	fault := r.at.Sub(load.Began)
	result := Result{
		Fault: r.Fault.Name, Seller: r.seller().Name,
		OrdersMS: ms(firstSale(load.Answers, fault)), GapMS: ms(longestGap(load.Answers, fault)), WaitMS: ms(longestWait(load.Answers, fault)),
		Sold: found.Accepted, Lost: found.Lost, Reasons: found.Reasons, Verdict: proof.Judge(found.Counts, found.Findings), Examples: found.Examples,
	}
	var wrong, wrongPayments int
	result.Errors, wrong = split(found.Reasons)
	if r.payments != nil {
		result.Paid, result.Orders, result.Payments = len(r.payments.paid), found.Reasons, r.payments.reasons()
		_, wrongPayments = split(result.Payments)
		missing := unpaid(r.payments.paid, &records)
		result.Lost += len(missing)
		result.Examples = append(result.Examples, missing[:min(len(missing), maxExamples)]...)
	}
	result.Wrong = found.SoldOut + wrong + wrongPayments
	if r.Cluster != nil {
		result.Server, result.WritableMS = r.failing+1, ms(r.firstWrite.Sub(r.at))
		differing, err := r.compareServers(ctx, &records)
		if err != nil {
			return Result{}, err
		}
		result.Examples = append(result.Examples, differing...)
	}
	for _, v := range found.Violations {
		result.Examples = append(result.Examples, fmt.Sprintf("%s: %s: %s", v.SKU, v.Invariant, v.Detail))
	}
	return result, nil
}

// maxExamples bounds the lost payments that are described.
const maxExamples = 3

// split counts the answers that a fault may cause, 503 and 504, and all others.
func split(reasons []proof.Reason) (errors, wrong int) {
	errors = count(reasons, http.StatusServiceUnavailable) + count(reasons, http.StatusGatewayTimeout)
	for _, reason := range reasons {
		wrong += reason.Count
	}
	return errors, wrong - errors
}

func count(reasons []proof.Reason, status int) (n int) {
	for _, reason := range reasons {
		if reason.Status == status {
			n += reason.Count
		}
	}
	return n
}

// firstSale returns the time from the fault to the first sale to a buyer who ordered
// after it.
func firstSale(answers []attack.Answer, fault time.Duration) (first time.Duration) {
	for i := range answers {
		if a := &answers[i]; a.Outcome == attack.Accepted && a.Sent >= fault && (first == 0 || a.Done-fault < first) {
			first = a.Done - fault
		}
	}
	return first
}

// longestGap returns the longest time without a sale, from the fault to the last answer.
func longestGap(answers []attack.Answer, fault time.Duration) time.Duration {
	var times []time.Duration
	end := fault
	for i := range answers {
		a := &answers[i]
		end = max(end, a.Done)
		if a.Outcome == attack.Accepted && a.Done > fault {
			times = append(times, a.Done)
		}
	}
	slices.Sort(times)
	gap, last := time.Duration(0), fault
	for _, at := range append(times, end) {
		gap, last = max(gap, at-last), at
	}
	return gap
}

// longestWait returns the longest wait of a buyer whose answer came after the fault.
func longestWait(answers []attack.Answer, fault time.Duration) time.Duration {
	wait := time.Duration(0)
	for i := range answers {
		if a := &answers[i]; a.Done > fault {
			wait = max(wait, a.Done-a.Sent)
		}
	}
	return wait
}

// ms keeps three decimal places: microseconds.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
