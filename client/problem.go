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

// Kind is what a problem is, as a word that does not change: "sold-out". The
// service has a page on each, at /errors/ and this word. A Kind is also the error
// that errors.Is finds in what a call returns.
type Kind string

// The kinds of problem.
const (
	// The order was refused, and nothing was changed.
	ErrSoldOut           Kind = "sold-out"
	ErrInsufficientStock Kind = "insufficient-stock"
	ErrSaleNotOpen       Kind = "sale-not-open"
	ErrSaleOver          Kind = "sale-over"
	ErrCustomerLimit     Kind = "customer-limit"
	ErrPriceChanged      Kind = "price-changed"

	// The order has come to another end. A payment's reference was kept for a
	// refund.
	ErrPaymentWindowOver Kind = "payment-window-over"
	ErrOrderCancelled    Kind = "order-cancelled"
	ErrOrderExpired      Kind = "order-expired"
	ErrAlreadyPaid       Kind = "already-paid"

	// There is no such thing, or not for this customer.
	ErrUnknownSKU   Kind = "unknown-sku"
	ErrUnknownOrder Kind = "unknown-order"
	ErrLockNotHeld  Kind = "lock-not-held"
	ErrNotFound     Kind = "not-found"

	// The request is wrong: Problem.Fields says where.
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

	// The token is missing, wrong, or does not allow this.
	ErrUnauthorized Kind = "unauthorized"
	ErrForbidden    Kind = "forbidden"

	// The service could not serve the call, which was tried again as often as may
	// be. Only ErrOutcomeUnknown leaves open whether it was applied.
	ErrTooManyRequests Kind = "too-many-requests"
	ErrRequestInFlight Kind = "request-in-flight"
	ErrBusy            Kind = "busy"
	ErrUnavailable     Kind = "unavailable"
	ErrGuardChanged    Kind = "guard-changed"
	ErrTokensBehind    Kind = "tokens-behind"
	ErrOutcomeUnknown  Kind = "outcome-unknown"

	// The service has a fault, which it logged, and a change may have been applied
	// all the same; or it cannot do this at all.
	ErrInternal      Kind = "internal"
	ErrLocksNotShown Kind = "locks-not-shown"
)

// Error is the kind's word.
func (k Kind) Error() string { return string(k) }

// FieldError says what is wrong with one field of a request.
type FieldError = wire.FieldError

// Problem is an answer that is an error, of RFC 9457.
type Problem struct {
	// Kind is empty where the answer is not the service's own, but a proxy's.
	Kind   Kind
	Status int
	Title  string
	Detail string
	Fields []FieldError
	// RetryAfter is how long the service asks to wait; 0 if it does not say.
	RetryAfter time.Duration
	// Replica is the one that answered.
	Replica string
}

// Error is one line.
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

// problemOf reads an answer that is not a success. What is no problem+json is the
// word of somebody between here and the service.
func problemOf(status int, header http.Header, body []byte) *Problem {
	p := &Problem{Status: status, Title: http.StatusText(status), Replica: header.Get("X-Replica")}
	if seconds, err := strconv.Atoi(header.Get("Retry-After")); err == nil && seconds > 0 {
		p.RetryAfter = time.Duration(seconds) * time.Second
	}
	var said wire.Problem
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	if kind != "application/problem+json" || json.Unmarshal(body, &said) != nil {
		return p
	}
	p.Kind = Kind(strings.TrimPrefix(said.Type, "/errors/"))
	p.Title = said.Title
	if said.Detail != nil {
		p.Detail = *said.Detail
	}
	if said.Errors != nil {
		p.Fields = *said.Errors
	}
	return p
}
