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

// verifier checks bearer tokens. It is safe for concurrent use.
type verifier struct {
	parser  *jwt.Parser
	methods []string
	key     jwt.Keyfunc
	rules   rules
	typ     string // what the header's typ must be; "" accepts any
	// admin is a digest: comparing digests does not reveal the token's length.
	admin [sha256.Size]byte
}

// newVerifier checks tokens with cfg's keys, or with its secret if it has none. This
// fixes the algorithms: a token must not choose how it is checked.
func newVerifier(cfg *Config) (*verifier, error) {
	if (len(cfg.JWTSecret) == 0) == (cfg.Keys == nil) || cfg.AdminToken == "" {
		return nil, errors.New("set exactly one of JWTSecret and Keys, and an AdminToken")
	}
	key := func(*jwt.Token) (any, error) { return cfg.JWTSecret, nil }
	methods := []string{jwt.SigningMethodHS256.Alg()}
	if cfg.Keys != nil {
		key, methods = cfg.Keys.find, []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg()}
	}
	v := &verifier{
		parser:  jwt.NewParser(jwt.WithValidMethods(methods), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation()),
		methods: methods, typ: cfg.TokenType, admin: sha256.Sum256([]byte(cfg.AdminToken)),
		// The keys of a set are those of an issuer, whose tokens can reach us from anywhere.
		rules: rules{audience: cfg.Audience, issuer: cfg.Issuer, expires: cfg.Keys != nil},
	}
	v.key = func(t *jwt.Token) (any, error) {
		if !v.validHeader(t) {
			return nil, errHeader
		}
		return key(t)
	}
	return v, nil
}

// bearer returns the request's token.
func bearer(c *gin.Context) (string, error) {
	const scheme = "bearer "
	header := c.GetHeader("Authorization")
	switch {
	case len(c.Request.Header.Values("Authorization")) > 1: // a proxy may have checked the other one
		return "", kindUnauthorized.problem("The Authorization header is given more than once.")
	case header == "":
		return "", kindUnauthorized.problem("The Authorization header is missing.")
	case len(header) <= len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme):
		return "", kindUnauthorized.problem("The Authorization header must have the form: Bearer TOKEN.")
	}
	return strings.TrimSpace(header[len(scheme):]), nil
}

// verify checks the signature before the claims: callers without the key must not
// learn what the claims should be. It also returns claims that it rejects.
func (v *verifier) verify(token string) (*claims, error) {
	parsed, err := v.parser.ParseWithClaims(token, new(unread), v.key)
	if err != nil {
		return nil, v.rejected(parsed, err)
	}
	if v.typ != "" && !sameType(parsed.Header["typ"], v.typ) {
		return nil, invalidToken("The token's typ is missing, or is that of another kind of token.")
	}
	text, err := v.parser.DecodeSegment(strings.Split(token, ".")[1])
	if err != nil {
		return nil, err
	}
	got, err := readClaims(text)
	if err != nil {
		return nil, err
	}
	return got, got.check(&v.rules, time.Now())
}

// sameType compares a header's typ as RFC 7515, 4.1.9 requires: a media type without a
// slash is one of application/, and case does not matter. Only ASCII letters have a case.
func sameType(typ any, want string) bool {
	got, ok := typ.(string)
	whole := func(typ string) string {
		if strings.Contains(typ, "/") {
			return typ
		}
		return "application/" + typ
	}
	got, want = whole(got), whole(want)
	return ok && len(got) == len(want) && strings.EqualFold(got, want)
}

var errHeader = errors.New("the token's header is not valid")

// rejected says why a token failed before its claims were read. It reveals only
// what the sender can see in the token.
func (v *verifier) rejected(token *jwt.Token, err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return forgedToken("The token is not a JWT: it must be three base64url parts joined by dots.")
	case token.Method == nil || !slices.Contains(v.methods, token.Method.Alg()):
		return forgedToken("This service does not accept the token's alg.")
	case errors.Is(err, errHeader):
		return forgedToken("The token's header has a duplicate name, invalid UTF-8, or crit, which is not supported.")
	case errors.Is(err, errNoKey):
		return forgedToken("No key of this service has the token's kid and alg.")
	}
	return forgedToken("The token's signature is not valid.")
}

// invalidToken is the problem for a token that was read and rejected.
func invalidToken(detail string) *problem {
	p := kindUnauthorized.problem(detail)
	p.invalidToken = true
	return p
}

// forgedToken is invalidToken for a token that the issuer may not have signed.
func forgedToken(detail string) *problem {
	p := invalidToken(detail)
	p.guess = true
	return p
}

// claims returns the claims of the request's JWT. It does not compare the token with the
// admin token: its answers would tell callers whether they guessed it, and here guesses
// are not counted.
func (v *verifier) claims(c *gin.Context) (*claims, error) {
	token, err := bearer(c)
	if err != nil {
		return nil, err
	}
	return v.verify(token)
}

// administrator checks that the request has the admin token, or a JWT whose scope
// contains admin. It returns who called, also with an error, as far as that is certain.
func (v *verifier) administrator(c *gin.Context) (actor, error) {
	token, err := bearer(c)
	if err != nil {
		return actor{}, err
	}
	if v.isAdmin(token) {
		return actor{kind: actorAdminToken}, nil
	}
	if !strings.Contains(token, ".") {
		return actor{}, forgedToken("The token is neither the admin token nor a JWT.")
	}
	got, err := v.verify(token)
	if got == nil {
		return actor{}, err
	}
	who := actor{kind: actorJWT}
	who.subject, _ = got.subject() // an administrator may have none
	if err != nil {
		return who, err
	}
	if !got.scoped("admin") {
		return who, kindForbidden.problem("The token's scope does not contain admin.")
	}
	return who, nil
}

func (v *verifier) isAdmin(token string) bool {
	digest := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(digest[:], v.admin[:]) == 1
}
