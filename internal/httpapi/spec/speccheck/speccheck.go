// Package speccheck checks a service's answers against the HTTP contract: status,
// media type, headers and body. It is for tests and load runs only.
//
// It shares the parsed document with the service, but not the checks: it validates
// schemas with a JSON Schema library.
package speccheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/httpapi/spec"
)

// Transport reports every answer that violates the contract, and returns it all the
// same. It also reports requests that violate the contract and succeed. It is safe
// for concurrent use if Report is.
type Transport struct {
	Base   http.RoundTripper
	Report func(error)
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	checker, err := shared()
	if err != nil {
		return nil, err
	}
	var sent []byte
	if r.GetBody != nil {
		body, err := r.GetBody()
		if err == nil {
			sent, err = io.ReadAll(body)
		}
		if err != nil {
			return nil, err
		}
	}
	answer, err := t.Base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	var got []byte
	if mediaType(answer.Header) != streamType { // a stream does not end
		got, err = io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			return nil, err
		}
		answer.Body = io.NopCloser(bytes.NewReader(got))
	}
	err = checker.Check(r.Method, r.URL.Path, answer.StatusCode, answer.Header, got)
	if err == nil && answer.StatusCode < http.StatusMultipleChoices {
		if err = checker.checkRequest(r, sent); err != nil {
			err = fmt.Errorf("%s %s should have failed: %w", r.Method, r.URL, err)
		}
	}
	if err != nil {
		t.Report(err)
	}
	return answer, nil
}

// shared is the Checker of all transports.
var shared = sync.OnceValues(New)

const (
	streamType  = "text/event-stream"
	problemType = "application/problem+json"
)

func mediaType(header http.Header) string {
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return kind
}

// Checker checks answers. It is safe for concurrent use.
type Checker struct {
	contract *contract.Contract
	mu       sync.Mutex // protects the fields below
	compiler *jsonschema.Compiler
	compiled map[string]*jsonschema.Schema // by the schema's JSON
}

const document = "contract:///openapi.json"

// New parses the contract.
func New() (*Checker, error) {
	read, err := contract.Load(spec.YAML)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(read.Document)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	// Responses may gain fields, with the document: those of this service have no others.
	for _, schema := range doc.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any) {
		schema := schema.(map[string]any)
		if _, given := schema["additionalProperties"]; !given && schema["properties"] != nil {
			schema["additionalProperties"] = false
		}
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(document, doc); err != nil {
		return nil, err
	}
	return &Checker{contract: read, compiler: compiler, compiled: map[string]*jsonschema.Schema{}}, nil
}

// valid validates a JSON value with a schema of the document.
func (c *Checker) valid(schema map[string]any, value []byte) error {
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	compiled, err := c.compile(schema)
	if err != nil {
		return err
	}
	return compiled.Validate(instance)
}

// compile compiles a schema of the document, once.
func (c *Checker) compile(schema map[string]any) (*jsonschema.Schema, error) {
	text, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if compiled := c.compiled[string(text)]; compiled != nil {
		return compiled, nil
	}
	// The schema becomes a document of its own: its references need the URL of
	// the original.
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(strings.ReplaceAll(string(text), `"#/`, `"`+document+`#/`)))
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("contract:///%d.json", len(c.compiled))
	if err := c.compiler.AddResource(name, doc); err != nil {
		return nil, err
	}
	compiled, err := c.compiler.Compile(name)
	if err == nil {
		c.compiled[string(text)] = compiled
	}
	return compiled, err
}

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
	o, hasPath := c.contract.Find(method, path)
	if o == nil || head && o.Streams() { // streams do not support HEAD
		switch {
		case hasPath && (got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") == ""):
			return errors.New("undeclared method: want 405 with Allow")
		case got.status < http.StatusBadRequest || head: // pages have their own tests
			return nil
		}
		return c.checkProblem(got, "")
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

// CheckEvent returns how the data of a stream's event violates the contract, or nil.
func (c *Checker) CheckEvent(name string, data []byte) error {
	o, _ := c.contract.Find(http.MethodGet, "/v1/events")
	stream := o.Responses[http.StatusOK]["content"].(map[string]any)[streamType].(map[string]any)
	schema, ok := stream["x-events"].(map[string]any)[name].(map[string]any)
	if !ok {
		return fmt.Errorf("undeclared event %q", name)
	}
	return c.valid(schema, data)
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

// checkRequest returns how a request violates the contract, or nil.
func (c *Checker) checkRequest(r *http.Request, sent []byte) error {
	o, _ := c.contract.Find(r.Method, r.URL.Path)
	if o == nil {
		return nil
	}
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
