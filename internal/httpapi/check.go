package httpapi

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/contract"
)

// call is what the checks have found out about a request, for those behind them
// and for the handler.
type call struct {
	// operation is nil where the document has none: a page, or no route at all.
	operation *contract.Operation
	// customer is whose call it is, where the operation is a customer's.
	customer string
	// body is checked, and may be empty where the operation needs none.
	body []byte
}

const callKey = "flashsale/call"

// callOf is the request's call. Every request has one.
func callOf(c *gin.Context) *call { return c.MustGet(callKey).(*call) }

// maxHeaders is far above what a token and a browser's headers need.
const maxHeaders = 16 << 10

// admit is the first check: what every answer says, headers of a size that is
// worth reading, and an answer that the caller can read.
func (a *api) admit(c *gin.Context) {
	c.Header("X-Replica", a.cfg.Replica)
	o := a.operations[route{c.Request.Method, c.FullPath()}]
	c.Set(callKey, &call{operation: o})
	switch {
	case o != nil && !o.Answers(http.StatusRequestHeaderFieldsTooLarge):
	case headerBytes(c.Request) > maxHeaders:
		c.Header("Connection", "close")
		a.fail(c, kindHeaders.problem(""))
		return
	}
	if strings.Contains(pathOf(c), "//") {
		// gin takes nothing for a parameter's value; no path of ours has a part
		// that is empty.
		a.fail(c, kindNoRoute.problem(""))
		return
	}
	if o == nil {
		return
	}
	if o.Streams() && c.Request.Context().Value(headKey{}) != nil {
		c.Header("Allow", http.MethodGet)
		a.fail(c, kindNoMethod.problem("A stream has no HEAD."))
		return
	}
	if o.Answers(http.StatusNotAcceptable) && !acceptable(c.Request.Header.Values("Accept"), o.Types) {
		a.fail(c, kindNotAcceptable.problem("This call answers with "+strings.Join(o.Types, ", ")+"."))
	}
}

// pathOf is the path as gin routes it: an escaped slash in it is no slash.
func pathOf(c *gin.Context) string { return cmp.Or(c.Request.URL.RawPath, c.Request.URL.Path) }

// headerBytes is about what the request's first line and headers took.
func headerBytes(r *http.Request) int {
	n := len(r.RequestURI)
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(value) + len(": \r\n")
		}
	}
	return n
}

// authenticate lets those pass whom the document lets call the operation.
func (a *api) authenticate(c *gin.Context) {
	var err error
	switch this := callOf(c); this.operation.Scheme {
	case contract.Customer:
		this.customer, err = a.verifier.customer(c)
	case contract.Administrator:
		err = a.verifier.administrator(c)
	case contract.Anyone:
	}
	if err != nil {
		a.fail(c, err)
	}
}

// checkParameters refuses what the generated code could not read, with the names
// of the parameters that are to blame.
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
	if !inQuery || c.Request.URL.RawQuery == "" {
		return
	}
	query, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		a.fail(c, kindInvalid.problem("The query cannot be read: it has a % that begins no escape, or a semicolon.", fieldError{Field: "(query)", Message: "must be name=value, joined by &"}))
		return
	}
	if wrong := callOf(c).operation.Query(query); len(wrong) > 0 {
		a.fail(c, kindInvalid.problem("See errors for each parameter.", wrong...))
	}
}

// checkHeader makes one line of a header that may have several, and refuses
// several of one that may not.
func checkHeader(header http.Header, name string, required bool) error {
	values := header.Values(name)
	switch {
	case len(values) == 0 && required:
		return badHeader(name, "is missing")
	case len(values) > 1 && !required: // lists, all of them: If-Match, If-None-Match
		header.Set(name, strings.Join(values, ", "))
	case len(values) > 1:
		return badHeader(name, "is given more than once")
	case required && values[0] == "":
		return badHeader(name, "is empty")
	}
	return nil
}

// badHeader is the problem of a header that says nothing that could be heeded.
func badHeader(name, message string) error {
	return kindSyntax.problem("The "+name+" header "+message+".", fieldError{Field: name, Message: message})
}
