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
	"net/http"
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
	if r.Body != nil && r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		if sent, err = io.ReadAll(body); err != nil {
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
		err = checker.checkRequest(r, sent)
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
	doc, err := asJSON(read.Document)
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(document, doc); err != nil {
		return nil, err
	}
	return &Checker{contract: read, compiler: compiler, compiled: map[string]*jsonschema.Schema{}}, nil
}

// asJSON converts a value to the types of the JSON Schema library.
func asJSON(value any) (any, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(text))
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
