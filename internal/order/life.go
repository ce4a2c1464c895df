package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/mysqlsession"
	"flashsale/internal/stock/etcdstock"
)

// This file is an order's life after it was made:
//
// An order that costs nothing is made paid. Others are made reserved:
//
//	              Pay, within the window
//	(reserved) ------------------------------> (paid)
//	    |  |
//	    |  |   Cancel
//	    |  +---------------------------------> (cancelled)   its units return
//	    |
//	    |      past the window, the Expirer
//	    +------------------------------------> (expired)     its units return
//
// Each is a compare-and-swap on the status, of a row that only one of them can
// have. Paying takes no lock but the row's; units return through the SKU's desk.

// List reads up to limit of a customer's orders, the newest first: those made
// before the given one, or with a zero ID the newest of all.
func (s *Service) List(ctx context.Context, customer string, before ID, limit int) ([]Order, error) {
	orders, err := list(ctx, s.cfg.DB, customer, before, limit)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return orders, nil
}

// Pay says that an order was paid, by a payment called reference, which may be
// empty. Repeating it with the same reference, or none, is the same answer; the
// first reference of an order that was paid without one names that payment. It
// refuses with ErrNotFound, ErrPaymentWindowOver, ErrCancelled, or ErrAlreadyPaid
// by another reference: then the reference is kept, once, as a LatePayment. Of an
// order that is not found it is kept unless the order is another customer's.
// After ErrUnknown the order may be paid, or the reference kept; repeating tells.
func (s *Service) Pay(ctx context.Context, customer string, id ID, reference string) (paid Order, err error) {
	err = s.until(ctx, func(ctx context.Context) error {
		var refusal error
		paid, refusal, err = s.payOnce(ctx, customer, id, reference)
		if err != nil {
			return err
		}
		if refusal == nil || reference == "" {
			return refusal
		}
		if err := s.keepLate(ctx, id, customer, reference); err != nil {
			return err
		}
		return refusal
	})
	return paid, err
}

// payOnce pays, if that is still possible, and reads the order as it then is. No
// row of it says by itself who has paid: the reference does.
func (s *Service) payOnce(ctx context.Context, customer string, id ID, reference string) (o Order, refusal, err error) {
	var now time.Time
	err = retried(func() (err error) {
		o, now, err = pay(ctx, s.cfg.DB, payOrder, customer, id, reference)
		for _, name := range []string{namePayment, nameArchived} { // it may just have been archived
			if err == nil && o.Status == Paid && o.PaymentReference == "" && reference != "" {
				o, now, err = pay(ctx, s.cfg.DB, name, customer, id, reference)
			}
		}
		return err
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return o, err, nil
	case notSent(err) && !mysqlsession.Detached(err):
		return o, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case err != nil: // that it was paid may have been the first statement's answer, whatever the second's was
		return o, nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	switch o.Status {
	case Paid:
		if reference != "" && reference != o.PaymentReference {
			return o, ErrAlreadyPaid, nil
		}
		return o, nil, nil
	case Cancelled:
		return o, ErrCancelled, nil
	case Expired:
		return o, ErrPaymentWindowOver, nil
	}
	if now.Before(o.ExpiresAt) {
		// It was not there yet as it was to be paid.
		return o, nil, fmt.Errorf("%w: the order has only just been made", ErrUnknown)
	}
	return o, ErrPaymentWindowOver, nil
}

// Cancel cancels a reserved order, and its units return to the sale, once.
// Repeating it is the same answer. It refuses with ErrNotFound, ErrAlreadyPaid
// or ErrExpired. After ErrUnknown the order may be cancelled; repeating tells.
func (s *Service) Cancel(ctx context.Context, customer string, id ID) (o Order, err error) {
	err = s.until(ctx, func(ctx context.Context) error {
		if o, err = s.read(ctx, customer, id); err != nil {
			return err
		}
		if o.Status == Reserved {
			if err := s.seller.alter(ctx, o.SKU, change{cancel: &id}); err != nil {
				return err
			}
			if o, err = s.read(ctx, customer, id); err != nil {
				return fmt.Errorf("%w: it was cancelled, and not read: %s", ErrUnknown, err.Error())
			}
		}
		switch o.Status {
		case Paid:
			return ErrAlreadyPaid
		case Expired:
			return ErrExpired
		case Cancelled:
			return s.cfg.unitsReturn(ctx, o.SKU, id)
		}
		return fmt.Errorf("%w: order %s is still %s", ErrUnknown, id, o.Status)
	})
	return o, err
}

// read is Find, whose trouble is ErrUnavailable.
func (s *Service) read(ctx context.Context, customer string, id ID) (Order, error) {
	o, err := find(ctx, s.cfg.DB, customer, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return o, err
}

// unitsReturn gives an order's units back in etcd, too, where the stock is kept
// there. It may be repeated: they return once.
func (cfg *Config) unitsReturn(ctx context.Context, sku string, id ID) error {
	if cfg.Units == nil {
		return nil
	}
	if _, err := cfg.Units.GiveBack(ctx, sku, id.String()); err != nil && !errors.Is(err, etcdstock.ErrNotTaken) {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return nil
}
