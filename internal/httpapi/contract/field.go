package contract

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// field is the schema of one value, compiled.
type field struct {
	kinds     kinds
	low, high int64
	// least and most are characters; most is negative where there is no bound.
	least, most int
	pattern     *regexp.Regexp
	format      func(string) string
	description string
}

// kinds are the JSON kinds that a value may have.
type kinds []jsontext.Kind

func (k kinds) has(kind jsontext.Kind) bool { return slices.Contains(k, kind) }

// formats are those that are checked. The others only tell a generator what type
// to take: their bounds stand beside them.
var formats = map[string]func(string) string{"date-time": instant, "iso-4217": currency, "int32": nil, "int64": nil}

// rfc3339 is stricter than package time, which takes a comma for the point and an
// hour of one digit, and than the RFC, which takes small letters. What decodes a
// body takes none of these.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// instant takes the times that a DATETIME of MySQL has.
func instant(value string) string {
	const example = ", like 2030-01-31T12:00:00Z"
	t, err := time.Parse(time.RFC3339, strings.ToUpper(value))
	switch {
	case err != nil || !rfc3339.MatchString(strings.ToUpper(value)):
		return "must be a time of RFC 3339" + example
	case !rfc3339.MatchString(value):
		return "must have a capital T and Z" + example
	case t.UTC().Year() < 1000 || t.UTC().Year() > 9999:
		return "must be from the year 1000 to the year 9999, in UTC"
	}
	return ""
}

// field compiles the schema of a value that is no object and no array.
func (c *Contract) field(schema map[string]any) (*field, error) {
	if _, reference := schema["$ref"]; reference {
		for keyword := range schema {
			if keyword != "$ref" && keyword != "x-order" && keyword != "description" {
				return nil, fmt.Errorf("%s: not beside a reference", keyword)
			}
		}
	}
	schema, err := c.resolve(schema)
	if err != nil {
		return nil, err
	}
	f := &field{low: math.MinInt64, high: math.MaxInt64, most: -1}
	for keyword, value := range schema {
		switch keyword {
		case "type":
			err = f.types(value)
		case "minimum":
			f.low, err = whole(value)
		case "maximum":
			f.high, err = whole(value)
		case "minLength":
			f.least, err = count(value)
		case "maxLength":
			f.most, err = count(value)
		case "pattern":
			f.pattern, err = regexp.Compile(value.(string))
		case "format":
			known := false
			if f.format, known = formats[value.(string)]; !known {
				err = fmt.Errorf("format %v is not known", value)
			}
		case "description":
			f.description = strings.TrimSpace(value.(string))
		case "default", "examples", "example", "x-order":
		default:
			err = errors.New("keyword is not known")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", keyword, err)
		}
	}
	if len(f.kinds) == 0 {
		return nil, errors.New("type is missing")
	}
	return f, nil
}

func (f *field) types(value any) error {
	list, several := value.([]any)
	if !several {
		list = []any{value}
	}
	for _, name := range list {
		switch name {
		case "string":
			f.kinds = append(f.kinds, '"')
		case "integer":
			f.kinds = append(f.kinds, '0')
		case "boolean":
			f.kinds = append(f.kinds, 't', 'f')
		case "null":
			f.kinds = append(f.kinds, 'n')
		default:
			return fmt.Errorf("%v is not known", name)
		}
	}
	return nil
}

// text says what is wrong with a string.
func (f *field) text(value string) string {
	if f.least > 0 || f.most >= 0 {
		if n := utf8.RuneCountInString(value); n < f.least || f.most >= 0 && n > f.most {
			return f.lengths()
		}
	}
	if f.pattern != nil && !f.pattern.MatchString(value) {
		return f.shape()
	}
	if f.format != nil {
		return f.format(value)
	}
	return ""
}

// number says what is wrong with a JSON number: 2, 2.0 and 2e0 are the same.
func (f *field) number(value []byte) string {
	n, exact := Integer(value)
	if !exact {
		return "must be a whole number"
	}
	if n < f.low || n > f.high {
		return f.bounds()
	}
	return ""
}

// Integer is a JSON number that is whole. One beyond an int64 is its end.
func Integer(value []byte) (n int64, whole bool) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err == nil || !bytes.ContainsAny(value, ".eE") {
		return n, true // out of range, it is the end of the range
	}
	// A number of a hundred thousand digits is short to write: a power that no
	// float has is not worked out, and nobody writes a whole number so long.
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
	case f.high == math.MaxInt64:
		return fmt.Sprintf("must be at least %d", f.low)
	case f.low == math.MinInt64:
		return fmt.Sprintf("must be at most %d", f.high)
	}
	return fmt.Sprintf("must be from %d to %d", f.low, f.high)
}

func (f *field) lengths() string {
	if f.most < 0 {
		return fmt.Sprintf("must have at least %d characters", f.least)
	}
	return fmt.Sprintf("must have %d to %d characters", f.least, f.most)
}

// shape says what the pattern is in the words of the document.
func (f *field) shape() string {
	if f.description == "" {
		return "must match " + f.pattern.String()
	}
	return "must be " + strings.ToLower(f.description[:1]) + f.description[1:]
}

func whole(value any) (int64, error) {
	n, ok := value.(int64)
	if !ok {
		return 0, fmt.Errorf("%v is not an int64", value)
	}
	return n, nil
}

func count(value any) (int, error) {
	n, err := whole(value)
	return int(n), err
}
