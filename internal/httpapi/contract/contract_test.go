package contract_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"flashsale/internal/httpapi/contract"
	"flashsale/internal/httpapi/spec"
)

func bodies(t testing.TB) map[string]*contract.Object {
	t.Helper()
	read, err := contract.Load(spec.YAML)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*contract.Object{}
	for _, o := range read.Operations {
		if o.Body != nil {
			all[o.ID] = o.Body
		}
	}
	return all
}

func TestInteger(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "-0": 0, "2": 2, "2.0": 2, "2e0": 2, "20E-1": 2, "0.2e1": 2, "-3": -3, "0e99999999999": 0, "0.0": 0,
		"92233720368547758080": math.MaxInt64, "-92233720368547758080": math.MinInt64, "1e999": math.MaxInt64, "-1e999": math.MinInt64,
		"1e99999999999": math.MaxInt64, "1e18": 1e18, "9007199254740993.0": 9007199254740993, "1e19": math.MaxInt64,
	} {
		if got, whole := contract.Integer([]byte(text)); !whole || got != want {
			t.Errorf("%s is %d, %v, want %d", text, got, whole, want)
		}
	}
	for _, text := range []string{"1.5", "0.99999999999999999999", "1e-1", "1e-99999999999", "9007199254740993.5", "2." + strings.Repeat("0", 500)} {
		if got, whole := contract.Integer([]byte(text)); whole {
			t.Errorf("%.40s is read as %d", text, got)
		}
	}
}

func TestUnsupportedDocumentsAreRejected(t *testing.T) {
	t.Parallel()
	replace := func(old, with string) []byte { return bytes.Replace(spec.YAML, []byte(old), []byte(with), 1) }
	for name, document := range map[string][]byte{
		"not YAML":                   []byte("\t:"),
		"an unknown keyword":         replace("quantity: {type: integer,", "quantity: {multipleOf: 2, type: integer,"),
		"an unknown format":          replace("minLength: 1, maxLength: 255}", "minLength: 1, maxLength: 255, format: email}"),
		"an unknown type":            replace("units: {type: integer, format: int64, minimum: 0", "units: {type: number, format: int64, minimum: 0"),
		"a keyword beside $ref":      replace("sku: {$ref: '#/components/schemas/SKUName'}", "sku: {$ref: '#/components/schemas/SKUName', maxLength: 3}"),
		"a broken reference":         replace("sku: {$ref: '#/components/schemas/SKUName'}", "sku: {$ref: '#/components/schemas/Nothing'}"),
		"a body with unknown fields": replace("additionalProperties: false\n      required: [sku, quantity]", "additionalProperties: true\n      required: [sku, quantity]"),
		"an unknown scheme":          replace("security: [{administrator: []}]", "security: [{somebody: []}]"),
		"an invalid status":          replace("'304':", "'3xx':"),
	} {
		if bytes.Equal(document, spec.YAML) {
			t.Errorf("%s: the document was not changed", name)
		}
		if _, err := contract.Load(document); err == nil {
			t.Errorf("%s: Load returned no error", name)
		}
	}
}

