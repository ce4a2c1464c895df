package httpapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// problem is a body of RFC 9457, and an error that handlers can return.
type problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Errors []fieldError `json:"errors,omitempty"`
	// CountsUntil is set for order.StillHeldError.
	CountsUntil *time.Time `json:"counts_until,omitempty"`
	// invalidToken makes WWW-Authenticate say what is wrong with the token.
	invalidToken bool
	// guess is set if the token is neither the admin token nor signed by the issuer.
	guess bool
}

// fieldError says what is wrong with one field of the input.
type fieldError = contract.FieldError

func (p *problem) Error() string { return p.Title + ": " + p.Detail }

func (p *problem) slug() string { return strings.TrimPrefix(p.Type, "/errors/") }

// kind is a row of the table of problems.
type kind struct {
	Slug   string
	Status int
	Title  string
	err    error  // the domain's error that this kind answers, if any
	detail string // the default: what the caller can do
}

// These kinds are used by name, most of them with a detail of their own.
var (
	kindSyntax        = kind{Slug: "malformed-request", Status: http.StatusBadRequest, Title: "The request is malformed"}
	kindInvalid       = kind{Slug: "invalid-input", Status: http.StatusUnprocessableEntity, Title: "The input is not valid"}
	kindUnauthorized  = kind{Slug: "unauthorized", Status: http.StatusUnauthorized, Title: "A valid token is required"}
	kindForbidden     = kind{Slug: "forbidden", Status: http.StatusForbidden, Title: "The token does not allow this call"}
	kindNoRoute       = kind{Slug: "not-found", Status: http.StatusNotFound, Title: "No such path"}
	kindNoMethod      = kind{Slug: "method-not-allowed", Status: http.StatusMethodNotAllowed, Title: "The method is not allowed"}
	kindNotAcceptable = kind{Slug: "not-acceptable", Status: http.StatusNotAcceptable, Title: "No acceptable media type"}
	kindBodyLate      = kind{Slug: "request-timeout", Status: http.StatusRequestTimeout, Title: "The request body timed out",
		detail: "Nothing was applied. Send the request again."}
	kindTooLarge  = kind{Slug: "body-too-large", Status: http.StatusRequestEntityTooLarge, Title: "The body is too large"}
	kindMediaType = kind{Slug: "unsupported-media-type", Status: http.StatusUnsupportedMediaType, Title: "The body must be uncompressed JSON"}
	kindHeaders   = kind{Slug: "headers-too-large", Status: http.StatusRequestHeaderFieldsTooLarge, Title: "The headers are too large",
		detail: fmt.Sprintf("The path and the headers may have at most %d bytes.", maxHeaders)}
	kindInternal = kind{Slug: "internal", Status: http.StatusInternalServerError, Title: "Internal error",
		detail: "The error was logged. Retry with the same Idempotency-Key."}
	kindTooMany = kind{Slug: "too-many-requests", Status: http.StatusTooManyRequests, Title: "Too many requests",
		detail: "Nothing was applied. Wait Retry-After seconds, then retry."}
	kindAlreadyPaid = kind{Slug: "already-paid", Status: http.StatusConflict, Title: "The order is already paid", err: order.ErrAlreadyPaid,
		detail: "The order was not changed. If this was a second payment, its reference was stored for a refund."}
	kindMismatch     = kind{Slug: "payment-mismatch", Status: http.StatusConflict, Title: "The payment does not match the order", err: order.ErrPaymentMismatch}
	kindPrecondition = kind{Slug: "precondition-failed", Status: http.StatusPreconditionFailed, Title: "SKU precondition failed",
		err: order.ErrPrecondition, detail: "The SKU was not changed. Read it again."}
	kindLocksHidden = kind{Slug: "locks-not-shown", Status: http.StatusNotImplemented, Title: "Locks cannot be listed",
		detail: "The service's strategy uses no lock, or its lock server does not report holders. Run `api strategies` for the list."}
	kindNotHeld = kind{Slug: "lock-not-held", Status: http.StatusNotFound, Title: "The lock is not held"}
	kindUnknown = kind{Slug: "outcome-unknown", Status: http.StatusGatewayTimeout, Title: "The outcome is unknown", err: order.ErrUnknown,
		detail: "The request may have been applied. Retry with the same Idempotency-Key: nothing is applied twice."}
)

const (
	retrySameKey = "Nothing was applied. Retry with the same Idempotency-Key."
	lateDetail   = "The order was not paid. If the payment has a reference, it was stored for a refund."
)

