package httpapi

import (
	"errors"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

// claims are what is read from a customer's or an administrator's token.
type claims struct {
	jwt.RegisteredClaims
	Scope string `json:"scope"`
}

// UnmarshalJSON reads the claims to the letter: a name in other letters is
// another claim, none may stand twice, and all of it is UTF-8. encoding/json,
// which the parser would read them by, takes "Scope" for scope and the last of
// several, and makes one name of all that are no UTF-8: what an issuer let a
// customer set would have been more than it checked.
func (c *claims) UnmarshalJSON(text []byte) error {
	type plain claims // without this method
	return json.Unmarshal(text, (*plain)(c), numericDates)
}

var numericDates = json.WithUnmarshalers(json.UnmarshalFromFunc(readDate))

// latestDate is the end of the year 9999, in seconds. The library's own dates
// overflow: a token that is to hold from the year 300 billion on held already.
const latestDate = 253402300799

// readDate reads seconds since 1970, fractions of which are left out.
func readDate(in *jsontext.Decoder, date *jwt.NumericDate) error {
	token, err := in.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != '0' {
		return errors.New("a date is no number")
	}
	seconds := token.Float()
	if seconds < -latestDate || seconds > latestDate {
		return errors.New("a date is beyond the calendar")
	}
	*date = *jwt.NewNumericDate(time.Unix(int64(seconds), 0))
	return nil
}

// understood says whether a token's header can be read in one way only, and asks
// for nothing that is not understood. RFC 7515: names in it are unique, and what
// it declares critical and is not known makes the token invalid. Nothing is known
// here.
func (v *verifier) understood(token *jwt.Token) bool {
	first, _, _ := strings.Cut(token.Raw, ".")
	header, err := v.parser.DecodeSegment(first)
	_, critical := token.Header["crit"]
	return err == nil && jsontext.Value(header).IsValid() && !critical
}
