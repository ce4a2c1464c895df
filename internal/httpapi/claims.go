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

// maxSubject is the longest name of a customer, in bytes.
const maxSubject = 255

// unread stands for the claims until the signature is checked, so that no answer
// depends on them. The parser does not call the embedded nil interface.
type unread struct{ jwt.Claims }

// UnmarshalJSON does nothing: readClaims reads the claims.
func (*unread) UnmarshalJSON([]byte) error { return nil }

// claims are the claims that this service checks, undecoded. It ignores the others
// (iat, jti, and iss without --jwt-issuer), whatever their type.
type claims struct {
	Iss   jsontext.Value `json:"iss"`
	Sub   jsontext.Value `json:"sub"`
	Aud   jsontext.Value `json:"aud"`
	Exp   jsontext.Value `json:"exp"`
	Nbf   jsontext.Value `json:"nbf"`
	Scope jsontext.Value `json:"scope"`
}

// readClaims reads the claims strictly: case-sensitive names, no duplicates, valid
// UTF-8. encoding/json accepts "Scope" for scope, the last of several, and invalid
// UTF-8: a customer could set a claim that the issuer did not check.
func readClaims(text []byte) (*claims, error) {
	var c claims
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, invalidToken("The token's claims must be one JSON object with unique names and valid UTF-8.")
	}
	return &c, nil
}

// rules are what a token's claims must satisfy besides its validity period.
type rules struct {
	audience, issuer string // "" accepts any
	expires          bool   // exp is required
}

// check checks the token's validity period and the rules. It allows no clock skew:
// an issuer can backdate its tokens.
func (c *claims) check(r *rules, now time.Time) error {
	if r.expires && len(c.Exp) == 0 {
		return invalidToken("The token's exp is missing: only tokens that expire are accepted.")
	}
	expires, err := readDate("exp", c.Exp, latestDate)
	if err != nil {
		return err
	}
	begins, err := readDate("nbf", c.Nbf, -latestDate)
	if err != nil {
		return err
	}
	if now.Unix() >= expires {
		return invalidToken("The token has expired.")
	}
	if now.Unix() < begins {
		return invalidToken("The token is not valid yet: its nbf is in the future.")
	}
	var issuer string
	if r.issuer != "" && (c.Iss.Kind() != '"' || json.Unmarshal(c.Iss, &issuer) != nil || issuer != r.issuer) {
		return invalidToken("The token's iss is missing, or names another issuer.")
	}
	if r.audience == "" {
		return nil
	}
	list, ok := readStrings(c.Aud)
	switch {
	case missing(c.Aud):
		return invalidToken("The token's aud is missing: it must name this service.")
	case !ok:
		return invalidToken("The token's aud must be a string or a list of strings.")
	case !slices.Contains(list, r.audience):
		return invalidToken("The token's aud names another service.")
	}
	return nil
}

// subject returns the customer that the token names.
func (c *claims) subject() (string, error) {
	if missing(c.Sub) {
		return "", invalidToken("The token's sub is missing: it must name the customer.")
	}
	var name string
	if err := json.Unmarshal(c.Sub, &name); err != nil {
		return "", invalidToken("The token's sub must be a string.")
	}
	if name == "" || len(name) > maxSubject {
		return "", invalidToken(fmt.Sprintf("The token's sub must have 1 to %d bytes.", maxSubject))
	}
	return name, nil
}

// scoped reports whether the scope contains a name: in a string, or as an element of
// a list, which some issuers use. RFC 6749 separates scopes by U+0020 only: other
// separators would find scopes that the issuer did not grant.
func (c *claims) scoped(name string) bool {
	scopes, _ := readStrings(c.Scope)
	if c.Scope.Kind() == '"' {
		scopes = strings.Split(scopes[0], " ")
	}
	return slices.Contains(scopes, name)
}

// missing reports whether a claim is absent or null.
func missing(claim jsontext.Value) bool { return len(claim) == 0 || claim.Kind() == 'n' }

// readStrings reads a string, or a list of strings. The decoder would read null as "".
func readStrings(claim jsontext.Value) (list []string, ok bool) {
	if claim.Kind() == '"' {
		list = make([]string, 1)
		return list, json.Unmarshal(claim, &list[0]) == nil
	}
	var values []jsontext.Value
	if claim.Kind() != '[' || json.Unmarshal(claim, &values) != nil || json.Unmarshal(claim, &list) != nil ||
		slices.ContainsFunc(values, func(v jsontext.Value) bool { return v.Kind() != '"' }) {
		return nil, false
	}
	return list, true
}

// latestDate is the end of the year 9999, in seconds. Larger dates overflow in the
// library: an nbf in the far future would be in the past.
const latestDate = 253402300799

// readDate reads seconds since 1970, without fractions; absent is the result for a
// missing claim. An unreadable date is an error: it must not count as missing.
func readDate(name string, claim jsontext.Value, absent int64) (int64, error) {
	if len(claim) == 0 {
		return absent, nil
	}
	if claim.Kind() != '0' {
		return 0, invalidToken("The token's " + name + " must be a number of seconds since 1970.")
	}
	seconds, err := strconv.ParseFloat(string(claim), 64)
	if err != nil || seconds < -latestDate || seconds > latestDate {
		return 0, invalidToken("The token's " + name + " is after the year 9999.")
	}
	return int64(seconds), nil
}

// validHeader checks a token's header as RFC 7515 requires: unique names, and no
// unsupported critical extension. This service supports none.
func (v *verifier) validHeader(token *jwt.Token) bool {
	first, _, _ := strings.Cut(token.Raw, ".")
	header, err := v.parser.DecodeSegment(first)
	_, critical := token.Header["crit"]
	return err == nil && jsontext.Value(header).IsValid() && !critical
}
