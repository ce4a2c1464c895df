// Package speccheck holds what a service answers against the HTTP contract: its
// status, media type, headers and body. It is for tests and load runs, and no
// part of a service.
//
// It shares the reading of the document with the service, and not the checking:
// schemas are checked here by a JSON Schema library.
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

// Transport reports every answer that is outside the contract, and hands it on
// all the same. It is safe for concurrent use if Report is.
type Transport struct {
	Base   http.RoundTripper
	Report func(error)
}

// RoundTrip is http.RoundTripper's.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	checker, err := shared()
	if err != nil {
		return nil, err
	}
	sent, err := sentBody(r)
	if err != nil {
		return nil, err
	}
	answer, err := t.Base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	var got []byte
	if mediaType(answer.Header) != streamType { // which has no end to wait for
		got, err = io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			return nil, err
		}
		answer.Body = io.NopCloser(bytes.NewReader(got))
	}
	err = checker.Check(r.Method, r.URL.Path, answer.StatusCode, answer.Header, got)
	if err == nil && answer.StatusCode < http.StatusMultipleChoices {
		err = checker.allowed(r, sent)
	}
	if err != nil {
		t.Report(err)
	}
	return answer, nil
}

// shared is one Checker for all transports.
var shared = sync.OnceValues(New)

const streamType = "text/event-stream"

// sentBody is a copy of the request's body.
func sentBody(r *http.Request) ([]byte, error) {
	if r.Body == nil || r.GetBody == nil {
		return nil, nil
	}
	body, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(body)
}

func mediaType(header http.Header) string {
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return kind
}

// Checker checks answers. It is safe for concurrent use.
type Checker struct {
	contract *contract.Contract
	mu       sync.Mutex // of what is below: the schemas that were met so far
	compiler *jsonschema.Compiler
	added    map[string]*jsonschema.Schema
}

const document = "contract:///openapi.json"

// New reads the contract.
func New() (*Checker, error) {
	read, err := contract.Load(spec.YAML)
	if err != nil {
		return nil, err
	}
	asJSON, err := json.Marshal(read.Document)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(document, doc); err != nil {
		return nil, err
	}
	return &Checker{contract: read, compiler: compiler, added: map[string]*jsonschema.Schema{}}, nil
}

// valid checks a JSON value against a schema of the document.
func (c *Checker) valid(schema map[string]any, value []byte) error {
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return fmt.Errorf("no JSON: %w", err)
	}
	compiled, err := c.compile(schema)
	if err != nil {
		return err
	}
	return compiled.Validate(instance)
}

// compile compiles a schema as it stands in the document, once.
func (c *Checker) compile(schema map[string]any) (*jsonschema.Schema, error) {
	text, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if compiled := c.added[string(text)]; compiled != nil {
		return compiled, nil
	}
	// References are to the document; this schema stands elsewhere.
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(strings.ReplaceAll(string(text), `"#/`, `"`+document+`#/`)))
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("contract:///%d.json", len(c.added))
	if err := c.compiler.AddResource(name, doc); err != nil {
		return nil, err
	}
	compiled, err := c.compiler.Compile(name)
	if err != nil {
		return nil, err
	}
	c.added[string(text)] = compiled
	return compiled, nil
}

// find is the operation of a request; known says that its path is one of the
// document's.
func (c *Checker) find(method, path string) (o *contract.Operation, known bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, one := range c.contract.Operations {
		same := one.Fits(path)
		if same && one.Method == method {
			return one, true
		}
		known = known || same
	}
	return nil, known
}
