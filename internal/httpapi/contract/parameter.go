package contract

import (
	"fmt"
	"net/url"
	"strconv"
)

// Parameter is a parameter in a path, a query or a header.
type Parameter struct {
	Name, In string
	Required bool
	// Schema is the document's.
	Schema map[string]any
	field  *field
	// Default is the default of an integer.
	Default int
}

func (c *Contract) parameter(raw map[string]any) (Parameter, error) {
	raw, err := c.Resolve(raw)
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
	p.Default = p.field.Default
	return p, nil
}

// Query returns what is wrong with the parameters of a query.
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

// integer is stricter than JSON: it rejects 1e1.
func (p *Parameter) integer(value string) string {
	if n, err := strconv.ParseInt(value, 10, 64); err != nil || n < p.field.Minimum || n > p.field.Maximum {
		return p.field.bounds()
	}
	return ""
}

// Default returns the default of a named integer parameter.
func (c *Contract) Default(name string) (int, error) {
	p, err := c.parameter(map[string]any{"$ref": "#/components/parameters/" + name})
	return p.Default, err
}
