package contract

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Object is the schema of a flat JSON object.
type Object struct {
	// Schema is the document's.
	Schema   map[string]any
	fields   map[string]*field
	required []string
}

// FieldError says what is wrong with one field of the input.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Malformed is the error for a body that is not one JSON object whose fields are in the
// schema and have the right types.
type Malformed struct {
	Detail string
	// Fields has the wrong field, if there is one.
	Fields []FieldError
}

func (m *Malformed) Error() string { return m.Detail }

// Invalid is the error for fields with invalid values.
type Invalid []FieldError

func (v Invalid) Error() string { return fmt.Sprintf("%d invalid fields", len(v)) }

func (c *Contract) object(schema map[string]any) (*Object, error) {
	schema, err := c.Resolve(schema)
	if err != nil {
		return nil, err
	}
	var raw struct {
		Type                 string                    `json:"type"`
		AdditionalProperties any                       `json:"additionalProperties"`
		Description          string                    `json:"description"`
		Required             []string                  `json:"required"`
		Properties           map[string]map[string]any `json:"properties"`
	}
	if err := c.decode(schema, &raw); err != nil {
		return nil, err
	}
	// Check always rejects unknown fields: the document must say so.
	if raw.Type != "object" || raw.AdditionalProperties != false {
		return nil, errors.New("a body must be an object with additionalProperties: false")
	}
	o := &Object{Schema: schema, fields: map[string]*field{}, required: raw.Required}
	for name, property := range raw.Properties {
		if o.fields[name], err = c.field(property); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return o, nil
}

// Check checks a body: one JSON object without duplicate fields, and no data after
// it. It returns nil, a *Malformed, or an Invalid with all invalid fields.
func (o *Object) Check(body []byte) error {
	in := jsontext.NewDecoder(bytes.NewReader(body))
	if k := in.PeekKind(); k != '{' && kindNames[k] != "" {
		return &Malformed{"The body is not a JSON object.", []FieldError{{"(body)", "must not be " + kindNames[k]}}}
	}
	if _, err := in.ReadToken(); err != nil {
		return syntax(err)
	}
	var wrong Invalid
	var seen []string
	for in.PeekKind() == '"' {
		token, err := in.ReadToken()
		if err != nil {
			return syntax(err)
		}
		name := token.String()
		f := o.fields[name]
		if f == nil {
			return &Malformed{"The body has an unknown field.", []FieldError{{name, "is an unknown field"}}}
		}
		message, err := f.read(in, name)
		if err != nil {
			return err
		}
		if message != "" {
			wrong = append(wrong, FieldError{name, message})
		}
		seen = append(seen, name)
	}
	if _, err := in.ReadToken(); err != nil {
		return syntax(err)
	}
	if _, err := in.ReadToken(); !errors.Is(err, io.EOF) {
		return &Malformed{Detail: "The body has unexpected data after the JSON object."}
	}
	for _, name := range o.required {
		if !slices.Contains(seen, name) {
			wrong = append(wrong, FieldError{name, "is required"})
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// read reads the field's value, and returns what is wrong with it.
func (f *field) read(in *jsontext.Decoder, name string) (string, error) {
	kind := in.PeekKind()
	if kindNames[kind] != "" && !slices.Contains(f.kinds, kind) {
		return "", &Malformed{"A field has the wrong JSON type.", []FieldError{{name, "must not be " + kindNames[kind]}}}
	}
	value, err := in.ReadValue()
	if err != nil {
		return "", syntax(err)
	}
	switch kind {
	case '"':
		text, err := jsontext.AppendUnquote(nil, value)
		return f.text(string(text)), err
	case '0':
		return f.number(value), nil
	}
	return "", nil
}

func syntax(err error) error {
	wrong, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case !ok: // the body is empty or ends too early
		return &Malformed{Detail: "The body is not a complete JSON object."}
	case errors.Is(err, jsontext.ErrDuplicateName):
		name := strings.TrimPrefix(string(wrong.JSONPointer), "/")
		return &Malformed{"The body has a duplicate field.", []FieldError{{name, "is given more than once"}}}
	}
	return &Malformed{Detail: fmt.Sprintf("The body is not valid JSON at byte %d.", wrong.ByteOffset)}
}

// kindNames are the kinds that JSON values begin with. Other bytes (NaN, +1, a byte
// order mark) are not JSON.
var kindNames = map[jsontext.Kind]string{
	'n': "null", 't': "a boolean", 'f': "a boolean", '"': "a string", '0': "a number", '{': "an object", '[': "an array",
}
