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

// Object is the schema of a JSON object whose fields are no objects themselves.
type Object struct {
	// Schema is the document's, and what the rest was compiled from.
	Schema   map[string]any
	fields   map[string]*field
	required []string
}

// FieldError says what is wrong with one field of the input.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Malformed says that a body is not one JSON object with known fields of the
// right types: what a caller meant by it cannot be guessed.
type Malformed struct {
	Detail string
	// Fields has the field where one is to blame.
	Fields []FieldError
}

func (m *Malformed) Error() string { return m.Detail }

// Invalid says that fields have values that they cannot have.
type Invalid []FieldError

func (v Invalid) Error() string { return fmt.Sprintf("%d fields are not valid", len(v)) }

func (c *Contract) object(schema map[string]any) (*Object, error) {
	schema, err := c.resolve(schema)
	if err != nil {
		return nil, err
	}
	o := &Object{Schema: schema, fields: map[string]*field{}}
	for keyword, value := range schema {
		switch keyword {
		case "type", "additionalProperties", "description":
		case "required":
			for _, name := range value.([]any) {
				o.required = append(o.required, name.(string))
			}
		case "properties":
			for name, property := range object(value) {
				if o.fields[name], err = c.field(object(property)); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
			}
		default:
			return nil, fmt.Errorf("%s: keyword is not known", keyword)
		}
	}
	// Unknown fields are always refused: the document must say so.
	if open, closed := schema["additionalProperties"].(bool); schema["type"] != "object" || !closed || open {
		return nil, errors.New("a body is an object without additionalProperties")
	}
	return o, nil
}

// Check reads a body: one JSON object, no field of it twice, and nothing behind
// it. It returns nil, a *Malformed, or else an Invalid with all that is wrong.
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
			return &Malformed{"The body has an unknown field.", []FieldError{{name, "is not known here"}}}
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
		return &Malformed{Detail: "There is something behind the body's JSON object."}
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

// read reads the field's value, and says what is wrong with it.
func (f *field) read(in *jsontext.Decoder, name string) (string, error) {
	kind := in.PeekKind()
	if kindNames[kind] != "" && !f.kinds.has(kind) {
		return "", &Malformed{"A field has the wrong JSON type.", []FieldError{{name, "must not be " + kindNames[kind]}}}
	}
	switch kind {
	case '"':
		token, err := in.ReadToken()
		if err != nil {
			return "", syntax(err)
		}
		return f.text(token.String()), nil
	case '0':
		value, err := in.ReadValue()
		if err != nil {
			return "", syntax(err)
		}
		return f.number(value), nil
	}
	if _, err := in.ReadToken(); err != nil {
		return "", syntax(err)
	}
	return "", nil
}

func syntax(err error) error {
	wrong, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case !ok: // the body ends too early, or is none
		return &Malformed{Detail: "The body is not one whole JSON object."}
	case errors.Is(err, jsontext.ErrDuplicateName):
		name := strings.TrimPrefix(string(wrong.JSONPointer), "/")
		return &Malformed{"A field stands twice.", []FieldError{{name, "stands more than once"}}}
	}
	return &Malformed{Detail: fmt.Sprintf("The body is not one JSON object: see byte %d.", wrong.ByteOffset)}
}

// kindNames are the kinds that a value can begin as. What begins otherwise is no
// JSON: NaN, +1, or a byte order mark.
var kindNames = map[jsontext.Kind]string{
	'n': "null", 't': "a boolean", 'f': "a boolean", '"': "a string", '0': "a number", '{': "an object", '[': "an array",
}
