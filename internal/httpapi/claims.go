package httpapi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

// unread are the claims of a token whose signature is not checked yet: nothing of
// them is looked at, so that nothing of them can be told. The library never asks
// what is embedded: it does not validate claims here.
type unread struct{ jwt.Claims }

// UnmarshalJSON leaves the claims to readClaims.
func (*unread) UnmarshalJSON([]byte) error { return nil }

// claims are those that matter here, as they stand in a token. Issuers have their
// own ways with the others (iat, jti, iss): they refuse no token, whatever their
// type.
type claims struct {
	Sub   jsontext.Value `json:"sub"`
	Aud   jsontext.Value `json:"aud"`
	Exp   jsontext.Value `json:"exp"`
	Nbf   jsontext.Value `json:"nbf"`
	Scope jsontext.Value `json:"scope"`
}

// readClaims reads the claims to the letter: a name in other letters is another
// claim, none may stand twice, and all of it is UTF-8. encoding/json takes "Scope"
// for scope and the last of several, and makes one name of all that are no UTF-8:
// what an issuer let a customer set would have been more than it checked.
func readClaims(text []byte) (*claims, error) {
	var c claims
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, invalidToken("The token's claims are not one JSON object that can be read in one way only: names must be unique, and text UTF-8.")
	}
	return &c, nil
}

// check finds what keeps the token from being taken for anybody: when it holds,
// and for whom it is. There is no leeway for clocks that differ: who issues tokens
// can date them back.
func (c *claims) check(audience string, now time.Time) error {
	if expires, given, err := readDate("exp", c.Exp); err != nil {
		return err
	} else if given && !now.Before(expires) {
		return invalidToken("The token has expired.")
	}
	if begins, given, err := readDate("nbf", c.Nbf); err != nil {
		return err
	} else if given && now.Before(begins) {
		return invalidToken("The token is not valid yet: its nbf is in the future.")
	}
	if audience == "" {
		return nil
	}
	list, ok := readStrings(c.Aud)
	switch {
	case missing(c.Aud):
		return invalidToken("The token's aud is missing: it says what service the token is for.")
	case !ok:
		return invalidToken("The token's aud is neither a string nor a list of strings.")
	case !slices.Contains(list, audience):
		return invalidToken("The token's aud is not this service's: the token is for another one.")
	}
	return nil
}

// subject is the customer whom the token names.
func (c *claims) subject() (string, error) {
	if missing(c.Sub) {
		return "", invalidToken("The token's sub is missing: it names the customer.")
	}
	var name string
	if err := json.Unmarshal(c.Sub, &name); err != nil {
		return "", invalidToken("The token's sub is not a string.")
	}
	if name == "" || len(name) > maxSubject {
		return "", invalidToken(fmt.Sprintf("The token's sub must have 1 to %d bytes.", maxSubject))
	}
	return name, nil
}

// admin says whether the scope holds admin: as one of a list (RFC 9068's issuers
// differ), or in a string. RFC 6749 separates scopes by U+0020 alone: to split at
// other blanks, or within a list, would find more scopes than the issuer gave.
func (c *claims) admin() bool {
	scopes, _ := readStrings(c.Scope)
	if c.Scope.Kind() == '"' {
		scopes = strings.Split(scopes[0], " ")
	}
	return slices.Contains(scopes, "admin")
}

// missing says that a claim is not there, or null, which says as little.
func missing(claim jsontext.Value) bool { return len(claim) == 0 || claim.Kind() == 'n' }

// readStrings reads a string, or a list of strings.
func readStrings(claim jsontext.Value) (list []string, ok bool) {
	if claim.Kind() == '"' {
		list = make([]string, 1)
		return list, json.Unmarshal(claim, &list[0]) == nil
	}
	if claim.Kind() != '[' || json.Unmarshal(claim, &list) != nil {
		return nil, false
	}
	return list, true
}

// latestDate is the end of the year 9999, in seconds. The library's own dates
// overflow: a token that is to hold from the year 300 billion on held already.
const latestDate = 253402300799

// readDate reads seconds since 1970, fractions of which are left out. A date that
// cannot be read must not pass for none: the token would hold for ever.
func readDate(name string, claim jsontext.Value) (at time.Time, given bool, err error) {
	if len(claim) == 0 {
		return at, false, nil
	}
	if claim.Kind() != '0' {
		return at, false, invalidToken("The token's " + name + " is not a number of seconds since 1970.")
	}
	seconds, err := strconv.ParseFloat(string(claim), 64)
	if err != nil || seconds < -latestDate || seconds > latestDate {
		return at, false, invalidToken("The token's " + name + " is beyond the year 9999.")
	}
	return time.Unix(int64(seconds), 0), true, nil
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
