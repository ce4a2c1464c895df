package order

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
)

// The refusals. Nothing was changed or stored: the same key may succeed later.
var (
	ErrSoldOut           = errors.New("sold out")
	ErrInsufficient      = errors.New("fewer units are left than were asked for")
	ErrNotOpen           = errors.New("the sale has not started")
	ErrOver              = errors.New("the sale has ended")
	ErrCustomerLimit     = errors.New("the per-customer limit is reached")
	ErrTooManyUnpaid     = errors.New("the customer has too many unpaid orders")          // over all SKUs
	ErrPriceChanged      = errors.New("the price has changed")                            // since the customer saw it
	ErrKeyReused         = errors.New("the idempotency key was used for another request") // the bodies differ
	ErrNotFound          = errors.New("order not found")                                  // among the customer's
	ErrPaymentWindowOver = errors.New("the payment window has ended")                     // even if the order has not expired yet
	ErrCancelled         = errors.New("the order is cancelled")                           // so it cannot be paid
	ErrAlreadyPaid       = errors.New("the order is already paid")                        // so it can be neither cancelled nor paid
	ErrReferenceUsed     = errors.New("the payment reference was used for another order")
	ErrPaymentMismatch   = errors.New("the payment has another amount or currency than the order")
	ErrExpired           = errors.New("the order has expired")   // so it cannot be cancelled
	ErrPrecondition      = errors.New("SKU precondition failed") // see Precondition
	ErrWithdrawn         = errors.New("the SKU is withdrawn")    // so it can be neither changed nor restocked
)

// The failures.
var (
	ErrBusy        = errors.New("too many orders are waiting") // the queue is full; nothing was applied
	ErrUnavailable = errors.New("not served in time")          // or a server did not answer; nothing was applied
	// ErrTokensBehind: the lock server issues tokens that are older than those in
	// the database. Nothing was applied, and retrying does not help.
	ErrTokensBehind = errors.New("the lock server issues tokens older than those in the database")
	// ErrAdopted: the database was switched to another strategy or lock server.
	// Nothing was applied, and this replica will apply nothing until it restarts.
	ErrAdopted = errors.New("the database was switched to another strategy or lock server")
	// ErrUnknown: the request may have been applied. Retry with the same key.
	ErrUnknown  = errors.New("the outcome is unknown")
	ErrInFlight = errors.New("a request with this key is in flight") // and not answered yet
)

var errNoToken = errors.New("the lock yields no token, which the fence needs")

var (
	// orderRefusals are refused orders, for which a replay takes precedence.
	orderRefusals = []error{stock.ErrUnknownSKU, ErrSoldOut, ErrInsufficient, ErrNotOpen, ErrOver, ErrCustomerLimit, ErrTooManyUnpaid, ErrPriceChanged}
	// notApplied are the failures after which nothing was applied.
	notApplied = []error{ErrUnavailable, ErrBusy, ErrTokensBehind, ErrAdopted}
	// otherErrors are the other errors that domainError leaves as they are.
	otherErrors = []error{stock.ErrTooManyUnits, ErrWithdrawn, ErrKeyReused, ErrNotFound, ErrPaymentWindowOver, ErrCancelled,
		ErrAlreadyPaid, ErrReferenceUsed, ErrPaymentMismatch, ErrExpired, ErrPrecondition, ErrUnknown, ErrInFlight, errNoToken}
)

func isAny(err error, list []error) bool {
	return slices.ContainsFunc(list, func(e error) bool { return errors.Is(err, e) })
}

// domainError wraps an error of a server as one of this package's errors. Errors
// that callers already act on stay as they are.
func domainError(err error) error {
	switch {
	case err == nil, isAny(err, orderRefusals), isAny(err, notApplied), isAny(err, otherErrors):
		return err
	case errors.Is(err, stock.ErrOutcomeUnknown):
		return unknown(err)
	case errors.Is(err, lock.ErrHeld):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return unavailable(err)
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

// unknown wraps an error, if any, after which the request may have been applied.
func unknown(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// outcomeOfStatement marks the error of a statement outside of a transaction as
// stock.ErrOutcomeUnknown, unless the error proves that nothing was applied.
func outcomeOfStatement(err error) error {
	if err == nil || stock.IsServerError(err) || notSent(err) {
		return err
	}
	return fmt.Errorf("%w: %w", stock.ErrOutcomeUnknown, err)
}

// notSent reports whether no statement was sent, or the server does not accept writes.
func notSent(err error) bool {
	return errors.Is(err, stock.ErrNoConnection) || errors.Is(err, driver.ErrBadConn) || stock.IsReadOnly(err)
}
