package contract

import (
	"fmt"
	"net/url"
	"strconv"
)

// Parameter is one of a path, a query or a header.
type Parameter struct {
	Name, In string
	Required bool
	// Schema is the document's, and what field was compiled from.
	Schema map[string]any
	field  *field
	// Default is what an integer has when it is not given.
	Default int
}

func (c *Contract) parameter(raw map[string]any) (Parameter, error) {
	raw, err := c.resolve(raw)
	if err != nil {
		return Parameter{}, err
	}
	p := Parameter{}
	p.Name, _ = raw["name"].(string)
	p.In, _ = raw["in"].(string)
	p.Required, _ = raw["required"].(bool)
	p.Schema = object(raw["schema"])
	if p.field, err = c.field(p.Schema); err != nil {
		return Parameter{}, fmt.Errorf("parameter %s: %w", p.Name, err)
	}
	if value, given := p.Schema["default"]; given {
		n, err := whole(value)
		if err != nil {
			return Parameter{}, fmt.Errorf("parameter %s: default: %w", p.Name, err)
		}
		p.Default = int(n)
	}
	return p, nil
}

// Query says what is wrong with the operation's parameters in a query.
func (o *Operation) Query(query url.Values) (wrong []FieldError) {
	for i := range o.Parameters {
		p := &o.Parameters[i]
		values := query[p.Name]
		if p.In != "query" || len(values) == 0 {
			continue
		}
		message := ""
		switch {
		case len(values) > 1:
			message = "is given more than once"
		case p.field.kinds.has('0'):
			message = p.integer(values[0])
		default:
			message = p.field.text(values[0])
		}
		if message != "" {
			wrong = append(wrong, FieldError{p.Name, message})
		}
	}
	return wrong
}

// integer is stricter than JSON: 1e1 is no number of a query.
func (p *Parameter) integer(value string) string {
	if n, err := strconv.ParseInt(value, 10, 64); err != nil || n < p.field.low || n > p.field.high {
		return p.field.bounds()
	}
	return ""
}

// Default is what the parameter has in every operation when it is not given.
func (c *Contract) Default(name string) (int, error) {
	p, err := c.parameter(map[string]any{"$ref": "#/components/parameters/" + name})
	return p.Default, err
}
