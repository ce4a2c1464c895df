package proof

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
)

// Records are what was read about the run's SKUs after the attack.
type Records struct {
	// Balances and Violations are from the audit.
	Balances   []stock.Balance
	Violations []stock.Violation
	Rows       []Row
	Samples    []Sample
}

// Row is an order in the database.
type Row struct {
	ID                 uuid.UUID
	SKU, Customer, Key string
	Quantity           int
	Status             string
	// Limit is the per-customer limit at the time of the order; 0 is none.
	Limit int
}

func (r *Row) holds() bool { return r.Status == "reserved" || r.Status == "paid" }

// Findings are the units that were sold and left, and whatever breaks an invariant.
// In an exact run all but the first two and Returned are 0.
type Findings struct {
	UnitsSold int64 `json:"units_sold"`
	Available int64 `json:"available"`
	// Oversold is the units sold beyond those on sale.
	Oversold int64 `json:"oversold"`
	// Lost is the orders promised by a 201 without a row, or with another order's row.
	Lost int `json:"lost"`
	// Duplicated is the rows after the first for one key of one customer, and the
	// answers after the first that promise the same order.
	Duplicated int `json:"duplicated"`
	// Unexplained is the rows of no 201 and of no request without an answer.
	Unexplained int `json:"unexplained"`
	// LimitExceeded is the customers who hold more of a SKU than the limit.
	LimitExceeded int `json:"limit_exceeded"`
	// Undersold is the units left for which a buyer was refused.
	Undersold int64 `json:"undersold"`
	// Unserved is the units left for which a buyer got an error.
	Unserved int64 `json:"unserved"`
	// Violations are what the audit found, of any invariant.
	Violations []stock.Violation `json:"violations"`
	// Misstated is the orders that are in another state than the answers to their payment
	// or cancellation say.
	Misstated int `json:"misstated"`
	// Returned is the units of cancelled and expired orders.
	Returned int64 `json:"returned"`
	// Examples describe the first few findings.
	Examples []string `json:"examples"`
}

// maxExamples is the number of examples of each kind.
const maxExamples = 3

// Outcome is what the answers and the records of a run say together.
type Outcome struct {
	Counts
	Findings
	Verdict strategy.Verdict `json:"verdict"`
}

// Reconcile finds the row of each answer and the answer of each row, and judges the
// result. answers[seq] is the answer to the request asked(seq).
func Reconcile(asked func(seq int) attack.Order, answers []attack.Answer, records Records) Outcome {
	f := Findings{Violations: append([]stock.Violation{}, records.Violations...), Examples: []string{}}
	for _, b := range records.Balances {
		f.UnitsSold += b.Reserved + b.Paid
		f.Available += b.Available
		f.Oversold += b.Oversold
		f.Returned += b.Returned
	}
	j := joiner{Findings: &f, asked: asked, answers: answers}
	j.answersToRows(records.Rows)
	j.rowsToAnswers(records.Rows)
	j.rowsAmongThemselves(records.Rows)
	j.leftovers(records.Balances)
	counts := Count(answers)
	return Outcome{Counts: counts, Findings: f, Verdict: Judge(counts, f)}
}

type joiner struct {
	*Findings
	asked   func(seq int) attack.Order
	answers []attack.Answer
	// promised is the first request to which an order was promised.
	promised map[uuid.UUID]int
}

// identity is unique among orders.
type identity struct{ customer, key string }

func (j *joiner) answersToRows(rows []Row) {
	byID := make(map[uuid.UUID]*Row, len(rows))
	for i := range rows {
		byID[rows[i].ID] = &rows[i]
	}
	j.promised = make(map[uuid.UUID]int, len(rows))
	for seq := range j.answers {
		a := &j.answers[seq]
		if a.Outcome != attack.Accepted {
			continue
		}
		row := byID[a.OrderID]
		want := j.asked(seq)
		if row == nil {
			j.add(&j.Lost, "request %d was promised order %s, which does not exist", seq, a.OrderID)
		} else if got := (attack.Order{Customer: row.Customer, Key: row.Key, SKU: row.SKU, Quantity: row.Quantity}); got != want {
			j.add(&j.Lost, "request %d asked for %+v, but its order %s has %+v", seq, want, a.OrderID, got)
		}
		if first, twice := j.promised[a.OrderID]; twice {
			j.add(&j.Duplicated, "requests %d and %d were both promised order %s", first, seq, a.OrderID)
			continue
		}
		j.promised[a.OrderID] = seq
	}
}

func (j *joiner) rowsToAnswers(rows []Row) {
	open := map[identity]attack.Order{}
	for seq := range j.answers {
		if a := &j.answers[seq]; a.Call == attack.Place && a.Outcome == attack.Ambiguous {
			o := j.asked(seq)
			open[identity{o.Customer, o.Key}] = o
		}
	}
	for _, row := range rows {
		if _, ok := j.promised[row.ID]; ok {
			continue
		}
		asked, ok := open[identity{row.Customer, row.Key}]
		if !ok || asked.SKU != row.SKU || asked.Quantity != row.Quantity {
			j.add(&j.Unexplained, "order %s of %s with key %s belongs to no request", row.ID, row.Customer, row.Key)
		}
	}
}

