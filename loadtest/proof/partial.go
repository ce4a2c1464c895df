package proof

import (
	"fmt"

	"flashsale/internal/stock"
	"flashsale/loadtest/attack"
)

// Held are the units of a SKU's orders that are reserved or paid.
func Held(rows []Row, sku string) int64 {
	held := int64(0)
	for i := range rows {
		if rows[i].SKU == sku && rows[i].holds() {
			held += int64(rows[i].Quantity)
		}
	}
	return held
}

// BooksFromService stands in for the audit where the database cannot be read:
// the stock as the service shows it, and the orders that were promised. Orders
// that stand although their answer was lost are not among the rows; units that
// are missing by no more than those requests wanted break nothing.
func BooksFromService(plan *attack.Plan, answers []attack.Answer, rows []Row, stocks []attack.Stock) Books {
	ambiguous := map[string]int64{}
	for seq := range answers {
		if answers[seq].Outcome == attack.Ambiguous {
			o := plan.Order(seq)
			ambiguous[o.SKU] += int64(o.Quantity)
		}
	}
	books := Books{Rows: rows}
	for _, s := range stocks {
		b := stock.Balance{SKU: s.SKU, Units: s.Units, Available: s.Available, OK: true}
		for i := range rows {
			row := &rows[i]
			switch {
			case row.SKU != s.SKU:
			case row.Status == "paid":
				b.Paid += int64(row.Quantity)
			case row.holds():
				b.Reserved += int64(row.Quantity)
			default:
				b.Returned += int64(row.Quantity)
			}
		}
		sold := b.Reserved + b.Paid
		b.Oversold = max(0, sold-b.Units)
		if missing := b.Units - b.Available - sold; missing < 0 || missing > ambiguous[s.SKU] {
			b.OK = false
			books.Violations = append(books.Violations, stock.Violation{
				SKU: s.SKU, Invariant: stock.Conservation,
				Detail: fmt.Sprintf("%d units, but %d available + %d in promised orders", b.Units, b.Available, sold),
			})
		}
		books.Balances = append(books.Balances, b)
	}
	return books
}
