package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// problem is an answer of RFC 9457. It is also an error, so that handlers and
// what they call can return one.
type problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Errors []fieldError `json:"errors,omitempty"`
	// invalidToken: a token was given, and WWW-Authenticate says what is wrong with it.
	invalidToken bool
}

// fieldError says what is wrong with one field of the input.
type fieldError = contract.FieldError

func (p *problem) Error() string { return p.Title + ": " + p.Detail }

// kind is a row of the table of problems: what its type and title are, and
// which error of the domain it stands for, if it does for one.
type kind struct {
	slug   string
	status int
	title  string
	err    error
	// detail is what a caller can do about it.
	detail string
}

// What is answered in more places than one, or with a detail of its own.
var (
	kindSyntax        = kind{slug: "malformed-request", status: http.StatusBadRequest, title: "The request is malformed"}
	kindInvalid       = kind{slug: "invalid-input", status: http.StatusUnprocessableEntity, title: "The input is not valid"}
	kindUnauthorized  = kind{slug: "unauthorized", status: http.StatusUnauthorized, title: "A valid token is required"}
	kindForbidden     = kind{slug: "forbidden", status: http.StatusForbidden, title: "The token does not allow this"}
	kindNoRoute       = kind{slug: "not-found", status: http.StatusNotFound, title: "There is nothing here"}
	kindNoMethod      = kind{slug: "method-not-allowed", status: http.StatusMethodNotAllowed, title: "This method is not allowed here"}
	kindNotAcceptable = kind{slug: "not-acceptable", status: http.StatusNotAcceptable, title: "The Accept header takes none of the answers"}
	kindBodyLate      = kind{slug: "request-timeout", status: http.StatusRequestTimeout, title: "The body did not come in time",
		detail: "Nothing was applied. Send the request again."}
	kindTooLarge  = kind{slug: "body-too-large", status: http.StatusRequestEntityTooLarge, title: "The body is too large"}
	kindMediaType = kind{slug: "unsupported-media-type", status: http.StatusUnsupportedMediaType, title: "The body is not plain JSON"}
	kindHeaders   = kind{slug: "headers-too-large", status: http.StatusRequestHeaderFieldsTooLarge, title: "The headers are too large",
		detail: fmt.Sprintf("The path and the headers may have %d bytes.", maxHeaders)}
	kindInternal = kind{slug: "internal", status: http.StatusInternalServerError, title: "Something went wrong here",
		detail: "The error was logged. Retry with the same Idempotency-Key."}
	kindAlreadyPaid = kind{slug: "already-paid", status: http.StatusConflict, title: "The order is paid", err: order.ErrAlreadyPaid,
		detail: "Nothing of it was changed. If this was a second payment, its reference was kept for a refund."}
	kindPrecondition = kind{slug: "precondition-failed", status: http.StatusPreconditionFailed, title: "The SKU is not the one that was asked for",
		err: order.ErrPrecondition, detail: "Nothing was changed. Read the SKU again."}
	kindLocksHidden = kind{slug: "locks-not-shown", status: http.StatusNotImplemented, title: "Locks are not shown",
		detail: "This service's strategy takes no lock, or one whose server does not tell who holds it. See its table of strategies."}
	kindNotHeld = kind{slug: "lock-not-held", status: http.StatusNotFound, title: "Nobody holds this SKU's lock"}
	kindUnknown = kind{slug: "outcome-unknown", status: http.StatusGatewayTimeout, title: "The outcome is not known yet", err: order.ErrUnknown,
		detail: "It may have been applied. Retry with the same Idempotency-Key: nothing is applied twice."}
)

