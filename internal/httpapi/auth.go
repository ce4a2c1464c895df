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

// claims are what is read from a customer's or an administrator's token.
type claims struct {
	jwt.RegisteredClaims
	Scope string `json:"scope,omitempty"`
}

// verifier checks bearer tokens. It is safe for concurrent use.
type verifier struct {
	parser *jwt.Parser
	key    func(*jwt.Token) (any, error)
	// admin is a digest: digests have one length, so that comparing them tells
	// nothing about the token's own.
	admin [sha256.Size]byte
}

func newVerifier(secret []byte, audience, adminToken string) *verifier {
	// The algorithm is fixed: a token does not choose how it is checked.
	options := []jwt.ParserOption{jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()})}
	if audience != "" {
		options = append(options, jwt.WithAudience(audience))
	}
	return &verifier{
		parser: jwt.NewParser(options...),
		key:    func(*jwt.Token) (any, error) { return secret, nil },
		admin:  sha256.Sum256([]byte(adminToken)),
	}
}

// bearer is the request's token.
func bearer(c *gin.Context) (string, error) {
	const scheme = "bearer "
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
	if err != nil {
		return "", err
	}
	if got.Subject == "" || len(got.Subject) > maxSubject {
		return "", kindUnauthorized.problem(fmt.Sprintf("The token's sub must have 1 to %d bytes.", maxSubject))
	}
	return got.Subject, nil
}

// requireAdmin lets administrators pass: the admin token, or a token whose scope
// holds admin.
func (a *api) requireAdmin(c *gin.Context) {
	token, err := bearer(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	digest := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(digest[:], a.verifier.admin[:]) == 1 {
		return
	}
	got, err := a.verifier.verify(token)
	if err != nil {
		a.fail(c, err)
		return
	}
	if !slices.Contains(strings.Fields(got.Scope), "admin") {
		a.fail(c, kindForbidden.problem("The token's scope does not hold admin."))
	}
}
