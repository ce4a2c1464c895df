package proof

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"flashsale/internal/stock"
	"flashsale/loadtest/attack"
)

// Books are what was read of the run's SKUs after the attack.
type Books struct {
	// Balances and Violations are the audit's.
	Balances   []stock.Balance
	Violations []stock.Violation
	Rows       []Row
	Samples    []Sample
}

// Row is one order as it stands in the database.
type Row struct {
	ID                 uuid.UUID
	SKU, Customer, Key string
	Quantity           int
	Status             string
	// Limit is the per-customer limit that stood when it was made; 0 is none.
	Limit int
}

// holds reports whether the row keeps its units from being sold again.
func (r *Row) holds() bool { return r.Status == "reserved" || r.Status == "paid" }

// Findings are units and orders that are not as they must be, and the units that
// were sold. All but the first two are 0 in a run that is exact.
type Findings struct {
	UnitsSold int64 `json:"units_sold"`
	Available int64 `json:"available"`
	// Oversold are the units sold beyond those that were on sale.
	Oversold int64 `json:"oversold"`
	// Lost are orders promised by a 201 that have no row, or another's.
	Lost int `json:"lost"`
	// Duplicated are rows beyond the first for one key of one customer, and
	// answers beyond the first that promise one order.
	Duplicated int `json:"duplicated"`
	// Unexplained are rows that answer no 201 and no request that may have lost
	// its answer.
	Unexplained int `json:"unexplained"`
	// LimitExceeded are customers who hold more of a SKU than they may.
	LimitExceeded int `json:"limit_exceeded"`
	// Undersold are units left of SKUs that a buyer was refused who wanted no
	// more than is left.
	Undersold int64 `json:"undersold"`
	// Unserved are units left of SKUs that a buyer of no more than that got an
	// error for.
	Unserved int64 `json:"unserved"`
	// Violations are those that the audit found, of any invariant.
	Violations []stock.Violation `json:"violations"`
	// Examples are the first few of what was found, in words.
	Examples []string `json:"examples"`
}

// maxExamples of each kind are told in words.
const maxExamples = 3

// Join looks for the row of each answer and the answer of each row. answers[seq]
// is the one to the request that asked(seq) names. It only reads.
func Join(asked func(seq int) attack.Order, answers []attack.Answer, books Books) Findings {
	f := Findings{Violations: slices.Clone(books.Violations), Examples: []string{}}
	if f.Violations == nil {
		f.Violations = []stock.Violation{}
	}
	for _, b := range books.Balances {
		f.UnitsSold += b.Reserved + b.Paid
		f.Available += b.Available
		f.Oversold += b.Oversold
	}
	j := joiner{Findings: &f, asked: asked, answers: answers}
	j.answersToRows(books.Rows)
	j.rowsToAnswers(books.Rows)
	j.rowsAmongThemselves(books.Rows)
	j.leftovers(books.Balances)
	return f
}

type joiner struct {
	*Findings
	asked   func(seq int) attack.Order
	answers []attack.Answer
	// promised is by which request an order was promised first.
	promised map[uuid.UUID]int
}

// identity is what an order may stand only once for.
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
			j.add(&j.Lost, "request %d was promised order %s, which has no row", seq, a.OrderID)
		} else if got := (attack.Order{Customer: row.Customer, Key: row.Key, SKU: row.SKU, Quantity: row.Quantity}); got != want {
			j.add(&j.Lost, "request %d asked for %+v; its order %s has %+v", seq, want, a.OrderID, got)
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
		if j.answers[seq].Outcome == attack.Ambiguous {
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
			j.add(&j.Unexplained, "order %s of %s with key %s answers no request", row.ID, row.Customer, row.Key)
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
			j.add(&j.Duplicated, "orders %s and %s both stand for key %s of %s", other, row.ID, row.Key, row.Customer)
		} else {
			first[id] = row.ID
		}
		if row.Limit > 0 && row.holds() {
			h := holding{row.Customer, row.SKU}
			held[h] += row.Quantity
			limits[h] = max(limits[h], row.Limit) // it may have been raised meanwhile
		}
	}
	for h, n := range held {
		if n > limits[h] {
			j.add(&j.LimitExceeded, "%s holds %d of %s, the limit was %d", h.customer, n, h.sku, limits[h])
		}
	}
}

// leftovers looks at what was not sold. Units that came back from an order may
// have come after a refusal, which was then right: such a SKU is passed over.
func (j *joiner) leftovers(balances []stock.Balance) {
	left := map[string]int64{}
	for _, b := range balances {
		if b.Available > 0 && b.Returned == 0 {
			left[b.SKU] = b.Available
		}
	}
	refused, unserved := map[string]int{}, map[string]int{} // a request, by SKU
	for seq := range j.answers {
		o := j.asked(seq)
		if int64(o.Quantity) > left[o.SKU] {
			continue
		}
		switch j.answers[seq].Outcome {
		case attack.SoldOut:
			refused[o.SKU] = seq
		case attack.Refused, attack.Ambiguous:
			unserved[o.SKU] = seq
		case attack.Accepted:
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

// Count sorts the answers by outcome.
func Count(answers []attack.Answer) Counts {
	c := Counts{Offered: len(answers), Reasons: []Reason{}}
	reasons := map[Reason]int{}
	for i := range answers {
		a := &answers[i]
		switch a.Outcome {
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
	return c
}
