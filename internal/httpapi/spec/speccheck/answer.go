package speccheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/httpapi/spec"
)

// Check says where an answer to a request of that method and path leaves the
// contract: nil if it does not. The body is all of it, or whatever came of a
// stream.
func (c *Checker) Check(method, path string, status int, header http.Header, body []byte) error {
	path, _, _ = strings.Cut(path, "?")
	if err := c.check(method, path, &answer{status, header, body}); err != nil {
		return fmt.Errorf("outside the contract: %s %s answered %d %.300s: %w", method, path, status, body, err)
	}
	return nil
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (c *Checker) check(method, path string, got *answer) error {
	if got.header.Get("X-Replica") == "" {
		return errors.New("X-Replica is missing")
	}
	head := method == http.MethodHead
	o, known := c.find(method, path)
	if o != nil && o.Streams() && head {
		o = nil // a stream has no HEAD
	}
	if o == nil {
		return c.checkOutside(got, known, head)
	}
	response := o.Responses[got.status]
	if response == nil {
		return errors.New("the status is not declared")
	}
	if err := c.checkHeaders(response, got.header); err != nil {
		return err
	}
	if head {
		return nil
	}
	return c.checkBody(response, got)
}

// checkOutside checks what is answered where the document has no operation.
// Pages are the business of their own tests.
func (c *Checker) checkOutside(got *answer, knownPath, head bool) error {
	if knownPath && (got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") == "") {
		return errors.New("the method is not declared: 405 and Allow are expected")
	}
	if got.status < http.StatusBadRequest || head {
		return nil
	}
	return c.checkProblem(got, "")
}

func (c *Checker) checkHeaders(response map[string]any, got http.Header) error {
	declared, _ := response["headers"].(map[string]any)
	for name, value := range declared {
		header, err := c.contract.Resolve(value)
		if err != nil {
			return err
		}
		if got.Get(name) == "" {
			if header["required"] == true {
				return fmt.Errorf("header %s is missing", name)
			}
			continue
		}
		schema := header["schema"].(map[string]any)
		for _, text := range got.Values(name) { // a list's lines, each by itself
			if err := c.valid(schema, literal(schema, text)); err != nil {
				return fmt.Errorf("header %s is %q: %w", name, text, err)
			}
		}
	}
	return nil
}

// literal is a parameter's or header's text as JSON.
func literal(schema map[string]any, text string) []byte {
	if schema["type"] == "integer" {
		if _, err := strconv.ParseInt(text, 10, 64); err == nil {
			return []byte(text)
		}
	}
	quoted, _ := json.Marshal(text) // a string: it cannot fail
	return quoted
}

func (c *Checker) checkBody(response map[string]any, got *answer) error {
	content, _ := response["content"].(map[string]any)
	kind := mediaType(got.header)
	if len(content) == 0 {
		if len(got.body) > 0 {
			return errors.New("the answer should have no body")
		}
		return nil
	}
	declared, ok := content[kind].(map[string]any)
	if !ok {
		return fmt.Errorf("the media type is %q, declared are %v", kind, slices.Sorted(maps.Keys(content)))
	}
	switch kind {
	case streamType:
		return nil
	case problemType:
		description, _ := response["description"].(string)
		return c.checkProblem(got, description)
	}
	return c.valid(declared["schema"].(map[string]any), got.body)
}

const problemType = "application/problem+json"

// checkProblem checks a problem, and that its type is one that the description
// names, where there is one.
func (c *Checker) checkProblem(got *answer, description string) error {
	if kind := mediaType(got.header); kind != problemType {
		return fmt.Errorf("the media type is %q, of an error it is %s", kind, problemType)
	}
	if err := c.valid(map[string]any{"$ref": "#/components/schemas/Problem"}, got.body); err != nil {
		return err
	}
	var p spec.Problem
	if err := json.Unmarshal(got.body, &p); err != nil {
		return err
	}
	if int(p.Status) != got.status {
		return fmt.Errorf("the problem's status is %d", p.Status)
	}
	if slug := strings.TrimPrefix(p.Type, "/errors/"); description != "" && !strings.Contains(description, "`"+slug+"`") {
		return fmt.Errorf("type %s is none that this answer has: %s", p.Type, description)
	}
	return nil
}

// allowed says what of a request is outside the contract: it should not have
// succeeded.
func (c *Checker) allowed(r *http.Request, sent []byte) error {
	o, _ := c.find(r.Method, r.URL.Path)
	if o == nil {
		return nil
	}
	if err := c.checkRequest(o, r, sent); err != nil {
		return fmt.Errorf("%s %s should not have succeeded: %w", r.Method, r.URL, err)
	}
	return nil
}

func (c *Checker) checkRequest(o *contract.Operation, r *http.Request, sent []byte) error {
	query := r.URL.Query()
	for _, p := range o.Parameters {
		var values []string
		switch p.In {
		case "query":
			values = query[p.Name]
		case "header":
			values = r.Header.Values(p.Name)
		default:
			continue
		}
		if p.Required && len(values) == 0 {
			return fmt.Errorf("%s %s is missing", p.In, p.Name)
		}
		for _, text := range values {
			if err := c.valid(p.Schema, literal(p.Schema, text)); err != nil {
				return fmt.Errorf("%s %s: %w", p.In, p.Name, err)
			}
		}
	}
	switch {
	case o.Body == nil:
		return nil
	case len(sent) == 0 && o.BodyRequired:
		return errors.New("there is no body")
	case len(sent) == 0:
		return nil
	}
	return c.valid(o.Body.Schema, sent)
}
