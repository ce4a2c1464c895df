// Package contract reads the OpenAPI document into what requests are checked by:
// for each operation who may call it, what it answers with, its parameters and
// its body. Bounds, lengths and patterns stand in the document alone.
//
// A keyword that it does not know is an error at start, and never a constraint
// that nobody checks. Which problem answers a request that breaks the document is
// httpapi's to say.
package contract

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// Contract is the document, read. It does not change, and is safe for concurrent
// use.
type Contract struct {
	// Document is the document itself, as YAML says it.
	Document map[string]any
	// Operations are in the order of their paths.
	Operations []*Operation
}

// Scheme is who may call an operation.
type Scheme string

// The security schemes of the document.
const (
	Anyone        Scheme = ""
	Customer      Scheme = "customer"
	Administrator Scheme = "administrator"
)

// Operation is one method of one path.
type Operation struct {
	ID, Method string
	// Path is the document's form: /v1/skus/{sku}.
	Path   string
	Scheme Scheme
	// Types are the media types that it answers with when it succeeds; none
	// where a success has no body.
	Types      []string
	Parameters []Parameter
	// Body is nil where a body means nothing.
	Body         *Object
	BodyRequired bool
	statuses     map[int]bool
	// Responses are the document's, by status, with their references resolved.
	Responses map[int]map[string]any
}

// Answers says whether status is one of the operation's answers.
func (o *Operation) Answers(status int) bool { return o.statuses[status] }

// Fits says whether a path is one of the operation's: no parameter is empty.
func (o *Operation) Fits(path string) bool {
	return slices.EqualFunc(strings.Split(o.Path, "/"), strings.Split(path, "/"), func(form, part string) bool {
		return form == part || strings.HasPrefix(form, "{") && part != ""
	})
}

// Streams says whether the operation's answer goes on until one side ends it.
func (o *Operation) Streams() bool { return slices.Contains(o.Types, "text/event-stream") }

// Load reads an OpenAPI document.
func Load(document []byte) (*Contract, error) {
	c := &Contract{}
	if err := yaml.UnmarshalStrict(document, &c.Document); err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	paths := object(c.Document["paths"])
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete} {
			raw := object(object(paths[path])[strings.ToLower(method)])
			if raw == nil {
				continue
			}
			o, err := c.operation(raw)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", method, path, err)
			}
			o.Method, o.Path = method, path
			c.Operations = append(c.Operations, o)
		}
	}
	return c, nil
}

// Text is the rule of the named string schema: a test returns what is wrong with
// a value, or nothing.
func (c *Contract) Text(name string) (check func(value string) (message string), err error) {
	f, err := c.field(map[string]any{"$ref": "#/components/schemas/" + name})
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", name, err)
	}
	return f.text, nil
}

func (c *Contract) operation(raw map[string]any) (*Operation, error) {
	o := &Operation{ID: raw["operationId"].(string), statuses: map[int]bool{}, Responses: map[int]map[string]any{}}
	if err := c.security(o, raw); err != nil {
		return nil, err
	}
	for text, value := range object(raw["responses"]) {
		status, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("response %q: %w", text, err)
		}
		response, err := c.resolve(object(value))
		if err != nil {
			return nil, err
		}
		o.statuses[status], o.Responses[status] = true, response
		if status < http.StatusMultipleChoices {
			o.Types = append(o.Types, slices.Sorted(maps.Keys(object(response["content"])))...)
		}
	}
	slices.Sort(o.Types)
	o.Types = slices.Compact(o.Types)
	list, _ := raw["parameters"].([]any)
	for _, value := range list {
		parameter, err := c.parameter(object(value))
		if err != nil {
			return nil, err
		}
		o.Parameters = append(o.Parameters, parameter)
	}
	body := object(raw["requestBody"])
	if body == nil {
		return o, nil
	}
	o.BodyRequired, _ = body["required"].(bool)
	var err error
	o.Body, err = c.object(object(object(object(body["content"])["application/json"])["schema"]))
	return o, err
}

func (c *Contract) security(o *Operation, raw map[string]any) error {
	list, given := raw["security"].([]any)
	if !given {
		list, _ = c.Document["security"].([]any)
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		for name := range object(list[0]) {
			o.Scheme = Scheme(name)
		}
	}
	if o.Scheme != Customer && o.Scheme != Administrator {
		return fmt.Errorf("security %v is none that is known", list)
	}
	return nil
}

// Resolve is an object of the document, or the one that it refers to.
func (c *Contract) Resolve(value any) (map[string]any, error) { return c.resolve(object(value)) }

func (c *Contract) resolve(value map[string]any) (map[string]any, error) {
	for {
		reference, ok := value["$ref"].(string)
		if !ok {
			return value, nil
		}
		at := any(c.Document)
		for part := range strings.SplitSeq(strings.TrimPrefix(reference, "#/"), "/") {
			at = object(at)[part]
		}
		if value = object(at); value == nil {
			return nil, errors.New(reference + " leads nowhere")
		}
	}
}

func object(value any) map[string]any {
	m, _ := value.(map[string]any)
	return m
}
