package httpapi

import (
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxBody is far above any body that the API takes.
const maxBody = 64 << 10

// maxKey is the longest idempotency key, in bytes.
const maxKey = 255

// skuPattern is what a SKU looks like.
var skuPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// decode reads the body, one JSON value and nothing behind it, into v. Unknown
// and duplicate fields and wrong JSON types are refused: what a caller meant by
// them cannot be guessed.
func decode(c *gin.Context, v any) error {
	if text := c.GetHeader("Content-Type"); text != "" {
		if kind, _, err := mime.ParseMediaType(text); err != nil || kind != "application/json" {
			return kindMediaType.problem(fmt.Sprintf("Content-Type is %q, expected application/json.", text))
		}
	}
	body := http.MaxBytesReader(c.Writer, c.Request.Body, maxBody)
	in := jsontext.NewDecoder(body)
	if k := in.PeekKind(); k != '{' && k != 0 {
		return kindSyntax.problem("The body is not a JSON object.", fieldError{"(body)", "must not be a " + kindName(k)})
	}
	err := json.UnmarshalDecode(in, v, json.RejectUnknownMembers(true))
	if err == nil {
		if _, err = in.ReadToken(); errors.Is(err, io.EOF) {
			return nil
		}
		return kindSyntax.problem("There is something behind the body's JSON object.")
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return kindTooLarge.problem(fmt.Sprintf("At most %d bytes are read.", maxBody))
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		field := fieldName(semantic.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			return kindSyntax.problem("The body has an unknown field.", fieldError{field, "is not known here"})
		}
		return kindSyntax.problem("A field has the wrong JSON type.", fieldError{field, "must not be a " + kindName(semantic.JSONKind)})
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return kindSyntax.problem("A field stands twice.", fieldError{fieldName(syntactic.JSONPointer), "stands more than once"})
		}
		return kindSyntax.problem(fmt.Sprintf("The body is not one JSON object: see byte %d.", syntactic.ByteOffset))
	}
	return kindSyntax.problem("The body could not be read.")
}

func fieldName(pointer jsontext.Pointer) string {
	if name := strings.TrimPrefix(string(pointer), "/"); name != "" {
		return name
	}
	return "(body)"
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "boolean"
	case '"':
		return "string"
	case '0':
		return "number"
	case '{':
		return "object"
	}
	return "array"
}

// fields gathers what is wrong with the values of a body.
type fields []fieldError

func (f *fields) add(field, message string) { *f = append(*f, fieldError{field, message}) }

// problem is nil when nothing was added.
func (f *fields) problem() error {
	if len(*f) == 0 {
		return nil
	}
	return kindInvalid.problem("See errors for each field.", *f...)
}

// text is a JSON string, and not null: encoding takes null for an empty one.
type text string

// UnmarshalJSONFrom takes a JSON string.
func (s *text) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if k := dec.PeekKind(); k != '"' {
		return &json.SemanticError{JSONPointer: dec.StackPointer(), JSONKind: k}
	}
	token, err := dec.ReadToken()
	*s = text(token.String())
	return err
}

// integer is a whole number as JSON knows it: 2, 2.0 and 2e0 are the same. It
// is read as text first, so that a wrong value is told from a wrong type.
type integer struct {
	text string // empty when the field is absent
}

// UnmarshalJSONFrom takes any JSON number.
func (n *integer) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if k := dec.PeekKind(); k != '0' {
		return &json.SemanticError{JSONPointer: dec.StackPointer(), JSONKind: k}
	}
	value, err := dec.ReadValue()
	n.text = string(value)
	return err
}

// between is the number, if it is whole and within the bounds.
func (n *integer) between(f *fields, field string, low, high int64) int64 {
	if n.text == "" {
		f.add(field, "is required")
		return 0
	}
	value, err := strconv.ParseInt(n.text, 10, 64)
	if err != nil {
		float, _ := strconv.ParseFloat(n.text, 64) // out of range is an infinity
		if float != math.Trunc(float) {
			f.add(field, "must be a whole number")
			return 0
		}
		// Beyond 2^53 a float is whole but not exact; no bound is that high.
		value = int64(max(min(float, 1<<53), -1<<53))
	}
	if value < low || value > high {
		f.add(field, fmt.Sprintf("must be from %d to %d", low, high))
	}
	return value
}

// instant is a time of RFC 3339, or absent.
func instant(f *fields, field string, text *string) *time.Time {
	if text == nil {
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, *text)
	t = t.UTC()
	if err != nil || t.Year() < 1000 || t.Year() > 9999 {
		f.add(field, "must be a time of RFC 3339, like 2030-01-31T12:00:00Z")
		return nil
	}
	t = t.Truncate(time.Microsecond)
	return &t
}

// idempotencyKey reads the header of the IETF draft: a quoted string. Many send
// it bare, which is the same key.
func idempotencyKey(c *gin.Context) (string, error) {
	const name = "Idempotency-Key"
	bad := func(message string) (string, error) {
		return "", kindSyntax.problem("The "+name+" header is "+message+".", fieldError{name, "is " + message})
	}
	values := c.Request.Header.Values(name)
	if len(values) == 0 {
		return bad("missing")
	}
	if len(values) > 1 {
		return bad("given more than once")
	}
	key := strings.TrimSpace(values[0])
	if strings.HasPrefix(key, `"`) {
		var ok bool
		if key, ok = unquote(key); !ok {
			return bad("not a quoted string")
		}
	}
	switch {
	case key == "":
		return bad("empty")
	case len(key) > maxKey:
		return bad(fmt.Sprintf("over %d bytes", maxKey))
	}
	return key, nil
}

// unquote reads a string of RFC 8941: \" and \\ are its only escapes.
func unquote(quoted string) (string, bool) {
	var b strings.Builder
	for i := 1; i < len(quoted); i++ {
		switch quoted[i] {
		case '"':
			return b.String(), i == len(quoted)-1
		case '\\':
			i++
			if i == len(quoted) || quoted[i] != '"' && quoted[i] != '\\' {
				return "", false
			}
		}
		b.WriteByte(quoted[i])
	}
	return "", false
}
