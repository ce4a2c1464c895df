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

	"flashsale/internal/httpapi/spec"
)

// Check returns how the answer to a request violates the contract, or nil. Of a
// stream, body may be any part.
func (c *Checker) Check(method, path string, status int, header http.Header, body []byte) error {
	path, _, _ = strings.Cut(path, "?")
	if err := c.check(method, path, &answer{status, header, body}); err != nil {
		return fmt.Errorf("contract violation: %s %s answered %d %.300s: %w", method, path, status, body, err)
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
	if head {
		method = http.MethodGet
	}
	o, known := c.contract.Find(method, path)
	if o == nil || head && o.Streams() { // streams do not support HEAD
		return c.checkOutside(got, known, head)
	}
	response := o.Responses[got.status]
	if response == nil {
		return errors.New("undeclared status")
	}
	if err := c.checkHeaders(response, got.header); err != nil || head {
		return err
	}
	return c.checkBody(response, got)
}

// checkOutside checks the answer where the document has no operation. Pages have
// their own tests.
func (c *Checker) checkOutside(got *answer, knownPath, head bool) error {
	if knownPath && (got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") == "") {
		return errors.New("undeclared method: want 405 with Allow")
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
		if got.Get(name) == "" && header["required"] == true {
			return fmt.Errorf("header %s is missing", name)
		}
		if err := c.checkTexts(header["schema"].(map[string]any), got.Values(name)); err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
	}
	return nil
}

// checkTexts checks the values of a header or of a query parameter.
func (c *Checker) checkTexts(schema map[string]any, values []string) error {
	for _, text := range values {
		value, err := json.Marshal(text)
		if err != nil {
			return err
		}
		if _, err := strconv.ParseInt(text, 10, 64); err == nil && schema["type"] == "integer" {
			value = []byte(text)
		}
		if err := c.valid(schema, value); err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
	}
	return nil
}

func (c *Checker) checkBody(response map[string]any, got *answer) error {
	content, _ := response["content"].(map[string]any)
	if len(content) == 0 {
		if len(got.body) > 0 {
			return errors.New("unexpected body")
		}
		return nil
	}
	kind := mediaType(got.header)
	declared, ok := content[kind].(map[string]any)
	switch {
	case !ok:
		return fmt.Errorf("media type is %q, want one of %v", kind, slices.Sorted(maps.Keys(content)))
	case kind == streamType:
		return nil
	case kind == problemType:
		description, _ := response["description"].(string)
		return c.checkProblem(got, description)
	}
	return c.valid(declared["schema"].(map[string]any), got.body)
}

// checkProblem checks a problem. Its type must be in the response's description,
// unless that is empty.
func (c *Checker) checkProblem(got *answer, description string) error {
	if kind := mediaType(got.header); kind != problemType {
		return fmt.Errorf("media type is %q, want %s", kind, problemType)
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
		return fmt.Errorf("undeclared type %s for: %s", p.Type, description)
	}
	return nil
}

// checkRequest returns how a successful request violates the contract, or nil.
func (c *Checker) checkRequest(r *http.Request, sent []byte) (err error) {
	o, _ := c.contract.Find(r.Method, r.URL.Path)
	if o == nil {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s %s should have failed: %w", r.Method, r.URL, err)
		}
	}()
	query := r.URL.Query()
	for _, p := range o.Parameters {
		values := query[p.Name]
		switch p.In {
		case "path":
			continue
		case "header":
			values = r.Header.Values(p.Name)
		}
		if p.Required && len(values) == 0 {
			return fmt.Errorf("%s %s is missing", p.In, p.Name)
		}
		if err := c.checkTexts(p.Schema, values); err != nil {
			return fmt.Errorf("%s %s: %w", p.In, p.Name, err)
		}
	}
	if o.Body == nil || len(sent) == 0 && !o.BodyRequired {
		return nil
	}
	return c.valid(o.Body.Schema, sent)
}
