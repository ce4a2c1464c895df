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

// Payment says that an order was paid.
type Payment struct {
	// Customer is whose order it is, or "" if that does not matter, because a payment
	// service confirms the payment.
	Customer string
	Order    ID
	// Reference identifies the payment. It may be empty. One reference pays one order.
	Reference string
	// AmountCents and Currency, if not nil, must be those of the order.
	AmountCents *int64
	Currency    *string
	// Late, if not nil, is called before a payment that bought nothing is stored for the
	// first time. If it returns an error, nothing is stored, and Pay returns the error.
	Late func() error
}

// matches reports whether the amount and the currency, if given, are the order's.
func (p *Payment) matches(o *Order) bool {
	return (p.AmountCents == nil || *p.AmountCents == o.TotalCents()) && (p.Currency == nil || *p.Currency == o.Currency)
}

// Pay records a payment of an order. Repeating the call with the same reference, or with
// none, gives the same answer. If the order was paid without a reference, the first one
// given becomes its reference. Pay refuses with ErrNotFound, ErrPaymentWindowOver,
// ErrCancelled, ErrPaymentMismatch, or ErrAlreadyPaid if another payment has paid it, and
// stores the reference once as a LatePayment, unless the order is another customer's. It
// refuses with ErrReferenceUsed if the reference was used for another order, paid or not.
// When it refuses, it returns the order if it exists. After ErrUnknown repeat the call.
func (s *Service) Pay(ctx context.Context, p Payment) (paid Order, err error) {
	err = s.untilKnown(ctx, func(ctx context.Context) error {
		var refusal error
		paid, refusal, err = s.payOnce(ctx, &p)
		if err == nil && refusal != nil && p.Reference != "" {
			err = s.keepLate(ctx, &p)
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
func (s *Service) payOnce(ctx context.Context, p *Payment) (o Order, refusal, err error) {
	if p.Customer == "" || p.AmountCents != nil || p.Currency != nil {
		o, err = inMySQL{s.cfg.DB}.findPayable(ctx, p.Customer, p.Order)
		switch {
		case errors.Is(err, ErrNotFound):
			return o, err, nil
		case err != nil:
			return o, nil, unavailable(err)
		}
		p.Customer = o.Customer
		if !p.matches(&o) { // an order's amount never changes
			return o, ErrPaymentMismatch, nil
		}
	}
	var now time.Time
	var used bool
	pay := func(how payment) (err error) {
		o, now, used, err = s.cfg.database.pay(ctx, how, p.Customer, p.Order, p.Reference)
		return err
	}
	err = retryBound(func() (err error) {
		err = pay(payOrder)
		for _, how := range []payment{namePayment, nameArchived} { // it may just have been archived
			if err == nil && o.Status == Paid && o.PaymentReference == "" && p.Reference != "" {
				err = pay(how)
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
	case o.Status == Paid && (p.Reference == "" || p.Reference == o.PaymentReference):
		return o, nil, nil
	case used:
		return o, nil, ErrReferenceUsed
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
