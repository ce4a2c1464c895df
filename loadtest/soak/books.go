package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"

	"flashsale/client/wire"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// books compares what all customers were told with what the database holds.
func (s *soak) books(ctx context.Context) (err error) {
	r := s.record
	if len(r.skus) == 0 {
		return errors.New("nothing was put on sale")
	}
	db, err := proof.Open(s.cfg.DSN)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	books, err := db.Records(ctx, r.skus)
	if err != nil {
		return err
	}
	found := proof.Reconcile(func(seq int) attack.Order { return r.asked[seq] }, r.answers, books)
	for _, v := range found.Violations {
		r.violate(Violation{Invariant: v.Invariant, Detail: v.SKU + ": " + v.Detail})
	}
	if n := found.Lost + found.Duplicated + found.Unexplained + found.LimitExceeded; n > 0 || found.Oversold > 0 {
		r.violate(Violation{Invariant: BooksExplain, Detail: fmt.Sprintf("%d orders and %d units are not as they were told: %q", n, found.Oversold, found.Examples)})
	}
	for _, row := range books.Rows {
		if want := r.last[row.ID.String()]; want != "" && row.Status != want {
			r.violate(Violation{Invariant: BooksExplain, Detail: fmt.Sprintf("order %s was last %s, and is %s", row.ID, want, row.Status)})
		}
	}
	return s.latePayments(ctx)
}

// latePayments looks for each payment that was said to be too late.
func (s *soak) latePayments(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(s.cfg.Seed, hash("late payments")))
	listed := map[latePayment]int{}
	var cursor *string
	for {
		req := request{name: "list late payments", method: http.MethodGet, path: "/v1/admin/late-payments?limit=200", token: s.adminToken}
		if cursor != nil {
			req.path += "&cursor=" + url.QueryEscape(*cursor)
		}
		re, err := s.settle(ctx, rng, req)
		if err != nil {
			return err
		}
		if re.status != http.StatusOK {
			return fmt.Errorf("list late payments: %s", re.outcome())
		}
		page, err := decode[wire.LatePaymentList](re)
		if err != nil {
			return err
		}
		for _, p := range page.Items {
			listed[latePayment{p.OrderID.String(), p.Reference}]++
		}
		if cursor = page.NextCursor; cursor == nil {
			break
		}
	}
	for p := range s.record.late {
		if n := listed[p]; n != 1 {
			s.record.violate(Violation{Invariant: LateKept, Detail: fmt.Sprintf("payment %q of order %s is listed %d times", p.reference, p.orderID, n)})
		}
	}
	return nil
}
