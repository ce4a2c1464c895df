package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
)

// maxSubject is the longest name of a customer, in bytes.
const maxSubject = 255

// verifier checks bearer tokens. It is safe for concurrent use.
type verifier struct {
	parser *jwt.Parser
	key    jwt.Keyfunc
	// admin is a digest: digests have one length, so that comparing them tells
	// nothing about the token's own.
	admin [sha256.Size]byte
}

// newVerifier checks tokens by keys, or by the secret where there are none. The
// algorithms are fixed by that: a token does not choose how it is checked. There
// is no leeway for clocks that differ: who issues tokens can date them back.
func newVerifier(secret []byte, keys *Keys, audience, adminToken string) (*verifier, error) {
	if (len(secret) == 0) == (keys == nil) || adminToken == "" {
		return nil, errors.New("tokens are checked by a secret or by keys, one of them, and administrators' by a token that is not empty")
	}
	key := func(*jwt.Token) (any, error) { return secret, nil }
	methods := []string{jwt.SigningMethodHS256.Alg()}
	if keys != nil {
		key, methods = keys.find, []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg()}
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(methods), jwt.WithStrictDecoding()}
	if audience != "" {
		options = append(options, jwt.WithAudience(audience))
	}
	v := &verifier{parser: jwt.NewParser(options...), admin: sha256.Sum256([]byte(adminToken))}
	v.key = func(t *jwt.Token) (any, error) {
		if !v.understood(t) {
			return nil, errNoKey
		}
		return key(t)
	}
	return v, nil
}

// bearer is the request's token.
func bearer(c *gin.Context) (string, error) {
	const scheme = "bearer "
	if len(c.Request.Header.Values("Authorization")) > 1 {
		// What stands before us may have checked another one than we would.
		return "", kindUnauthorized.problem("The Authorization header is given more than once.")
	}
	header := c.GetHeader("Authorization")
	if header == "" {
		return "", kindUnauthorized.problem("The Authorization header is missing.")
	}
	if len(header) <= len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return "", kindUnauthorized.problem("The Authorization header is not of the form: Bearer TOKEN.")
	}
	return strings.TrimSpace(header[len(scheme):]), nil
}

func (v *verifier) verify(token string) (*claims, error) {
	var got claims
	_, err := v.parser.ParseWithClaims(token, &got, v.key)
	switch {
	case err == nil:
		return &got, nil
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, kindUnauthorized.problem("The token has expired.")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return nil, kindUnauthorized.problem("The token is not valid yet.")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing): // no other is required
		return nil, kindUnauthorized.problem("The token has no aud, which says what service it is for.")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return nil, kindUnauthorized.problem("The token is for another audience.")
	}
	return nil, kindUnauthorized.problem("The token is not one that was issued for this service.")
}

// customer is the subject of the request's token.
func (v *verifier) customer(c *gin.Context) (string, error) {
	token, err := bearer(c)
	if err != nil {
		return "", err
	}
	got, err := v.verify(token)
	if err != nil && v.isAdmin(token) {
		return "", kindUnauthorized.problem("The admin token names no customer, and this call is a customer's.")
	}
	if err != nil {
		return "", err
	}
	if got.Subject == "" || len(got.Subject) > maxSubject {
		return "", kindUnauthorized.problem(fmt.Sprintf("The token's sub must have 1 to %d bytes.", maxSubject))
	}
	return got.Subject, nil
}

// administrator makes sure that the request is an administrator's: its token is
// the admin token, or one whose scope holds admin.
func (v *verifier) administrator(c *gin.Context) error {
	token, err := bearer(c)
	if err != nil {
		return err
	}
	if v.isAdmin(token) {
		return nil
	}
	got, err := v.verify(token)
	if err != nil {
		return err
	}
	// RFC 6749 separates scopes by U+0020 alone. To split at other blanks would find
	// more scopes than the issuer gave.
	if !slices.Contains(strings.Split(got.Scope, " "), "admin") {
		return kindForbidden.problem("The token's scope does not hold admin.")
	}
	return nil
}

func (v *verifier) isAdmin(token string) bool {
	digest := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(digest[:], v.admin[:]) == 1
}