func (j *joiner) rowsAmongThemselves(rows []Row) {
	type holding struct{ customer, sku string }
	first := make(map[identity]uuid.UUID, len(rows))
	held := map[holding]int{}
	limits := map[holding]int{}
	for i := range rows {
		row := &rows[i]
		id := identity{row.Customer, row.Key}
		if other, twice := first[id]; twice {
			j.add(&j.Duplicated, "orders %s and %s both have key %s of %s", other, row.ID, row.Key, row.Customer)
		} else {
			first[id] = row.ID
		}
		if row.Limit > 0 && row.holds() {
			h := holding{row.Customer, row.SKU}
			held[h] += row.Quantity
			limits[h] = max(limits[h], row.Limit) // it may have been raised in between
		}
	}
	for h, n := range held {
		if n > limits[h] {
			j.add(&j.LimitExceeded, "%s holds %d of %s, over the limit of %d", h.customer, n, h.sku, limits[h])
		}
	}
}

// settle compares the state of each order with the answer to the one call to pay or to
// cancel it, if there was one, and judges again. An order that is neither paid nor
// cancelled may have expired. The answers must be to all calls that there were.
func (o *Outcome) settle(answers []attack.Answer, rows []Row) {
	j := joiner{Findings: &o.Findings, answers: answers}
	calls := map[uuid.UUID]*attack.Answer{}
	for seq := range j.answers {
		if a := &j.answers[seq]; a.Call == attack.Pay || a.Call == attack.Cancel {
			calls[a.OrderID] = a
		}
	}
	for i := range rows {
		row := &rows[i]
		a := calls[row.ID]
		// Other services have other words for an order that was cancelled.
		done := a != nil && (a.Call == attack.Pay && row.Status == "paid" || a.Call == attack.Cancel && !row.holds() && row.Status != "expired")
		switch final := row.Status == "paid" || row.Status == "cancelled"; {
		case a == nil && final:
			j.add(&j.Misstated, "order %s is %s, but no request asked for that", row.ID, row.Status)
		case a == nil:
		case a.Outcome == attack.Served && !done,
			a.Outcome == attack.Refused && final,
			a.Outcome == attack.Ambiguous && final && !done:
			j.add(&j.Misstated, "order %s is %s, but request %d to %s it was answered with %d (%s)", row.ID, row.Status, a.Seq, a.Call, a.Status, a.Outcome)
		}
	}
	o.Verdict = Judge(o.Counts, o.Findings)
}

// leftovers checks the units that were not sold. It skips SKUs with returned units:
// these may have been returned after a refusal, which was then correct.
func (j *joiner) leftovers(balances []stock.Balance) {
	left := map[string]int64{}
	for _, b := range balances {
		if b.Available > 0 && b.Returned == 0 {
			left[b.SKU] = b.Available
		}
	}
	refused, unserved := map[string]int{}, map[string]int{} // SKU -> a request
	for seq := range j.answers {
		o := j.asked(seq)
		if j.answers[seq].Call != attack.Place || int64(o.Quantity) > left[o.SKU] {
			continue
		}
		switch j.answers[seq].Outcome {
		case attack.SoldOut:
			refused[o.SKU] = seq
		case attack.Refused, attack.Ambiguous:
			unserved[o.SKU] = seq
		case attack.Accepted, attack.Served:
		}
	}
	for _, sku := range slices.Sorted(maps.Keys(left)) {
		if seq, ok := refused[sku]; ok {
			j.Undersold += left[sku]
			j.example("request %d was refused as sold out, but %d units of %s are left", seq, left[sku], sku)
		}
		if _, ok := unserved[sku]; ok {
			j.Unserved += left[sku]
		}
	}
}

func (j *joiner) add(n *int, format string, args ...any) {
	if *n++; *n <= maxExamples {
		j.example(format, args...)
	}
}

func (j *joiner) example(format string, args ...any) {
	j.Examples = append(j.Examples, fmt.Sprintf(format, args...))
}

// Count counts the answers to orders by outcome.
func Count(answers []attack.Answer) Counts {
	c, _ := count(answers, attack.Place)
	return c
}

// count counts the answers to one call. Served ones are only in Offered and in served.
func count(answers []attack.Answer, call attack.Call) (c Counts, served int) {
	c = Counts{Reasons: []Reason{}}
	reasons := map[Reason]int{}
	for i := range answers {
		a := &answers[i]
		if a.Call != call {
			continue
		}
		c.Offered++
		switch a.Outcome {
		case attack.Served:
			served++
			continue
		case attack.Accepted:
			c.Accepted++
			continue
		case attack.SoldOut:
			c.SoldOut++
			continue
		case attack.Ambiguous:
			c.Ambiguous++
		case attack.Refused:
			c.Errors++
		}
		reasons[Reason{Status: a.Status, Slug: a.Reason}]++
	}
	for r, n := range reasons {
		r.Count = n
		c.Reasons = append(c.Reasons, r)
	}
	slices.SortFunc(c.Reasons, func(a, b Reason) int {
		return cmp.Or(b.Count-a.Count, a.Status-b.Status, cmp.Compare(a.Slug, b.Slug))
	})
	return c, served
}
