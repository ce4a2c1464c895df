// Package contract reads the OpenAPI document that requests are checked against:
// each operation's callers, answers, parameters and body. Bounds, lengths and
// patterns are defined in the document only.
//
// An unknown keyword is an error at start, so that every constraint is checked.
// Package httpapi turns the errors of a check into problems.
package contract

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Contract is a parsed document. It does not change, and is safe for concurrent use.
type Contract struct {
	// Document is the unmarshalled YAML.
	Document map[string]any
	// Operations are sorted by path.
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
	// Path has the document's form: /v1/skus/{sku}.
	Path   string
	Scheme Scheme
	// Types are the media types of a success, if it has a body.
	Types      []string
	Parameters []Parameter
	// Body is nil if the operation ignores the body.
	Body         *Object
	BodyRequired bool
	// Responses are the document's, by status, with references resolved.
	Responses map[int]map[string]any
	// Tags, Summary and Description are for readers.
	Tags                 []any
	Summary, Description string
}

// Answers reports whether the operation declares a status.
func (o *Operation) Answers(status int) bool { return o.Responses[status] != nil }

// fits reports whether a path is the operation's. Parameters must not be empty.
func (o *Operation) fits(path string) bool {
	return slices.EqualFunc(strings.Split(o.Path, "/"), strings.Split(path, "/"), func(form, part string) bool {
		return form == part || strings.HasPrefix(form, "{") && part != ""
	})
}

// Streams reports whether the operation answers with an event stream.
func (o *Operation) Streams() bool { return slices.Contains(o.Types, "text/event-stream") }

// Load parses an OpenAPI document.
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

// Find returns the operation of a request, or nil. hasPath is true if the document has
// the path, for any method.
func (c *Contract) Find(method, path string) (found *Operation, hasPath bool) {
	for _, o := range c.Operations {
		if o.fits(path) {
			if hasPath = true; o.Method == method {
				return o, true
			}
		}
	}
	return nil, hasPath
}

// Text returns the check of a named string schema, which returns what is wrong with
// a value, or "".
func (c *Contract) Text(name string) (check func(value string) (message string), err error) {
	f, err := c.field(map[string]any{"$ref": "#/components/schemas/" + name})
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", name, err)
	}
	return f.text, nil
}

func (c *Contract) operation(raw map[string]any) (*Operation, error) {
	o := &Operation{ID: raw["operationId"].(string), Responses: map[int]map[string]any{}}
	o.Tags, _ = raw["tags"].([]any)
	o.Summary, _ = raw["summary"].(string)
	o.Description, _ = raw["description"].(string)
	if err := c.security(o, raw); err != nil {
		return nil, err
	}
	for text, value := range object(raw["responses"]) {
		status, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("response %q: %w", text, err)
		}
		response, err := c.Resolve(value)
		if err != nil {
			return nil, err
		}
		o.Responses[status] = response
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
	for _, alternative := range list {
		for name := range object(alternative) {
			o.Scheme = Scheme(name)
		}
	}
	if len(list) > 1 || !slices.Contains([]Scheme{Anyone, Customer, Administrator}, o.Scheme) {
		return fmt.Errorf("unknown security %v", list)
	}
	return nil
}

// Resolve returns an object of the document, following references.
func (c *Contract) Resolve(of any) (map[string]any, error) {
	value := object(of)
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
			return nil, errors.New(reference + " does not exist")
		}
	}
}

// decode decodes a part of the document, following references. An unknown keyword is
// an error.
func (c *Contract) decode(part map[string]any, into any) error {
	part, err := c.Resolve(part)
	if err != nil {
		return err
	}
	text, err := json.Marshal(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into, json.RejectUnknownMembers(true))
}

func object(value any) map[string]any {
	m, _ := value.(map[string]any)
	return m
}

// Parameter is a parameter in a path, a query or a header.
type Parameter struct {
	Name, In string
	Required bool
	// Schema is the document's.
	Schema map[string]any
	// Description and Example are for readers.
	Description, Example string

	field *field
}

func (c *Contract) parameter(raw map[string]any) (Parameter, error) {
	raw, err := c.Resolve(raw)
	if err != nil {
		return Parameter{}, err
	}
	p := Parameter{Schema: object(raw["schema"])}
	p.Name, _ = raw["name"].(string)
	p.In, _ = raw["in"].(string)
	p.Required, _ = raw["required"].(bool)
	p.Description, _ = raw["description"].(string)
	p.Example, _ = raw["example"].(string)
	if p.field, err = c.field(p.Schema); err != nil {
		return Parameter{}, fmt.Errorf("parameter %s: %w", p.Name, err)
	}
	return p, nil
}

// Query returns what is wrong with the parameters of a query.
func (o *Operation) Query(query url.Values) (wrong []FieldError) {
	for i := range o.Parameters {
		p := &o.Parameters[i]
		values := query[p.Name]
		if p.In != "query" || len(values) == 0 && !p.Required {
			continue
		}
		message := ""
		switch {
		case len(values) == 0:
			message = "is required"
		case len(values) > 1:
			message = "is given more than once"
		case slices.Contains(p.field.kinds, '0'):
			// Stricter than JSON: 1e1 is rejected.
			if n, err := strconv.ParseInt(values[0], 10, 64); err != nil || n < p.field.Minimum || n > p.field.Maximum {
				message = p.field.bounds()
			}
		default:
			message = p.field.text(values[0])
		}
		if message != "" {
			wrong = append(wrong, FieldError{p.Name, message})
		}
	}
	return wrong
}

// Default returns the default of a named integer parameter.
func (c *Contract) Default(name string) (int, error) {
	p, err := c.parameter(map[string]any{"$ref": "#/components/parameters/" + name})
	if err != nil {
		return 0, err
	}
	return p.field.Default, nil
}
