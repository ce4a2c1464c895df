package sandboxtest

import (
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Token returns a token with these claims, signed with a secret of a replica. Like
// SignedToken, it may be called from any goroutine.
func Token(tb testing.TB, secret string, claims map[string]any) string {
	tb.Helper()
	return SignedToken(tb, jose.HS256, []byte(secret), nil, claims)
}

// SignedToken returns a token with headers besides alg. A secret may have any length:
// the library rejects short ones, but HMAC pads them with zeros.
func SignedToken(tb testing.TB, algorithm jose.SignatureAlgorithm, key any, headers map[jose.HeaderKey]any, claims map[string]any) string {
	tb.Helper()
	const minSecret = 64 // for HS512
	if secret, ok := key.([]byte); ok && len(secret) < minSecret {
		key = append(secret[:len(secret):len(secret)], make([]byte, minSecret-len(secret))...)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, &jose.SignerOptions{ExtraHeaders: headers})
	if err != nil {
		tb.Errorf("sign a token: %v", err)
		return ""
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		tb.Errorf("sign a token: %v", err)
	}
	return text
}
