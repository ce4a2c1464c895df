package proof

import (
	"fmt"

	"flashsale/internal/stock"
	"flashsale/loadtest/attack"
)

// Held is the units of a SKU's orders that are reserved or paid.
func Held(rows []Row, sku string) int64 {
	b := balances(rows)[sku]
	return b.Reserved + b.Paid
}

// balances adds up the units of orders by SKU and state.
func balances(rows []Row) map[string]stock.Balance {
	all := map[string]stock.Balance{}
	for i := range rows {
		row, b, units := &rows[i], all[rows[i].SKU], int64(rows[i].Quantity)
		switch {
		case row.Status == "paid":
			b.Paid += units
		case row.holds():
			b.Reserved += units
		default:
			b.Returned += units
		}
		all[row.SKU] = b
	}
	return all
}

// RecordsFromService are the records if the database cannot be read: the stock that
// the service shows, and the promised orders. Orders whose answer was lost are not
// among the rows, so up to their units may be missing.
func RecordsFromService(plan *attack.Plan, answers []attack.Answer, rows []Row, stocks []attack.Stock) Records {
	uncertain := map[string]int64{}
	for seq := range answers {
		if answers[seq].Outcome == attack.Ambiguous {
			o := plan.Order(seq)
			uncertain[o.SKU] += int64(o.Quantity)
		}
	}
	return RecordsOf(rows, stocks, uncertain)
}

// RecordsOf are the records of orders and stock that were read without an audit. It
// checks conservation: up to uncertain[sku] units may be missing.
func RecordsOf(rows []Row, stocks []attack.Stock, uncertain map[string]int64) Records {
	records, sums := Records{Rows: rows}, balances(rows)
	for _, s := range stocks {
		b := sums[s.SKU]
		b.SKU, b.Units, b.Available = s.SKU, s.Units, s.Available
		sold := b.Reserved + b.Paid
		b.Oversold = max(0, sold-b.Units)
		missing := b.Units - b.Available - sold
		b.OK = missing >= 0 && missing <= uncertain[s.SKU] && b.Available >= 0
		if !b.OK {
			records.Violations = append(records.Violations, stock.Violation{
				SKU: s.SKU, Invariant: stock.Conservation,
				Detail: fmt.Sprintf("%d units, but %d available + %d in orders", b.Units, b.Available, sold),
			})
		}
		records.Balances = append(records.Balances, b)
	}
	return records
}
