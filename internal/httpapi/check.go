package httpapi

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"flashsale/internal/httpapi/contract"
)

const (
	// maxHeaders is far more than a token and a browser's headers need.
	maxHeaders = 16 << 10
	// maxBody is far more than any body of the API needs.
	maxBody = 64 << 10
	// maxKey is the longest idempotency key, in bytes.
	maxKey = 255
)

// call is what the checks have read of a request.
type call struct {
	// operation is nil for pages and for unknown routes.
	operation *contract.Operation
	// customer is the token's subject, for operations of customers.
	customer string
	// body has passed the operation's checks. It may be empty if optional.
	body []byte
	// problem is the answer, unless the call succeeded.
	problem *problem
	// actor, change and counted are for the trail of administrators' calls. counted is a
	// wrong token that counts against its address: limit.AdminGuesses bounds those.
	actor   actor
	change  change
	counted bool
}

const callKey = "flashsale/call"

// callOf returns the request's call, which admit has set.
func callOf(c *gin.Context) *call { return c.MustGet(callKey).(*call) }

// callIn is callOf, or nil before admit.
func callIn(c *gin.Context) *call {
	value, _ := c.Get(callKey)
	this, _ := value.(*call)
	return this
}

// admit is the first check: the size of the headers, the path, and whether the
// caller accepts one of the operation's media types.
func (a *api) admit(c *gin.Context) {
	c.Header("X-Replica", a.cfg.Replica)
	o := a.operations[route{c.Request.Method, c.FullPath()}]
	c.Set(callKey, &call{operation: o})
	switch {
	case (o == nil || o.Answers(http.StatusRequestHeaderFieldsTooLarge)) && headerBytes(c.Request) > maxHeaders:
		c.Header("Connection", "close")
		a.fail(c, kindHeaders.problem(""))
	case strings.Contains(pathOf(c), "//"):
		// gin would accept an empty path parameter.
		a.fail(c, kindNoRoute.problem(""))
	case o == nil:
	case o.Streams() && c.Request.Context().Value(headKey{}) != nil:
		c.Header("Allow", http.MethodGet)
		a.fail(c, kindNoMethod.problem("Streams do not support HEAD."))
	case o.Answers(http.StatusNotAcceptable) && !acceptable(c.Request.Header.Values("Accept"), o.Types):
		a.fail(c, kindNotAcceptable.problem("This call answers with "+strings.Join(o.Types, ", ")+"."))
	}
}

// pathOf returns the path as gin routes it, where an escaped slash stays escaped.
func pathOf(c *gin.Context) string { return cmp.Or(c.Request.URL.RawPath, c.Request.URL.Path) }

// headerBytes is the approximate size of the request line and the headers.
func headerBytes(r *http.Request) int {
	n := len(r.RequestURI)
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(value) + len(": \r\n")
		}
	}
	return n
}

// authenticate checks the token that the operation requires.
func (a *api) authenticate(c *gin.Context) {
	var err error
	switch this := callOf(c); this.operation.Scheme {
	case contract.Customer:
		err = a.authenticateCustomer(c)
	case contract.Administrator:
		err = a.authenticateAdministrator(c)
	case contract.Anyone:
	}
	if err != nil {
		a.fail(c, err)
	}
}

// The operations of the payment service.
const payOrder, getOrder = "payOrder", "getOrder"

// authenticateCustomer reads the customer from the token. A payment service has none: it
// pays the orders of all customers, and reads them first. Only the scope payment makes a
// caller one: administrators must not confirm payments by accident.
func (a *api) authenticateCustomer(c *gin.Context) error {
	got, err := a.verifier.claims(c)
	if err != nil {
		return err
	}
	this := callOf(c)
	pays := a.cfg.PaymentService && this.operation.ID == payOrder
	switch {
	case (pays || a.cfg.PaymentService && this.operation.ID == getOrder) && got.scoped("payment"):
		return nil
	case pays:
		return kindForbidden.problem("Only the shop's payment service confirms payments: the token's scope does not contain payment.")
	}
	this.customer, err = got.subject()
	return err
}

// checkParameters checks headers and query parameters, before the generated code
// binds them.
func (a *api) checkParameters(c *gin.Context) {
	inQuery := false
	for _, p := range callOf(c).operation.Parameters {
		switch p.In {
		case "query":
			inQuery = true
		case "header":
			if err := checkHeader(c.Request.Header, p.Name, p.Required); err != nil {
				a.fail(c, err)
				return
			}
		}
	}
	if !inQuery {
		return
	}
	query, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		a.fail(c, kindInvalid.problem("The query has an invalid % escape or a semicolon.", fieldError{Field: "(query)", Message: "must be name=value pairs joined by &"}))
		return
	}
	if wrong := callOf(c).operation.Query(query); len(wrong) > 0 {
		a.fail(c, kindInvalid.problem("See errors for each parameter.", wrong...))
	}
}

// checkHeader joins the lines of a header that is a list (If-Match,
// If-None-Match), and rejects repeated lines of any other.
func checkHeader(header http.Header, name string, required bool) error {
	values := header.Values(name)
	switch {
	case len(values) == 0 && required:
		return badHeader(name, "is missing")
	case len(values) > 1 && !required:
		header.Set(name, strings.Join(values, ", "))
	case len(values) > 1:
		return badHeader(name, "is given more than once")
	case required && values[0] == "":
		return badHeader(name, "is empty")
	}
	return nil
}

func badHeader(name, message string) error {
	return kindSyntax.problem("The "+name+" header "+message+".", fieldError{Field: name, Message: message})
}

