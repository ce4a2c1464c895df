package order

import (
	"database/sql/driver"
	"errors"
	"fmt"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
)

// The refusals. Nothing was changed, and the refusal is not stored: the same key
// may succeed later.
var (
	ErrSoldOut       = errors.New("sold out")
	ErrInsufficient  = errors.New("fewer units are left than were asked for")
	ErrNotOpen       = errors.New("the sale has not started")
	ErrOver          = errors.New("the sale has ended")
	ErrCustomerLimit = errors.New("the per-customer limit is reached")
	// ErrPriceChanged: the customer was shown another price.
	ErrPriceChanged = errors.New("the price has changed")
	// ErrKeyReused: the key belongs to an order with another body.
	ErrKeyReused = errors.New("the idempotency key was used for another request")
	// ErrNotFound: the customer has no such order.
	ErrNotFound = errors.New("order not found")
	// ErrPaymentWindowOver: the payment came after the window, whether or not the
	// Expirer has ended the order.
	ErrPaymentWindowOver = errors.New("the payment window has ended")
	// ErrCancelled: a cancelled order cannot be paid.
	ErrCancelled = errors.New("the order is cancelled")
	// ErrAlreadyPaid: a paid order can be neither cancelled nor paid again.
	ErrAlreadyPaid = errors.New("the order is already paid")
	// ErrExpired: an expired order cannot be cancelled.
	ErrExpired = errors.New("the order has expired")
	// ErrPrecondition: the SKU does not meet the caller's Precondition.
	ErrPrecondition = errors.New("SKU precondition failed")
)

// The failures.
var (
	// ErrBusy: the queue is full. Nothing was applied.
	ErrBusy = errors.New("too many orders are waiting")
	// ErrUnavailable: the time ran out, or a required server did not answer.
	// Nothing was applied.
	ErrUnavailable = errors.New("not served in time")
	// ErrTokensBehind: the lock server issues tokens that are older than those in
	// the database. Nothing was applied, and retrying does not help.
	ErrTokensBehind = errors.New("the lock server issues tokens older than those in the database")
	// ErrAdopted: the database was switched to another strategy or lock server.
	// Nothing was applied, and this replica will apply nothing until it restarts.
	ErrAdopted = errors.New("the database was switched to another strategy or lock server")
	// ErrUnknown: the request may have been applied. Retry with the same key.
	ErrUnknown = errors.New("the outcome is unknown")
	// ErrInFlight: another request with the same key has not been answered yet.
	ErrInFlight = errors.New("a request with this key is in flight")
)

// errNoToken: a fence is configured, but the lock yields no token. A zero token
// would be taken for the oldest one.
var errNoToken = errors.New("the lock yields no token")

var (
	// orderRefusals are the refusals of a new order, which a replay takes precedence over.
	orderRefusals = []error{ErrSoldOut, ErrInsufficient, ErrNotOpen, ErrOver, ErrCustomerLimit, ErrPriceChanged}
	// notApplied are the failures after which nothing was applied.
	notApplied = []error{ErrUnavailable, ErrBusy, ErrTokensBehind, ErrAdopted}
	// final are the other errors that domainError leaves as they are.
	final = []error{stock.ErrUnknownSKU, stock.ErrTooManyUnits, ErrKeyReused, ErrNotFound, ErrPaymentWindowOver, ErrCancelled,
		ErrAlreadyPaid, ErrExpired, ErrPrecondition, ErrUnknown, ErrInFlight, errNoToken}
)

func isAny(err error, list []error) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// domainError wraps an error of a server as one of this package's errors. Errors
// that callers already act on stay as they are.
func domainError(err error) error {
	switch {
	case err == nil, isAny(err, orderRefusals), isAny(err, notApplied), isAny(err, final):
		return err
	case errors.Is(err, stock.ErrOutcomeUnknown):
		return unknown(err)
	case errors.Is(err, lock.ErrHeld):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return unavailable(err)
}

// unavailable wraps an error after which nothing was applied.
func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

// unknown wraps an error after which the request may have been applied.
func unknown(err error) error { return fmt.Errorf("%w: %w", ErrUnknown, err) }

// orUnknown marks the error of a statement that commits by itself as
// stock.ErrOutcomeUnknown, unless the error proves that nothing was applied.
func orUnknown(err error) error {
	if err == nil || stock.IsServerError(err) || notSent(err) {
		return err
	}
	return fmt.Errorf("%w: %w", stock.ErrOutcomeUnknown, err)
}

// notSent reports whether no statement was sent, or the server takes no writes.
func notSent(err error) bool {
	return errors.Is(err, stock.ErrNoConnection) || errors.Is(err, driver.ErrBadConn) || stock.IsReadOnly(err)
}
