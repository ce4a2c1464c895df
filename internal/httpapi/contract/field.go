package contract

import (
	"bytes"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// field is the compiled schema of a string, an integer, a boolean or null. The
// exported fields are the supported keywords.
type field struct {
	Type        any    `json:"type"`
	Minimum     int64  `json:"minimum"`
	Maximum     int64  `json:"maximum"`
	MinLength   int    `json:"minLength"` // in characters
	MaxLength   int    `json:"maxLength"` // -1 without a bound
	Pattern     string `json:"pattern"`
	Format      string `json:"format"`
	Description string `json:"description"`
	Default     int    `json:"default"`
	Example     any    `json:"example"`
	Examples    any    `json:"examples"`
	Order       any    `json:"x-order"`

	kinds   kinds
	pattern *regexp.Regexp
	format  func(string) string
}

// kinds are the JSON kinds that a value may have.
type kinds []jsontext.Kind

func (k kinds) has(kind jsontext.Kind) bool { return slices.Contains(k, kind) }

func (c *Contract) field(schema map[string]any) (*field, error) {
	if _, reference := schema["$ref"]; reference {
		for keyword := range schema {
			if keyword != "$ref" && keyword != "x-order" && keyword != "description" {
				return nil, fmt.Errorf("%s: not supported beside $ref", keyword)
			}
		}
	}
	schema, err := c.Resolve(schema)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	f := &field{Minimum: math.MinInt64, Maximum: math.MaxInt64, MaxLength: -1}
	if err := json.Unmarshal(text, f, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	types, several := f.Type.([]any)
	if !several {
		types = []any{f.Type}
	}
	for _, name := range types {
		kinds, known := kindsOf[name]
		if !known {
			return nil, fmt.Errorf("unknown type %v", name)
		}
		f.kinds = append(f.kinds, kinds...)
	}
	if f.Format != "" {
		known := false
		if f.format, known = formats[f.Format]; !known {
			return nil, fmt.Errorf("unknown format %s", f.Format)
		}
	}
	if f.Pattern != "" {
		f.pattern, err = regexp.Compile(f.Pattern)
	}
	return f, err
}

var kindsOf = map[any]kinds{"string": {'"'}, "integer": {'0'}, "boolean": {'t', 'f'}, "null": {'n'}}

// text returns what is wrong with a string. It describes a pattern by the document's
// description.
func (f *field) text(value string) string {
	n := utf8.RuneCountInString(value)
	switch {
	case f.MaxLength < 0 && n < f.MinLength:
		return fmt.Sprintf("must have at least %d characters", f.MinLength)
	case n < f.MinLength || f.MaxLength >= 0 && n > f.MaxLength:
		return fmt.Sprintf("must have %d to %d characters", f.MinLength, f.MaxLength)
	case f.pattern == nil || f.pattern.MatchString(value):
		if f.format != nil {
			return f.format(value)
		}
		return ""
	case f.Description == "":
		return "must match " + f.Pattern
	}
	return "must be " + strings.ToLower(f.Description[:1]) + strings.TrimSpace(f.Description[1:])
}

// number returns what is wrong with a JSON number: 2, 2.0 and 2e0 are equal.
func (f *field) number(value []byte) string {
	n, exact := Integer(value)
	if !exact {
		return "must be a whole number"
	}
	if n < f.Minimum || n > f.Maximum {
		return f.bounds()
	}
	return ""
}

// Integer returns the value of a whole JSON number, clamped to an int64.
func Integer(value []byte) (n int64, whole bool) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err == nil || !bytes.ContainsAny(value, ".eE") {
		return n, true // ParseInt clamps
	}
	// A short exponent can stand for a huge number: reject what a float64 or
	// longest bytes cannot hold, before big.Rat computes it.
	const longest = 400
	float, err := strconv.ParseFloat(string(value), 64)
	mantissa, _, _ := bytes.Cut(bytes.ToLower(value), []byte("e"))
	switch {
	case err != nil && float > 0:
		return math.MaxInt64, true
	case err != nil:
		return math.MinInt64, true
	case float == 0:
		return 0, !bytes.ContainsAny(mantissa, "123456789")
	case len(value) > longest:
		return 0, false
	}
	exact, ok := new(big.Rat).SetString(string(value))
	switch {
	case !ok || !exact.IsInt():
		return 0, false
	case exact.Num().IsInt64():
		return exact.Num().Int64(), true
	case exact.Sign() > 0:
		return math.MaxInt64, true
	}
	return math.MinInt64, true
}

func (f *field) bounds() string {
	switch {
	case f.Maximum == math.MaxInt64:
		return fmt.Sprintf("must be at least %d", f.Minimum)
	case f.Minimum == math.MinInt64:
		return fmt.Sprintf("must be at most %d", f.Maximum)
	}
	return fmt.Sprintf("must be from %d to %d", f.Minimum, f.Maximum)
}