// checkBody reads the body and checks it against the operation's schema.
func (a *api) checkBody(c *gin.Context) {
	this := callOf(c)
	// An empty optional body may have any Content-Type: browsers' forms set one.
	if this.operation.Body == nil || c.Request.ContentLength == 0 && !this.operation.BodyRequired {
		return
	}
	var err error
	if this.body, err = readBody(c); err == nil && (len(this.body) > 0 || this.operation.BodyRequired) {
		err = inputProblem(this.operation.Body.Check(this.body))
	}
	if err != nil {
		a.fail(c, err)
	}
}

// readBody reads the whole body. A missing Content-Type counts as JSON.
func readBody(c *gin.Context) ([]byte, error) {
	// A proxy may have used the other one.
	if len(c.Request.Header.Values("Content-Type")) > 1 {
		return nil, badHeader("Content-Type", "is given more than once")
	}
	if text := c.GetHeader("Content-Type"); text != "" && text != "application/json" {
		if kind, _, err := mime.ParseMediaType(text); err != nil || kind != "application/json" {
			return nil, kindMediaType.problem(fmt.Sprintf("Content-Type is %q; it must be application/json.", text))
		}
	}
	if text := strings.Join(c.Request.Header.Values("Content-Encoding"), ", "); text != "" && !strings.EqualFold(text, "identity") {
		c.Header("Accept-Encoding", "identity") // RFC 9110, 15.5.16
		return nil, kindMediaType.problem(fmt.Sprintf("Content-Encoding is %q; send the body uncompressed.", text))
	}
	read, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, maxBody))
	if err == nil {
		return read, nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, kindTooLarge.problem(fmt.Sprintf("The body may have at most %d bytes.", maxBody))
	}
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		return nil, kindBodyLate.problem("")
	}
	return nil, kindSyntax.problem("The body is incomplete.")
}

// inputProblem is the problem for an error of package contract.
func inputProblem(err error) error {
	if malformed, ok := errors.AsType[*contract.Malformed](err); ok {
		return kindSyntax.problem(malformed.Detail, malformed.Fields...)
	}
	if invalid, ok := errors.AsType[contract.Invalid](err); ok {
		return kindInvalid.problem("See errors for each field.", invalid...)
	}
	return err
}

// decode decodes the checked body into a generated type. An error means that the
// document and the generated types differ.
func decode[T any](c *gin.Context) (body T, err error) {
	if text := callOf(c).body; len(text) > 0 {
		if err = json.Unmarshal(text, &body, wholeNumbers); err != nil {
			err = fmt.Errorf("decode a checked body: %w", err)
		}
	}
	return body, err
}

// wholeNumbers reads integers as JSON Schema defines them: 2, 2.0 and 2e0 are equal.
var wholeNumbers = json.WithUnmarshalers(json.JoinUnmarshalers(json.UnmarshalFromFunc(readWhole[int32]), json.UnmarshalFromFunc(readWhole[int64])))

func readWhole[N int32 | int64](in *jsontext.Decoder, n *N) error {
	value, err := in.ReadValue()
	if err != nil {
		return err
	}
	whole, _ := contract.Integer(value)
	*n = N(whole)
	return nil
}

// acceptable reports whether an Accept header accepts one of types (RFC 9110,
// 12.5.1). A missing or unreadable header accepts everything.
func acceptable(header []string, types []string) bool {
	all := strings.Join(header, ",")
	if all == "" || all == "*/*" || len(types) == 0 || all == types[0] {
		return true
	}
	qualities := map[string]float64{} // by media range
	for item := range strings.SplitSeq(all, ",") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		media, quality, ok := mediaRange(item)
		if !ok {
			return true
		}
		qualities[media] = quality
	}
	return len(qualities) == 0 || slices.ContainsFunc(types, func(name string) bool {
		kind, _, _ := strings.Cut(name, "/")
		for _, media := range []string{name, kind + "/*", "*/*"} { // the most precise range decides
			if quality, given := qualities[media]; given {
				return quality > 0
			}
		}
		return false
	})
}

// mediaRange parses a range: text/html, text/* or */*, with a quality from 0 to 1.
func mediaRange(item string) (media string, quality float64, ok bool) {
	media, parameters, err := mime.ParseMediaType(item)
	kind, name, both := strings.Cut(media, "/")
	if err != nil || !both || strings.Contains(name, "*") && name != "*" || strings.Contains(kind, "*") && media != "*/*" {
		return "", 0, false
	}
	text, given := parameters["q"]
	if !given {
		return media, 1, true
	}
	quality, err = strconv.ParseFloat(text, 64)
	return media, quality, err == nil && quality >= 0 && quality <= 1
}

var (
	escape   = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	unescape = strings.NewReplacer(`\\`, `\`, `\"`, `"`)
)

// idempotencyKey reads the header of the IETF draft, a quoted string of RFC 8941, or
// a bare key. Only printable ASCII is accepted: proxies may change other bytes.
func idempotencyKey(header string) (string, error) {
	key, ok := strings.TrimSpace(header), true
	if body, quoted := strings.CutPrefix(key, `"`); quoted {
		body, ok = strings.CutSuffix(body, `"`)
		key = unescape.Replace(body)
		ok = ok && escape.Replace(key) == body // the notation is unique
	}
	message := ""
	switch {
	case !ok:
		message = "is not a valid quoted string"
	case key == "":
		message = "is empty"
	case len(key) > maxKey:
		message = fmt.Sprintf("is longer than %d bytes", maxKey)
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		message = "has a character that is not printable ASCII"
	default:
		return key, nil
	}
	return "", badHeader("Idempotency-Key", message)
}
