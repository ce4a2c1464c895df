package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json/jsontext"
)

// verifier checks bearer tokens. It is safe for concurrent use.
type verifier struct {
	algorithms []jose.SignatureAlgorithm
	// key returns the key for a token with that header, or nil.
	key      func(header map[string]any) *jose.JSONWebKey
	audience string // "" accepts any
	// admin is a digest: comparing digests does not reveal the token's length.
	admin [sha256.Size]byte
}

// newVerifier checks tokens with keys, or with the secret if keys is nil. This
// fixes the algorithms: a token must not choose how it is checked.
func newVerifier(secret []byte, keys *Keys, audience, adminToken string) (*verifier, error) {
	if (len(secret) == 0) == (keys == nil) || adminToken == "" {
		return nil, errors.New("set exactly one of JWTSecret and Keys, and an AdminToken")
	}
	v := &verifier{audience: audience, admin: sha256.Sum256([]byte(adminToken))}
	if keys != nil {
		v.key, v.algorithms = keys.find, []jose.SignatureAlgorithm{jose.RS256, jose.ES256}
		return v, nil
	}
	// The library rejects shorter secrets, which --insecure-demo allows. HMAC itself pads
	// them with zeros: the signatures are the same.
	padding := make([]byte, max(0, sha256.Size-len(secret)))
	key := &jose.JSONWebKey{Key: slices.Concat(secret, padding)}
	v.key, v.algorithms = func(map[string]any) *jose.JSONWebKey { return key }, []jose.SignatureAlgorithm{jose.HS256}
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
// learn what the claims should be. Until then, an error reveals only what the sender
// can see in the token.
func (v *verifier) verify(token string) (*claims, error) {
	text, header, ok := readHeader(token)
	if !ok {
		return nil, invalidToken("The token is not a JWT: it must be three base64url parts joined by dots.")
	}
	alg, _ := header["alg"].(string)
	if !slices.Contains(v.algorithms, jose.SignatureAlgorithm(alg)) {
		return nil, invalidToken("This service does not accept the token's alg.")
	}
	// RFC 7515 requires unique names, and no unsupported critical extension. This
	// service supports none.
	if _, critical := header["crit"]; critical || !text.IsValid() {
		return nil, invalidToken("The token's header has a duplicate name, invalid UTF-8, or crit, which is not supported.")
	}
	key := v.key(header)
	if key == nil {
		return nil, invalidToken("No key of this service has the token's kid and alg.")
	}
	signed, err := jose.ParseSignedCompact(token, v.algorithms)
	// The library would accept a signature of the claims before base64url (RFC 7797).
	if err != nil || header["b64"] == false {
		return nil, invalidToken("The token's header has an invalid kid, jwk, x5c, nonce or b64.")
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return nil, invalidToken("The token's signature is not valid.")
	}
	got, err := readClaims(payload)
	if err != nil {
		return nil, err
	}
	return got, got.check(v.audience, time.Now())
}

// readHeader returns a token's header as text and decoded. ok is false unless the token
// has three base64url parts, and the first two are JSON. Only one encoding of a part is
// valid: the library ignores line breaks and trailing bits, and checks the signature of
// the text without them.
func readHeader(token string) (text jsontext.Value, header map[string]any, ok bool) {
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 || strings.ContainsAny(token, "\r\n") { // Strict ignores line breaks
		return nil, nil, false
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return nil, nil, false
		}
	}
	ok = json.Unmarshal(decoded[0], &header) == nil && json.Valid(decoded[1])
	return decoded[0], header, ok
}

// invalidToken is the problem for a token that was read and rejected.
func invalidToken(detail string) *problem {
	p := kindUnauthorized.problem(detail)
	p.invalidToken = true
	return p
}

// customer returns the subject of the request's token.
func (v *verifier) customer(c *gin.Context) (string, error) {
	token, err := bearer(c)
	if err != nil {
		return "", err
	}
	got, err := v.verify(token)
	switch {
	case err == nil:
		return got.subject()
	case v.isAdmin(token):
		err = invalidToken("The admin token names no customer; this call needs a customer's token.")
	}
	return "", err
}

// administrator checks that the request has the admin token, or a JWT whose scope
// contains admin.
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
		return kindForbidden.problem("The token's scope does not contain admin.")
	}
	return nil
}

func (v *verifier) isAdmin(token string) bool {
	digest := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(digest[:], v.admin[:]) == 1
}