// kinds are all problems that there are.
var kinds = []kind{
	kindSyntax, kindInvalid, kindUnauthorized, kindForbidden, kindNoRoute, kindNoMethod, kindNotAcceptable, kindBodyLate, kindTooLarge,
	kindMediaType, kindHeaders, kindInternal, kindTooMany, kindAlreadyPaid, kindPrecondition, kindLocksHidden, kindNotHeld, kindUnknown,
	{"unknown-sku", http.StatusNotFound, "There is no such SKU", stock.ErrUnknownSKU, ""},
	{"unknown-order", http.StatusNotFound, "There is no such order", order.ErrNotFound, ""},
	{"sold-out", http.StatusConflict, "Sold out", order.ErrSoldOut, "No units are left."},
	{"insufficient-stock", http.StatusConflict, "Too few units are left", order.ErrInsufficient, "A smaller quantity may succeed."},
	{"sale-not-open", http.StatusConflict, "The sale has not begun", order.ErrNotOpen, "See sale_starts_at of the SKU."},
	{"sale-over", http.StatusConflict, "The sale is over", order.ErrOver, "See sale_ends_at of the SKU."},
	{"payment-window-over", http.StatusConflict, "The payment window is over", order.ErrPaymentWindowOver,
		"The order was not paid. The payment's reference, if one was given, was kept for a refund."},
	{"order-cancelled", http.StatusConflict, "The order is cancelled", order.ErrCancelled,
		"The order was not paid. The payment's reference, if one was given, was kept for a refund."},
	{"order-expired", http.StatusConflict, "The order has expired", order.ErrExpired, "Its units have returned to the sale, or are about to."},
	{"customer-limit", http.StatusConflict, "The limit for one customer is reached", order.ErrCustomerLimit, "See per_customer_limit of the SKU."},
	{"price-changed", http.StatusConflict, "The price has changed", order.ErrPriceChanged,
		"Nothing was ordered. See price_cents and currency of the SKU."},
	{"idempotency-key-reused", http.StatusUnprocessableEntity, "The Idempotency-Key was used for another request", order.ErrKeyReused,
		"Use a new key for a new request."},
	{"request-in-flight", http.StatusConflict, "A request with this Idempotency-Key is in flight", order.ErrInFlight,
		"Retry with the same Idempotency-Key."},
	{"busy", http.StatusServiceUnavailable, "Too many are waiting", order.ErrBusy,
		"Nothing was applied. Retry with the same Idempotency-Key."},
	{"tokens-behind", http.StatusServiceUnavailable, "The lock server is behind what was admitted", order.ErrTokensBehind,
		"Nothing was applied. The lock server was restored or emptied: an operator has to stop all replicas and run `api fence adopt`."},
	{"guard-changed", http.StatusServiceUnavailable, "The database was given to another guard", order.ErrAdopted,
		"Nothing was applied. An operator has to start this replica again."},
	{"unavailable", http.StatusServiceUnavailable, "Not served in time", order.ErrUnavailable,
		"Nothing was applied. Retry with the same Idempotency-Key."},
}

// retryAfter is what an answer of 503 or 504 asks a caller to wait, in seconds.
const retryAfter = "1"

func (k kind) problem(detail string, fields ...fieldError) *problem {
	if detail == "" {
		detail = k.detail
	}
	return &problem{Type: "/errors/" + k.slug, Title: k.title, Status: k.status, Detail: detail, Errors: fields}
}

// problemOf turns any error into a problem. What is not in the table is a fault
// of ours, and its text stays here.
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	for _, k := range kinds {
		if k.err != nil && errors.Is(err, k.err) {
			return k.problem("")
		}
	}
	return kindInternal.problem("")
}

// fail answers with the problem that err is. Faults of ours are logged here, and
// nowhere else. Overload and servers that do not answer are counted, and at most
// one a second is logged: a line for each caller would add to the load.
func (a *api) fail(c *gin.Context, err error) {
	p := problemOf(err)
	a.metrics.problem(p)
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
		return // too late to answer anything else
	}
	switch p.Status {
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		c.Header("Retry-After", retryAfter)
	case http.StatusUnauthorized:
		challenge := `Bearer realm="flashsale"`
		if p.invalidToken { // RFC 6750, section 3. Details have neither quotes nor backslashes.
			challenge += `, error="invalid_token", error_description="` + p.Detail + `"`
		}
		c.Header("WWW-Authenticate", challenge)
	}
	body, err := json.Marshal(p)
	if err != nil { // a struct of strings: it cannot be
		body = []byte("{}")
	}
	c.Data(p.Status, "application/problem+json", body)
}
