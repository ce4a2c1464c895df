package httpapi

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"flashsale/internal/httpapi/contract"
)

// maxBody is far above any body that the API takes.
const maxBody = 64 << 10

// maxKey is the longest idempotency key, in bytes.
const maxKey = 255

// readBody reads and checks the body, where the operation has one, so that
// whatever is wrong with it is answered before the handler runs.
func (a *api) readBody(c *gin.Context) {
	this := callOf(c)
	if this.operation.Body == nil {
		return
	}
	if c.Request.ContentLength == 0 && !this.operation.BodyRequired {
		return // whatever type nothing is said to have: forms that are empty have one
	}
	var err error
	if this.body, err = body(c); err != nil {
		a.fail(c, err)
		return
	}
	if len(this.body) == 0 && !this.operation.BodyRequired {
		return
	}
	if err := this.operation.Body.Check(this.body); err != nil {
		a.fail(c, inputProblem(err))
	}
}

// body reads the whole body, which is said to be JSON or not said to be
// anything.
func body(c *gin.Context) ([]byte, error) {
	// What stands before us may have heeded another one than we would.
	if len(c.Request.Header.Values("Content-Type")) > 1 {
		return nil, badHeader("Content-Type", "is given more than once")
	}
	if text := c.GetHeader("Content-Type"); text != "" && text != "application/json" {
		if kind, _, err := mime.ParseMediaType(text); err != nil || kind != "application/json" {
			return nil, kindMediaType.problem(fmt.Sprintf("Content-Type is %q, expected application/json.", text))
		}
	}
	if text := strings.Join(c.Request.Header.Values("Content-Encoding"), ", "); text != "" && !strings.EqualFold(text, "identity") {
		c.Header("Accept-Encoding", "identity") // RFC 9110, 15.5.16: which encodings would have been taken
		return nil, kindMediaType.problem(fmt.Sprintf("Content-Encoding is %q; bodies are taken as they are, not packed.", text))
	}
	read, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, maxBody))
	if err == nil {
		return read, nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, kindTooLarge.problem(fmt.Sprintf("At most %d bytes are read.", maxBody))
	}
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		return nil, kindBodyLate.problem("")
	}
	return nil, kindSyntax.problem("The body could not be read to its end.")
}

// inputProblem is the problem that a check of package contract found.
func inputProblem(err error) error {
	if malformed, ok := errors.AsType[*contract.Malformed](err); ok {
		return kindSyntax.problem(malformed.Detail, malformed.Fields...)
	}
	if invalid, ok := errors.AsType[contract.Invalid](err); ok {
		return kindInvalid.problem("See errors for each field.", invalid...)
	}
	return err
}

// decode reads the checked body into v, a generated type.
func (c *call) decode(v any) error {
	if len(c.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.body, v, wholeNumbers); err != nil {
		// The check is as strict: the document and its types differ.
		return fmt.Errorf("a checked body could not be decoded: %w", err)
	}
	return nil
}

// wholeNumbers reads integers as JSON Schema knows them: 2, 2.0 and 2e0 are one.
var wholeNumbers = json.WithUnmarshalers(json.JoinUnmarshalers(json.UnmarshalFromFunc(readWhole[int32]), json.UnmarshalFromFunc(readWhole[int64])))

func readWhole[N int32 | int64](in *jsontext.Decoder, n *N) error {
	value, err := in.ReadValue()
	if err != nil {
		return err
	}
	whole, _ := contract.Integer(value)
	*n = N(whole)
	return nil
}

// idempotencyKey reads the header of the IETF draft: a quoted string. Many send
// it bare, which is the same key. Both have the draft's characters: what is not
// printable ASCII does not come through every proxy as it was sent.
func idempotencyKey(header string) (string, error) {
	bad := func(message string) (string, error) { return "", badHeader("Idempotency-Key", "is "+message) }
	key := strings.TrimSpace(header)
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
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		return bad("not of printable ASCII")
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
