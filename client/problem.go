package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"flashsale/client/wire"
)

// Kind is the stable name of a problem, like "sold-out". The service has a page about
// each, at /errors/<kind>. A Kind is an error: use it with errors.Is.
type Kind string

// The kinds of problem.
const (
	// The order was refused. Nothing was changed.
	ErrSoldOut           Kind = "sold-out"
	ErrInsufficientStock Kind = "insufficient-stock"
	ErrSaleNotOpen       Kind = "sale-not-open"
	ErrSaleOver          Kind = "sale-over"
	ErrCustomerLimit     Kind = "customer-limit"
	ErrTooManyUnpaid     Kind = "too-many-unpaid"
	ErrPriceChanged      Kind = "price-changed"

	// The order is already paid, cancelled or expired, or has another amount. A
	// payment's reference was stored for a refund.
	ErrPaymentWindowOver Kind = "payment-window-over"
	ErrOrderCancelled    Kind = "order-cancelled"
	ErrOrderExpired      Kind = "order-expired"
	ErrAlreadyPaid       Kind = "already-paid"
	ErrPaymentMismatch   Kind = "payment-mismatch"

	// The reference was used for another order. The order was not changed.
	ErrPaymentReferenceUsed Kind = "payment-reference-used"

	// The SKU was withdrawn, so it can be neither changed nor restocked.
	ErrSKUWithdrawn Kind = "sku-withdrawn"

	// It does not exist, or belongs to another customer.
	ErrUnknownSKU   Kind = "unknown-sku"
	ErrUnknownOrder Kind = "unknown-order"
	ErrLockNotHeld  Kind = "lock-not-held"
	ErrNotFound     Kind = "not-found"

	// The request is wrong. Problem.Fields names the wrong fields.
	ErrMalformedRequest     Kind = "malformed-request"
	ErrInvalidInput         Kind = "invalid-input"
	ErrIdempotencyKeyReused Kind = "idempotency-key-reused"
	ErrPreconditionFailed   Kind = "precondition-failed"
	ErrMethodNotAllowed     Kind = "method-not-allowed"
	ErrNotAcceptable        Kind = "not-acceptable"
	ErrUnsupportedMediaType Kind = "unsupported-media-type"
	ErrBodyTooLarge         Kind = "body-too-large"
	ErrHeadersTooLarge      Kind = "headers-too-large"
	ErrRequestTimeout       Kind = "request-timeout"

	// The token is missing, not valid, or does not allow the call.
	ErrUnauthorized Kind = "unauthorized"
	ErrForbidden    Kind = "forbidden"

	// The service could not serve the call, after all retries. Only
	// ErrOutcomeUnknown means that the call may have been applied.
	ErrTooManyRequests Kind = "too-many-requests"
	ErrRequestInFlight Kind = "request-in-flight"
	ErrBusy            Kind = "busy"
	ErrUnavailable     Kind = "unavailable"
	ErrGuardChanged    Kind = "guard-changed"
	ErrTokensBehind    Kind = "tokens-behind"
	ErrOutcomeUnknown  Kind = "outcome-unknown"

	// The service failed, and the call may have been applied; or the service does
	// not support the call.
	ErrInternal      Kind = "internal"
	ErrLocksNotShown Kind = "locks-not-shown"
)

// Error returns the kind.
func (k Kind) Error() string { return string(k) }

// FieldError says what is wrong with one field of a request.
type FieldError = wire.FieldError

// Problem is an error answer (RFC 9457).
type Problem struct {
	// Kind is empty if the answer came from a proxy.
	Kind   Kind
	Status int
	Title  string
	Detail string
	Fields []FieldError
	// RetryAfter is the wait that the service asks for, or 0.
	RetryAfter time.Duration
	// CountsUntil is when the order fits, because units of cancelled orders no longer count,
	// with ErrCustomerLimit under the hold policy strict; else zero.
	CountsUntil time.Time
	// Replica is the replica that answered.
	Replica string
}

// Error returns the problem in one line.
func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", p.Status)
	for _, text := range []string{string(p.Kind), p.Title, p.Detail} {
		if text != "" {
			b.WriteString(": " + strings.TrimSuffix(text, "."))
		}
	}
	for _, field := range p.Fields {
		fmt.Fprintf(&b, "; %s %s", field.Field, field.Message)
	}
	return b.String()
}

// Is reports whether target is the problem's Kind.
func (p *Problem) Is(target error) bool {
	kind, ok := target.(Kind)
	return ok && kind == p.Kind
}

// problemOf parses an error answer. One without problem+json is a proxy's.
func problemOf(status int, header http.Header, body []byte) *Problem {
	p := &Problem{Status: status, Title: http.StatusText(status), Replica: header.Get("X-Replica")}
	if seconds, err := strconv.Atoi(header.Get("Retry-After")); err == nil && seconds > 0 {
		p.RetryAfter = time.Duration(seconds) * time.Second
	}
	var got struct {
		Type, Title, Detail string
		Errors              []FieldError
		CountsUntil         time.Time `json:"counts_until"`
	}
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	if kind == "application/problem+json" && json.Unmarshal(body, &got) == nil {
		p.CountsUntil = got.CountsUntil
		p.Kind, p.Title, p.Detail, p.Fields = Kind(strings.TrimPrefix(got.Type, "/errors/")), got.Title, got.Detail, got.Errors
	}
	return p
}
