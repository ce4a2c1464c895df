package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/mysqlsession"
)

// This file is the life of an order after it was made. An order that costs nothing is
// created as paid, all others as reserved:
//
//	              Pay, within the window
//	(reserved) ------------------------------> (paid)
//	    |  |
//	    |  |   Cancel
//	    |  +---------------------------------> (cancelled)   its units return
//	    |
//	    |      after the window, the Expirer
//	    +------------------------------------> (expired)     its units return
//
// Each transition is a compare-and-swap of the status, so only one of them succeeds.
// Paying locks only the order's row. Units return through the SKU's desk.

// Pay records a payment of an order. reference identifies the payment and may be
// empty. Repeating the call with the same reference, or with none, gives the same
// answer. If the order was paid without a reference, the first one given becomes its
// reference. Pay refuses with ErrNotFound, ErrPaymentWindowOver, ErrCancelled, or
// ErrAlreadyPaid if another payment has paid it. When it refuses, it stores the reference
// once as a LatePayment, unless the order is another customer's. After ErrUnknown repeat
// the call.
func (s *Service) Pay(ctx context.Context, customer string, id ID, reference string) (paid Order, err error) {
	err = s.untilKnown(ctx, func(ctx context.Context) error {
		var refusal error
		paid, refusal, err = s.payOnce(ctx, customer, id, reference)
		if err == nil && refusal != nil && reference != "" {
			err = s.keepLate(ctx, id, customer, reference)
		}
		if err != nil {
			return err
		}
		return refusal
	})
	return paid, err
}

// payOnce pays the order if that is still possible, and reads it. The reference tells
// whether this payment was the one that paid.
func (s *Service) payOnce(ctx context.Context, customer string, id ID, reference string) (o Order, refusal, err error) {
	var now time.Time
	err = retryRolledBack(func() (err error) {
		o, now, err = s.cfg.database.pay(ctx, payOrder, customer, id, reference)
		for _, name := range []string{namePayment, nameArchived} { // it may just have been archived
			if err == nil && o.Status == Paid && o.PaymentReference == "" && reference != "" {
				o, now, err = s.cfg.database.pay(ctx, name, customer, id, reference)
			}
		}
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return o, err, nil
	case notSent(err) && !mysqlsession.Detached(err):
		return o, nil, unavailable(err)
	case err != nil: // the first statement may have paid, whatever happened to the second
		return o, nil, unknown(err)
	}
	switch {
	case o.Status == Paid && (reference == "" || reference == o.PaymentReference):
		return o, nil, nil
	case o.Status == Paid:
		return o, ErrAlreadyPaid, nil
	case o.Status == Cancelled:
		return o, ErrCancelled, nil
	case o.Status == Reserved && now.Before(o.ExpiresAt):
		// It did not exist yet when the first statement ran.
		return o, nil, fmt.Errorf("%w: the order has only just been made", ErrUnknown)
	}
	return o, ErrPaymentWindowOver, nil
}

// Cancel cancels a reserved order and returns its units to the sale, once. Repeating
// the call gives the same answer. It refuses with ErrNotFound, ErrAlreadyPaid or
// ErrExpired. After ErrUnknown the order may be cancelled; repeat the call.
func (s *Service) Cancel(ctx context.Context, customer string, id ID) (o Order, err error) {
	err = s.untilKnown(ctx, func(ctx context.Context) error {
		if o, err = s.Find(ctx, customer, id); err != nil {
			return err
		}
		if o.Status == Reserved {
			if err := s.seller.alter(ctx, o.SKU, change{cancel: &id}); err != nil {
				return err
			}
			if o, err = s.Find(ctx, customer, id); err != nil {
				return fmt.Errorf("%w: the order was cancelled, but reading it failed: %s", ErrUnknown, err.Error())
			}
		}
		switch o.Status {
		case Paid:
			return ErrAlreadyPaid
		case Expired:
			return ErrExpired
		case Cancelled:
			return s.units.giveBack(ctx, o.SKU, []ID{id})
		}
		return fmt.Errorf("%w: order %s is still %s", ErrUnknown, id, o.Status)
	})
	return o, err
}