func TestWrongTypesAreNamed(t *testing.T) {
	t.Parallel()
	order := bodies(t)["placeOrder"]
	for body, want := range map[string]string{
		`{"quantity":[1]}`:  "must not be an array",
		`{"quantity":{}}`:   "must not be an object",
		`{"quantity":null}`: "must not be null",
		`{"quantity":"1"}`:  "must not be a string",
		`{"sku":true}`:      "must not be a boolean",
		`[]`:                "must not be an array",
		// Invalid JSON has no kind.
		`{"quantity":NaN}`: "", `{"quantity":+1}`: "", "\ufeff{}": "", `'x'`: "",
	} {
		malformed, ok := errors.AsType[*contract.Malformed](order.Check([]byte(body)))
		if !ok {
			t.Errorf("%s is accepted", body)
			continue
		}
		got := ""
		if len(malformed.Fields) == 1 {
			got = malformed.Fields[0].Message
		}
		if got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestCurrenciesAreActiveCodes(t *testing.T) {
	t.Parallel()
	sku := bodies(t)["putSKU"]
	for codes, good := range map[string]bool{
		"EUR USD JPY KWD IQD RSD ALL LAK CLP ISK UGX MGA MRU XAF XOF XPF XCD": true,
		"SLE VED VES ZWG XCG STN":                         true,  // recent
		"CLF UYW UYI BOV CHE CHW COU MXV USN XAD":         true,  // funds codes
		"EUT AAA ZZZ QQQ EUX BTC RMB UKP CNH":             false, // never listed
		"DEM FRF ITL YUM HRK BGN ANG SLL ZWL CUC STD LTL": false, // withdrawn
		"XXX XTS XAU XAG XPT XPD XDR XUA XSU XBA":         false, // no minor unit
		"eur Eur EURO EU E\u0055R1 \u0415UR":              false, // not three capital letters
	} {
		for code := range strings.FieldsSeq(codes) {
			err := sku.Check([]byte(`{"name":"n","price_cents":1,"currency":"` + code + `","units":1}`))
			invalid, _ := errors.AsType[contract.Invalid](err)
			if (err == nil) != good || !good && (len(invalid) != 1 || invalid[0].Field != "currency" || !strings.Contains(invalid[0].Message, "ISO 4217")) {
				t.Errorf("%s: %v %v, want accepted: %v", code, err, invalid, good)
			}
		}
	}
}

func TestAcceptedTimesCanBeDecoded(t *testing.T) {
	t.Parallel()
	sku := bodies(t)["putSKU"]
	for value, good := range map[string]bool{
		"2030-01-31T12:00:00Z": true, "2030-01-31T12:00:00.123456789Z": true, "2030-01-31T12:00:00.1234567891234Z": true,
		"2030-01-31T12:00:00+23:59": true, "2030-01-31T12:00:00-00:00": true, "2030-01-31T12:00:00,5Z": false, "2030-01-31T1:00:00Z": false,
		"2030-01-31T12:00:00+24:00": false, "2030-01-31T12:00:00+00:60": false, "2030-02-30T12:00:00Z": false, "2030-01-31t12:00:00z": false,
		"2030-01-31T12:00:60Z": false, "2030-01-31T24:00:00Z": false, "2030-01-31 12:00:00Z": false, "2030-01-31T12:00:00.Z": false,
	} {
		body := []byte(`{"name":"n","price_cents":1,"currency":"EUR","units":1,"sale_starts_at":"` + value + `"}`)
		err := sku.Check(body)
		if (err == nil) != good {
			t.Errorf("%s: %v", value, err)
		}
		var decoded spec.SKURequest
		if failed := jsonv2.Unmarshal(body, &decoded); err == nil && failed != nil {
			t.Errorf("%s is accepted but cannot be decoded: %v", value, failed)
		}
	}
}

func TestRejectedTimesGetAReason(t *testing.T) {
	t.Parallel()
	sku := bodies(t)["putSKU"]
	const noTime, letters, years = "must be an RFC 3339 time", "must have a capital T and Z", "must be from the year 1000 to the year 9999, in UTC"
	for value, want := range map[string]string{
		"2030-01-31t12:00:00Z": letters, "2030-01-31T12:00:00z": letters, "2030-01-31t12:00:00+01:00": letters, "0001-01-01T00:00:00Z": years,
		"0999-12-31T23:59:59Z": years, "9999-12-31T23:59:59-10:00": years, "1000-01-01T00:00:00+00:01": years, "2030-01-31": noTime, "2030-02-30T12:00:00Z": noTime,
		"10000-01-01T00:00:00Z": noTime, "2030-01-31\u017f12:00:00Z": noTime, "": noTime,
	} {
		err := sku.Check([]byte(`{"name":"n","price_cents":1,"currency":"EUR","units":1,"sale_ends_at":"` + value + `"}`))
		invalid, _ := errors.AsType[contract.Invalid](err)
		if len(invalid) != 1 || invalid[0].Field != "sale_ends_at" || !strings.HasPrefix(invalid[0].Message, want) {
			t.Errorf("%s: %v, want %q", value, invalid, want)
		}
	}
}

// hugePower matches numbers that the JSON Schema library cannot parse.
var hugePower = regexp.MustCompile(`[eE][+-]?[0-9]{4,}`)

// FuzzBodies compares Check with a JSON Schema library on the document's schemas.
func FuzzBodies(f *testing.F) {
	for _, body := range []string{
		`{"sku":"lamp","quantity":1}`, `{"sku":"lamp","quantity":2.0}`, `{"sku":"-","quantity":0}`, `{"quantity":1.5}`, `{}`, `[]`, `null`, ``,
		`{"reference":"r"}`, `{"reference":""}`, `{"units":3}`, `{"sku":"lamp","quantity":1,"quantity":2}`, `{"sku":"lamp","quantity":1}x`,
		`{"name":"n","price_cents":1,"currency":"EUR","units":1,"per_customer_limit":null,"sale_starts_at":"2030-01-01T00:00:00Z","sale_ends_at":null}`,
		`{"name":"n","price_cents":4294967299,"currency":"eur","units":-1,"sale_starts_at":"2030"}`, `{"name":"n","price_cents":1,"currency":"EUT","units":1}`, `{"sku":"\ud800","quantity":0.99999999999999999999}`,
	} {
		f.Add([]byte(body))
	}
	objects := bodies(f)
	schemas := map[string]*jsonschema.Schema{}
	for id, o := range objects {
		schemas[id] = compile(f, id, o.Schema)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		strict := jsontext.Value(body).IsValid()
		for id, o := range objects {
			got := o.Check(body)
			invalid, isInvalid := errors.AsType[contract.Invalid](got)
			malformed, isMalformed := errors.AsType[*contract.Malformed](got)
			if got != nil && !isInvalid && !isMalformed {
				t.Fatalf("%s: %q is %v", id, body, got)
			}
			if isMalformed && malformed.Detail == "" {
				t.Errorf("%s: %q is malformed without a detail", id, body)
			}
			if !strict {
				if got == nil {
					t.Errorf("%s: %q is not JSON but accepted", id, body)
				}
				continue
			}
			if hugePower.Match(body) || onlyFormats(id, invalid) {
				continue // Check is stricter than the schema about times and currencies
			}
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if want := schemas[id].Validate(value); (want == nil) != (got == nil) {
				t.Errorf("%s: %s is %v, want %v", id, body, got, want)
			}
		}
	})
}

func onlyFormats(id string, invalid contract.Invalid) bool {
	for _, wrong := range invalid {
		if !strings.HasSuffix(wrong.Field, "_at") && (id != "putSKU" || wrong.Field != "currency") {
			return false
		}
	}
	return len(invalid) > 0
}

// compile compiles one schema with the document's components.
func compile(t testing.TB, id string, schema map[string]any) *jsonschema.Schema {
	t.Helper()
	read, err := contract.Load(spec.YAML)
	if err != nil {
		t.Fatal(err)
	}
	whole := map[string]any{"components": read.Document["components"]}
	for keyword, value := range schema {
		whole[keyword] = value
	}
	text, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("mem:///"+id, doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("mem:///" + id)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// BenchmarkBody compares the check of an order's body with a JSON Schema library.
func BenchmarkBody(b *testing.B) {
	body := []byte(`{"sku":"sale-1","quantity":1}`)
	order := bodies(b)["placeOrder"]
	b.Run("contract", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := order.Check(body); err != nil {
				b.Fatal(err)
			}
		}
	})
	schema := compile(b, "placeOrder", order.Schema)
	b.Run("jsonschema", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			if err := schema.Validate(value); err != nil {
				b.Fatal(err)
			}
		}
	})
}
