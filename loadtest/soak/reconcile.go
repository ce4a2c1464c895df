package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"

	"flashsale/client/wire"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// reconcile compares the answers that all customers got with the database.
func (s *soak) reconcile(ctx context.Context) error {
	r := s.record
	if len(r.skus) == 0 {
		return errors.New("no SKU was put on sale")
	}
	records, err := proof.ReadRecords(ctx, s.cfg.DSN, r.skus)
	if err != nil {
		return err
	}
	found := proof.Reconcile(func(seq int) attack.Order { return r.asked[seq] }, r.answers, records)
	for _, v := range found.Violations {
		r.violate(Violation{Invariant: v.Invariant, Detail: v.SKU + ": " + v.Detail})
	}
	if n := found.Lost + found.Duplicated + found.Unexplained + found.LimitExceeded; n > 0 || found.Oversold > 0 {
		r.violate(Violation{Invariant: AnswersMatch, Detail: fmt.Sprintf("%d orders do not match their answers, %d units are oversold: %q", n, found.Oversold, found.Examples)})
	}
	for _, row := range records.Rows {
		if want := r.last[row.ID.String()]; want != "" && row.Status != want {
			r.violate(Violation{Invariant: AnswersMatch, Detail: fmt.Sprintf("the last answer said that order %s is %s, but it is %s", row.ID, want, row.Status)})
		}
	}
	return s.reconcileLatePayments(ctx)
}

// reconcileLatePayments checks that each payment that was answered as late is listed.
func (s *soak) reconcileLatePayments(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(s.cfg.Seed, hash("late payments")))
	listed := map[latePayment]int{}
	cursor := ""
	for {
		req := request{name: "list late payments", method: http.MethodGet, path: "/v1/admin/late-payments?limit=200" + cursor, token: s.adminToken}
		re, err := s.settle(ctx, rng, req)
		if err != nil {
			return err
		}
		if re.status != http.StatusOK {
			return fmt.Errorf("list late payments: %s", re.outcome())
		}
		var page wire.LatePaymentList
		if err := json.Unmarshal(re.body, &page); err != nil {
			return err
		}
		for _, p := range page.Items {
			listed[latePayment{p.OrderID.String(), p.Reference}]++
		}
		if page.NextCursor == nil {
			break
		}
		cursor = "&cursor=" + url.QueryEscape(*page.NextCursor)
	}
	for p := range s.record.late {
		if n := listed[p]; n != 1 {
			s.record.violate(Violation{Invariant: LateListed, Detail: fmt.Sprintf("payment %q of order %s is listed %d times", p.reference, p.orderID, n)})
		}
	}
	return nil
}
