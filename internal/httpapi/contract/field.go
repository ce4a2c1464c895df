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
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// field is the compiled schema of a string, an integer, a boolean or null. The
// exported fields are the supported keywords.
type field struct {
	Type        any    `json:"type"`
	Minimum     int64  `json:"minimum"`
	Maximum     int64  `json:"maximum"`
	MinLength   int    `json:"minLength"` // in characters
	MaxLength   int    `json:"maxLength"`
	Pattern     string `json:"pattern"`
	Format      string `json:"format"`
	Description string `json:"description"`
	Default     int    `json:"default"`
	Example     any    `json:"example"`
	Examples    any    `json:"examples"`
	Order       any    `json:"x-order"`

	kinds   []jsontext.Kind // that the value may have
	pattern *regexp.Regexp
	format  func(string) string
}

func (c *Contract) field(schema map[string]any) (*field, error) {
	if _, reference := schema["$ref"]; reference {
		for keyword := range schema {
			if keyword != "$ref" && keyword != "x-order" && keyword != "description" {
				return nil, fmt.Errorf("%s: not supported beside $ref", keyword)
			}
		}
	}
	f := &field{Minimum: math.MinInt64, Maximum: math.MaxInt64, MaxLength: math.MaxInt}
	if err := c.decode(schema, f); err != nil {
		return nil, err
	}
	types, several := f.Type.([]any)
	if !several {
		types = []any{f.Type}
	}
	for _, name := range types {
		if kindsOf[name] == nil {
			return nil, fmt.Errorf("unknown type %v", name)
		}
		f.kinds = append(f.kinds, kindsOf[name]...)
	}
	if f.format = formats[f.Format]; f.format == nil {
		return nil, fmt.Errorf("unknown format %s", f.Format)
	}
	var err error
	f.pattern, err = regexp.Compile(f.Pattern)
	return f, err
}

var kindsOf = map[any][]jsontext.Kind{"string": {'"'}, "integer": {'0'}, "boolean": {'t', 'f'}, "null": {'n'}}

// text returns what is wrong with a string. It describes a pattern by the document's
// description.
func (f *field) text(value string) string {
	n := utf8.RuneCountInString(value)
	switch {
	case n < f.MinLength || n > f.MaxLength:
		return fmt.Sprintf("must have %d to %d characters", f.MinLength, f.MaxLength)
	case f.pattern.MatchString(value):
		return f.format(value)
	case f.Description == "":
		return "must match " + f.Pattern
	}
	return "must be " + strings.ToLower(f.Description[:1]) + strings.TrimSpace(f.Description[1:])
}

// number returns what is wrong with a JSON number: 2, 2.0 and 2e0 are equal.
func (f *field) number(value []byte) string {
	switch n, whole := Integer(value); {
	case !whole:
		return "must be a whole number"
	case n < f.Minimum || n > f.Maximum:
		return f.bounds()
	}
	return ""
}

func (f *field) bounds() string { return fmt.Sprintf("must be from %d to %d", f.Minimum, f.Maximum) }

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
	nearest := int64(math.MaxInt64)
	if float < 0 {
		nearest = math.MinInt64
	}
	switch {
	case err != nil:
		return nearest, true
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
	}
	return nearest, true
}

// formats are the checks of formats. int32 and int64 only choose generated types;
// the document has their bounds.
var formats = map[string]func(string) string{"date-time": dateTime, "iso-4217": currency, "int32": anyText, "int64": anyText, "": anyText}

func anyText(string) string { return "" }

// rfc3339 is stricter than package time, which accepts a decimal comma and hours of
// one digit, and than the RFC, which accepts lower case.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// dateTime accepts the times that a DATETIME of MySQL can store.
func dateTime(value string) string {
	const example = ", like 2030-01-31T12:00:00Z"
	t, err := time.Parse(time.RFC3339, strings.ToUpper(value))
	switch {
	case err != nil || !rfc3339.MatchString(strings.ToUpper(value)):
		return "must be an RFC 3339 time" + example
	case !rfc3339.MatchString(value):
		return "must have a capital T and Z" + example
	case t.UTC().Year() < 1000 || t.UTC().Year() > 9999:
		return "must be from the year 1000 to the year 9999, in UTC"
	}
	return ""
}

// currencies are the active codes of ISO 4217's list one with a minor unit, funds
// codes included. Prices count minor units, so codes without one (metals, XDR, XTS,
// XXX) are excluded.
//
// Source: SIX Group, the maintenance agency, amendment 180 of 1 January 2026. The
// tables of golang.org/x/text date from 2017.
var currencies = strings.Fields(`
	AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CLF
	CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF
	IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT
	MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD
	SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS
	VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG`)

// currency accepts the codes that a price may have.
func currency(value string) string {
	if _, found := slices.BinarySearch(currencies, value); !found {
		return "must be an active ISO 4217 code with a minor unit, like EUR"
	}
	return ""
}
