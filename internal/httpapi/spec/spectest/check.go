package spectest

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

// check says what is wrong with an answer. A success is wrong as well where the
// request was one that the contract does not allow.
func (c *checker) check(r *http.Request, sent []byte, answer *http.Response, got []byte) error {
	if answer.Header.Get("X-Replica") == "" {
		return errors.New("X-Replica is missing")
	}
	o, known := c.find(r.Method, r.URL.Path)
	if o == nil {
		return c.checkOutside(answer, got, known)
	}
	if o.Streams() && r.Method == http.MethodHead {
		return c.checkOutside(answer, got, true)
	}
	response := o.Responses[answer.StatusCode]
	if response == nil {
		return errors.New("the status is not declared")
	}
	if err := c.checkHeaders(response, answer.Header); err != nil {
		return err
	}
	if answer.StatusCode < http.StatusMultipleChoices {
		if err := c.checkRequest(o, r, sent); err != nil {
			return fmt.Errorf("the request should not have succeeded: %w", err)
		}
	}
	if r.Method == http.MethodHead {
		return nil
	}
	return c.checkBody(response, answer, got)
}

// checkOutside checks what is answered where the document has no operation.
// Pages are the business of their own tests.
func (c *checker) checkOutside(answer *http.Response, got []byte, knownPath bool) error {
	if knownPath {
		if answer.StatusCode != http.StatusMethodNotAllowed || answer.Header.Get("Allow") == "" {
			return errors.New("the method is not declared: 405 and Allow are expected")
		}
	}
	if answer.StatusCode < http.StatusBadRequest {
		return nil
	}
	if answer.Request.Method == http.MethodHead {
		return nil
	}
	return c.checkProblem(answer, got, "")
}

func (c *checker) checkHeaders(response map[string]any, got http.Header) error {
	declared, _ := response["headers"].(map[string]any)
	for name, value := range declared {
		header, err := c.contract.Resolve(value)
		if err != nil {
			return err
		}
		text := got.Get(name)
		if text == "" {
			if header["required"] == true {
				return fmt.Errorf("header %s is missing", name)
			}
			continue
		}
		schema := header["schema"].(map[string]any)
		if err := c.valid(schema, literal(schema, text)); err != nil {
			return fmt.Errorf("header %s is %q: %w", name, text, err)
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

func (c *checker) checkBody(response map[string]any, answer *http.Response, got []byte) error {
	content, _ := response["content"].(map[string]any)
	kind := mediaType(answer)
	if len(content) == 0 {
		if len(got) > 0 {
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
		return c.checkProblem(answer, got, description)
	}
	return c.valid(declared["schema"].(map[string]any), got)
}

const problemType = "application/problem+json"

// checkProblem checks a problem, and that its type is one that the description
// names, where there is one.
func (c *checker) checkProblem(answer *http.Response, got []byte, description string) error {
	if kind := mediaType(answer); kind != problemType {
		return fmt.Errorf("the media type is %q, of an error it is %s", kind, problemType)
	}
	if err := c.valid(map[string]any{"$ref": "#/components/schemas/Problem"}, got); err != nil {
		return err
	}
	var p spec.Problem
	if err := json.Unmarshal(got, &p); err != nil {
		return err
	}
	if int(p.Status) != answer.StatusCode {
		return fmt.Errorf("the problem's status is %d", p.Status)
	}
	if slug := strings.TrimPrefix(p.Type, "/errors/"); description != "" && !strings.Contains(description, "`"+slug+"`") {
		return fmt.Errorf("type %s is none that this answer has: %s", p.Type, description)
	}
	return nil
}

// checkRequest says what of a request is outside the contract.
func (c *checker) checkRequest(o *contract.Operation, r *http.Request, sent []byte) error {
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
