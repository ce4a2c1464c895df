package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
)

// maxSubject is the longest name of a customer, in bytes.
const maxSubject = 255

// verifier checks bearer tokens. It is safe for concurrent use.
type verifier struct {
	parser   *jwt.Parser
	methods  []string
	key      jwt.Keyfunc
	audience string // of no interest when empty
	// admin is a digest: digests have one length, so that comparing them tells
	// nothing about the token's own.
	admin [sha256.Size]byte
}

// newVerifier checks tokens by keys, or by the secret where there are none. The
// algorithms are fixed by that: a token does not choose how it is checked.
func newVerifier(secret []byte, keys *Keys, audience, adminToken string) (*verifier, error) {
	if (len(secret) == 0) == (keys == nil) || adminToken == "" {
		return nil, errors.New("tokens are checked by a secret or by keys, one of them, and administrators' by a token that is not empty")
	}
	key := func(*jwt.Token) (any, error) { return secret, nil }
	methods := []string{jwt.SigningMethodHS256.Alg()}
	if keys != nil {
		key, methods = keys.find, []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg()}
	}
	v := &verifier{
		parser:  jwt.NewParser(jwt.WithValidMethods(methods), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation()),
		methods: methods, audience: audience, admin: sha256.Sum256([]byte(adminToken)),
	}
	v.key = func(t *jwt.Token) (any, error) {
		if !v.understood(t) {
			return nil, errHeader
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

// verify checks the signature, and only then looks at the claims: who cannot sign
// learns nothing of what is asked of them.
func (v *verifier) verify(token string) (*claims, error) {
	parsed, err := v.parser.ParseWithClaims(token, new(unread), v.key)
	if err != nil {
		return nil, v.unproven(parsed, err)
	}
	_, rest, _ := strings.Cut(token, ".")
	middle, _, _ := strings.Cut(rest, ".")
	text, err := v.parser.DecodeSegment(middle)
	if err != nil {
		return nil, err // it was decoded before
	}
	got, err := readClaims(text)
	if err != nil {
		return nil, err
	}
	return got, got.check(v.audience, time.Now())
}

// errHeader is that of a token which is not understood.
var errHeader = errors.New("the header is not understood")

// unproven says why a token is not known to be the issuer's. It tells what the
// sender can see in the token, never what was expected in its place.
func (v *verifier) unproven(token *jwt.Token, err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return invalidToken("The token is not a JWT: three parts in base64url, joined by dots.")
	case token.Method == nil || !slices.Contains(v.methods, token.Method.Alg()):
		return invalidToken("The token's alg is not taken by this service.")
	case errors.Is(err, errHeader):
		return invalidToken("The token's header names something twice, is not UTF-8, or has crit, of which this service knows nothing.")
	case errors.Is(err, errNoKey):
		return invalidToken("The token's kid and alg are those of no key of this service.")
	}
	return invalidToken("The token's signature does not fit.")
}

// invalidToken is the problem of a token that was read, and is not taken.
func invalidToken(detail string) *problem {
	p := kindUnauthorized.problem(detail)
	p.invalidToken = true
	return p
}

// customer is the subject of the request's token.
func (v *verifier) customer(c *gin.Context) (string, error) {
	token, err := bearer(c)
	if err != nil {
		return "", err
	}
	got, err := v.verify(token)
	if err != nil && v.isAdmin(token) {
		return "", invalidToken("The admin token names no customer, and this call is a customer's.")
	}
	if err != nil {
		return "", err
	}
	return got.subject()
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
	if !strings.Contains(token, ".") {
		return invalidToken("The token is neither the admin token nor a JWT.")
	}
	got, err := v.verify(token)
	if err != nil {
		return err
	}
	if !got.admin() {
		return kindForbidden.problem("The token's scope does not hold admin.")
	}
	return nil
}

func (v *verifier) isAdmin(token string) bool {
	digest := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(digest[:], v.admin[:]) == 1
}
