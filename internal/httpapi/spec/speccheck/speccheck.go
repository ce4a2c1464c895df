// Package speccheck holds answers against the HTTP contract: whether an operation
// may answer with that status, and whether the headers and the body are what the
// contract says they are. It knows the document alone, and nothing of the code that
// serves it.
package speccheck

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"flashsale/internal/httpapi/spec"
)

// Checker checks answers. It is safe for concurrent use.
type Checker struct {
	paths map[string]map[string]operation // by path as the document has it, and method
	// elsewhere is the body of what is answered beside all operations.
	elsewhere *jsonschema.Schema
}

// operation is its answers, by status.
type operation map[int]answer

type answer struct {
	headers map[string]*jsonschema.Schema
	// bodies are by media type. Nil is a text that has no schema.
	bodies map[string]*jsonschema.Schema
}

const (
	document    = "mem:///openapi.json"
	problemJSON = "application/problem+json"
)

// New reads the contract.
func New() (*Checker, error) {
	text, err := yaml.YAMLToJSON(spec.YAML)
	if err != nil {
		return nil, fmt.Errorf("read the contract: %w", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read the contract: %w", err)
	}
	r := &reader{doc: doc, compiler: jsonschema.NewCompiler()}
	r.compiler.AssertFormat()
	if err := r.compiler.AddResource(document, doc); err != nil {
		return nil, fmt.Errorf("read the contract: %w", err)
	}
	c := &Checker{paths: map[string]map[string]operation{}}
	for path, item := range object(r.at("paths")) {
		c.paths[path] = map[string]operation{}
		for method := range object(item) {
			c.paths[path][strings.ToUpper(method)] = r.operation("paths", path, method)
		}
	}
	c.elsewhere = r.schema("components", "schemas", "Problem")
	return c, r.err
}

// Check returns an error that says where an answer to a request of that method and
// path leaves the contract, or nil. body is all of it, or all that came so far of a
// stream.
func (c *Checker) Check(method, path string, status int, header http.Header, body []byte) error {
	err := c.check(method, path, status, header, body)
	if err != nil {
		return fmt.Errorf("%s %s: %d: %w", method, path, status, err)
	}
	return nil
}

func (c *Checker) check(method, path string, status int, header http.Header, body []byte) error {
	name, item := c.find(path)
	if item == nil {
		if status != http.StatusNotFound {
			return errors.New("the contract has no such path")
		}
		return validate(c.elsewhere, header, problemJSON, body)
	}
	op, ok := item[method]
	if !ok {
		if status != http.StatusMethodNotAllowed || header.Get("Allow") == "" {
			return fmt.Errorf("%s has no %s, which is 405 with Allow", name, method)
		}
		return validate(c.elsewhere, header, problemJSON, body)
	}
	want, ok := op[status]
	if !ok {
		return fmt.Errorf("%s %s has no such answer", method, name)
	}
	for name, schema := range want.headers {
		if err := checkHeader(header.Get(name), schema); err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
	}
	if len(want.bodies) == 0 {
		if len(body) > 0 {
			return fmt.Errorf("a body that should not be: %.80q", body)
		}
		return nil
	}
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	schema, ok := want.bodies[kind]
	if err != nil || !ok {
		return fmt.Errorf("Content-Type is %q", header.Get("Content-Type"))
	}
	return validate(schema, header, kind, body)
}

// find is the path that the document has for one of a request: with the fewest
// parameters, where more than one fits.
func (c *Checker) find(path string) (name string, item map[string]operation) {
	path, _, _ = strings.Cut(path, "?")
	parts := strings.Split(path, "/")
	fewest := len(parts) + 1
	for candidate, ops := range c.paths {
		if n, fits := parameters(strings.Split(candidate, "/"), parts); fits && n < fewest {
			name, item, fewest = candidate, ops, n
		}
	}
	return name, item
}

func parameters(pattern, parts []string) (n int, fits bool) {
	if len(pattern) != len(parts) {
		return 0, false
	}
	for i, part := range pattern {
		switch {
		case strings.HasPrefix(part, "{") && parts[i] != "":
			n++
		case part != parts[i]:
			return 0, false
		}
	}
	return n, true
}

// checkHeader checks a header that is there: the contract requires none.
func checkHeader(text string, schema *jsonschema.Schema) error {
	if text == "" {
		return nil
	}
	if number, err := strconv.Atoi(text); err == nil && schema.Types != nil && !schema.Types.IsEmpty() && schema.Types.ToStrings()[0] == "integer" {
		return schema.Validate(number)
	}
	return schema.Validate(text)
}

func validate(schema *jsonschema.Schema, header http.Header, kind string, body []byte) error {
	if got, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || got != kind {
		return fmt.Errorf("Content-Type is %q, not %s", header.Get("Content-Type"), kind)
	}
	if !strings.HasSuffix(kind, "json") {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("the body is no JSON: %w: %.80q", err, body)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	return nil
}

// reader walks the document. Its first error stays.
type reader struct {
	doc      any
	compiler *jsonschema.Compiler
	err      error
}

func (r *reader) operation(path ...string) operation {
	op := operation{}
	responses := append(path, "responses")
	for text := range object(r.at(responses...)) {
		status, err := strconv.Atoi(text)
		if err != nil {
			r.fail(fmt.Errorf("%v: status %q", path, text))
			continue
		}
		at := r.follow(append(responses[:len(responses):len(responses)], text))
		a := answer{headers: map[string]*jsonschema.Schema{}, bodies: map[string]*jsonschema.Schema{}}
		for name := range object(r.at(append(at, "headers")...)) {
			header := r.follow(append(at[:len(at):len(at)], "headers", name))
			a.headers[name] = r.schema(append(header, "schema")...)
		}
		for kind := range object(r.at(append(at, "content")...)) {
			a.bodies[kind] = r.schema(append(at[:len(at):len(at)], "content", kind, "schema")...)
		}
		op[status] = a
	}
	return op
}

// follow is where the object at path stands: there, or where its $ref says.
func (r *reader) follow(path []string) []string {
	ref, ok := object(r.at(path...))["$ref"].(string)
	if !ok {
		return path
	}
	return strings.Split(strings.TrimPrefix(ref, "#/"), "/")
}

func (r *reader) at(path ...string) any {
	value := r.doc
	for _, name := range path {
		value = object(value)[name]
	}
	return value
}

func (r *reader) schema(path ...string) *jsonschema.Schema {
	var pointer strings.Builder
	for _, name := range path {
		pointer.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace(name))
	}
	schema, err := r.compiler.Compile(document + "#" + pointer.String())
	r.fail(err)
	return schema
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func object(value any) map[string]any {
	m, _ := value.(map[string]any) // nil has nothing
	return m
}