// kinds is the table of all problems.
var kinds = []kind{
	kindSyntax, kindInvalid, kindUnauthorized, kindForbidden, kindNoRoute, kindNoMethod, kindNotAcceptable, kindBodyLate, kindTooLarge,
	kindMediaType, kindHeaders, kindInternal, kindTooMany, kindAlreadyPaid, kindMismatch, kindPrecondition, kindLocksHidden, kindNotHeld, kindUnknown,
	{"unknown-sku", http.StatusNotFound, "No such SKU", stock.ErrUnknownSKU, ""},
	{"sku-withdrawn", http.StatusConflict, "The SKU is withdrawn", order.ErrWithdrawn,
		"Nothing was changed. A withdrawn SKU does not come back: sell its units under another name."},
	{"unknown-order", http.StatusNotFound, "No such order", order.ErrNotFound, ""},
	{"sold-out", http.StatusConflict, "Sold out", order.ErrSoldOut, "No units are left."},
	{"insufficient-stock", http.StatusConflict, "Not enough units are left", order.ErrInsufficient, "A smaller quantity may succeed."},
	{"sale-not-open", http.StatusConflict, "The sale has not started", order.ErrNotOpen, "See sale_starts_at of the SKU."},
	{"sale-over", http.StatusConflict, "The sale is over", order.ErrOver, "See sale_ends_at of the SKU."},
	{"payment-window-over", http.StatusConflict, "The payment window is over", order.ErrPaymentWindowOver, lateDetail},
	{"order-cancelled", http.StatusConflict, "The order is cancelled", order.ErrCancelled, lateDetail},
	{"payment-reference-used", http.StatusConflict, "The payment reference was used for another order", order.ErrReferenceUsed,
		"The order was not changed. One reference pays one order."},
	{"order-expired", http.StatusConflict, "The order has expired", order.ErrExpired, "Its units are on sale again, or will be in a moment."},
	{"customer-limit", http.StatusConflict, "The customer's limit is reached", order.ErrCustomerLimit, "See per_customer_limit of the SKU."},
	{"too-many-unpaid", http.StatusConflict, "Too many unpaid orders", order.ErrTooManyUnpaid, "Pay or cancel an order first."},
	{"price-changed", http.StatusConflict, "The price has changed", order.ErrPriceChanged,
		"No order was placed. See price_cents and currency of the SKU."},
	{"idempotency-key-reused", http.StatusUnprocessableEntity, "The Idempotency-Key was used for another request", order.ErrKeyReused,
		"Use a new key for a new request."},
	{"request-in-flight", http.StatusConflict, "A request with this Idempotency-Key is in flight", order.ErrInFlight,
		"Retry with the same Idempotency-Key."},
	{"busy", http.StatusServiceUnavailable, "The replica is busy", order.ErrBusy, retrySameKey},
	{"tokens-behind", http.StatusServiceUnavailable, "The lock server's tokens are too old", order.ErrTokensBehind,
		"Nothing was applied. The lock server was restored or emptied: an operator must stop all replicas and run `api fence adopt`."},
	{"guard-changed", http.StatusServiceUnavailable, "The database was switched to another strategy or lock server", order.ErrAdopted,
		"Nothing was applied. An operator must restart this replica."},
	{"unavailable", http.StatusServiceUnavailable, "Temporarily unavailable", order.ErrUnavailable, retrySameKey},
}

func (k kind) problem(detail string, fields ...fieldError) *problem {
	if detail == "" {
		detail = k.detail
	}
	return &problem{Type: "/errors/" + k.Slug, Title: k.Title, Status: k.Status, Detail: detail, Errors: fields}
}

// problemOf returns the problem for an error. An error that is not in the table is
// internal, and its text is not sent.
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	for _, k := range kinds {
		if k.err != nil && errors.Is(err, k.err) {
			p := k.problem("")
			if still, ok := errors.AsType[*order.StillHeldError](err); ok {
				p.CountsUntil = &still.Until
				p.Detail = "Because of your cancelled orders, this quantity can be ordered from " + still.Until.Add(time.Second-1).Truncate(time.Second).Format("2006-01-02 15:04:05") + " UTC on."
			}
			return p
		}
	}
	return kindInternal.problem("")
}

// fail answers with the problem for err. It logs every 500, but at most one 503 or
// 504 a second: in an overload, a line for each would add to the load.
func (a *api) fail(c *gin.Context, err error) {
	p := problemOf(err)
	a.metrics.problems.WithLabelValues(p.slug()).Inc()
	if this := callIn(c); this != nil {
		this.problem = p
	}
	if p.Status >= http.StatusInternalServerError {
		level := slog.LevelDebug
		if p.Status == http.StatusInternalServerError {
			level = slog.LevelError
		} else if a.sample.Allow() {
			level = slog.LevelWarn
		}
		a.cfg.Logger.Log(c.Request.Context(), level, "request failed", "method", c.Request.Method, "route", c.FullPath(), "status", p.Status, "error", err)
	}
	c.Abort()
	if c.Writer.Written() {
		return
	}
	switch p.Status {
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		c.Header("Retry-After", "1") // second
	case http.StatusUnauthorized:
		challenge := `Bearer realm="flashsale"`
		if p.invalidToken { // RFC 6750, section 3; details contain no quotes or backslashes
			challenge += `, error="invalid_token", error_description="` + p.Detail + `"`
		}
		c.Header("WWW-Authenticate", challenge)
	}
	c.Header("Content-Type", "application/problem+json") // gin keeps it
	c.JSON(p.Status, p)
}
