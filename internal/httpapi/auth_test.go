package httpapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

const (
	authSecret = "a secret of 32 bytes and more, for tests"
	authAdmin  = "an admin token of 32 bytes and more, for tests"
)

// issuer holds the private keys of a key set.
type issuer struct {
	t    *testing.T
	file string
	rsa  *rsa.PrivateKey
	ec   *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, file: filepath.Join(t.TempDir(), "jwks.json"), rsa: newRSA(t, 2048), ec: newEC(t, elliptic.P256())}
	i.publish(i.key("r1", i.rsa.Public()), i.key("e1", i.ec.Public()))
	return i
}

func newRSA(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEC(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (*issuer) key(kid string, key any) jose.JSONWebKey {
	return jose.JSONWebKey{KeyID: kid, Key: key, Use: "sig"}
}

// publish replaces the file with one that has these keys.
func (i *issuer) publish(keys ...jose.JSONWebKey) {
	i.t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		i.t.Fatal(err)
	}
	i.write(string(text))
}

func (i *issuer) write(text string) {
	i.t.Helper()
	if err := os.WriteFile(i.file+".new", []byte(text), 0o600); err != nil {
		i.t.Fatal(err)
	}
	if err := os.Rename(i.file+".new", i.file); err != nil {
		i.t.Fatal(err)
	}
}

func (i *issuer) verifier(audience string) *verifier {
	i.t.Helper()
	keys, err := OpenKeys(i.file, slog.New(slog.DiscardHandler))
	if err != nil {
		i.t.Fatal(err)
	}
	v, err := newVerifier(&Config{Keys: keys, Audience: audience, AdminToken: authAdmin})
	if err != nil {
		i.t.Fatal(err)
	}
	return v
}

func secretVerifier(tb testing.TB, audience string) *verifier {
	tb.Helper()
	v, err := newVerifier(&Config{JWTSecret: []byte(authSecret), Audience: audience, AdminToken: authAdmin})
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// sign returns a token with headers besides alg.
func sign(t *testing.T, method jwt.SigningMethod, key any, headers map[string]any, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	maps.Copy(token.Header, headers)
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func kid(name string) map[string]any { return map[string]any{"kid": name} }

var ann = jwt.MapClaims{"sub": "ann", "exp": 4102444800}

// nameOf returns the customer of a valid token.
func nameOf(v *verifier, token string) (string, error) {
	got, err := v.verify(token)
	if err != nil {
		return "", err
	}
	return got.subject()
}

// rejected checks that a token is answered 401, with a reason that contains want and
// fits into a header.
func rejected(t *testing.T, v *verifier, name, token, want string) {
	t.Helper()
	got, err := nameOf(v, token)
	if err == nil {
		t.Errorf("%s: the token was accepted for %q", name, got)
		return
	}
	p := problemOf(err)
	if p.Status != 401 || !p.invalidToken || !strings.Contains(p.Detail, want) || strings.ContainsFunc(p.Detail, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		t.Errorf("%s: got %d %q, want 401 %q", name, p.Status, p.Detail, want)
	}
}

const (
	noJWT       = "not a JWT"
	wrongAlg    = "does not accept the token's alg"
	wrongHeader = "header has a duplicate name"
	wrongKey    = "No key of this service has the token's kid and alg"
	unsigned    = "signature is not valid"
)

func TestForgedTokensAreRejectedWithASecret(t *testing.T) {
	t.Parallel()
	v, rsaKey := secretVerifier(t, ""), newRSA(t, 2048)
	good := sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, ann)
	if got, err := nameOf(v, good); err != nil || got != "ann" {
		t.Fatalf("a good token: %v", err)
	}
	parts := strings.Split(good, ".")
	encode := base64.RawURLEncoding.EncodeToString
	past, future := time.Now().Add(-2*time.Second).Unix(), time.Now().Add(time.Hour).Unix()
	for _, test := range []struct{ name, token, want string }{
		{"alg none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, ann), wrongAlg},
		{"alg none in mixed case", encode([]byte(`{"alg":"nOnE"}`)) + "." + parts[1] + ".", wrongAlg},
		{"no signature", parts[0] + "." + parts[1] + ".", unsigned},
		{"another secret", sign(t, jwt.SigningMethodHS256, []byte("another"), nil, ann), unsigned},
		{"another hash of the family", sign(t, jwt.SigningMethodHS512, []byte(authSecret), nil, ann), wrongAlg},
		{"signed with an RSA key", sign(t, jwt.SigningMethodRS256, rsaKey, nil, ann), wrongAlg},
		{"changed claims with a valid signature", parts[0] + "." + encode([]byte(`{"sub":"eve"}`)) + "." + parts[2], unsigned},
		{"a critical extension", sign(t, jwt.SigningMethodHS256, []byte(authSecret), map[string]any{"crit": []string{"b64"}, "b64": false}, ann), wrongHeader},
		{"bad base64", parts[0] + ".%%%." + parts[2], noJWT},
		{"padded base64", parts[0] + "." + parts[1] + "." + parts[2] + "=", noJWT},
		{"trailing bits in the signature", good[:len(good)-1] + nextLetter(good[len(good)-1]), noJWT},
		{"two parts", parts[0] + "." + parts[1], noJWT},
		{"four parts", good + "." + parts[2], noJWT},
		{"not JSON", encode([]byte("x")) + "." + encode([]byte("y")) + "." + parts[2], noJWT},
		{"empty", "", noJWT},
		{"huge", strings.Repeat("A", 1<<20), noJWT},
		{"huge and many parts", strings.Repeat(".", 1<<20), noJWT},
		{"expired", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "exp": past}), "expired"},
		{"expired, by another secret", sign(t, jwt.SigningMethodHS256, []byte("x"), nil, jwt.MapClaims{"sub": "ann", "exp": past}), unsigned},
		{"not valid yet", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "nbf": future}), "not valid yet"},
		{"exp is a string", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "exp": "never"}), "exp must be a number"},
		{"sub is a list", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": []string{"ann"}}), "sub must be a string"},
	} {
		rejected(t, v, test.name, test.token, test.want)
	}
}

// nextLetter returns another letter that a lenient decoder reads as the same bits:
// the last letter of 32 bytes has two unused bits.
func nextLetter(letter byte) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(letters[strings.IndexByte(letters, letter)|1])
}

func TestForgedTokensAreRejectedWithAKeySet(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v, foreign := i.verifier(""), newRSA(t, 2048)
	for _, good := range []string{
		sign(t, jwt.SigningMethodRS256, i.rsa, kid("r1"), ann),
		sign(t, jwt.SigningMethodES256, i.ec, kid("e1"), ann),
	} {
		if got, err := nameOf(v, good); err != nil || got != "ann" {
			t.Fatalf("a good token: %v", err)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(i.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	embedded := map[string]any{"kid": "r1", "jwk": i.key("r1", foreign.Public())}
	for _, test := range []struct{ name, token, want string }{
		{"alg none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid("r1"), ann), wrongAlg},
		{"HS256 with the public key as the secret", sign(t, jwt.SigningMethodHS256, inPEM, kid("r1"), ann), wrongAlg},
		{"HS256 with the public key's bytes", sign(t, jwt.SigningMethodHS256, der, kid("r1"), ann), wrongAlg},
		{"HS256 with an empty secret", sign(t, jwt.SigningMethodHS256, []byte{}, kid("r1"), ann), wrongAlg},
		{"another hash of the family", sign(t, jwt.SigningMethodRS512, i.rsa, kid("r1"), ann), wrongAlg},
		{"another padding", sign(t, jwt.SigningMethodPS256, i.rsa, kid("r1"), ann), wrongAlg},
		{"a foreign key", sign(t, jwt.SigningMethodRS256, foreign, kid("r1"), ann), unsigned},
		{"a key embedded in the token", sign(t, jwt.SigningMethodRS256, foreign, embedded, ann), unsigned},
		{"an unknown kid", sign(t, jwt.SigningMethodRS256, i.rsa, kid("r2"), ann), wrongKey},
		{"no kid among several", sign(t, jwt.SigningMethodRS256, i.rsa, nil, ann), wrongKey},
		{"an empty kid", sign(t, jwt.SigningMethodRS256, i.rsa, kid(""), ann), wrongKey},
		{"a kid that is a path", sign(t, jwt.SigningMethodRS256, i.rsa, kid("../../dev/null"), ann), wrongKey},
		{"a kid that is not a string", sign(t, jwt.SigningMethodRS256, i.rsa, map[string]any{"kid": []string{"r1"}}, ann), wrongKey},
		{"the kid of a key of another type", sign(t, jwt.SigningMethodRS256, i.rsa, kid("e1"), ann), wrongKey},
		{"the kid of a key of another type, ES256", sign(t, jwt.SigningMethodES256, i.ec, kid("r1"), ann), wrongKey},
		{"a critical extension", sign(t, jwt.SigningMethodRS256, i.rsa, map[string]any{"kid": "r1", "crit": []string{"x"}}, ann), wrongHeader},
	} {
		rejected(t, v, test.name, test.token, test.want)
	}
	rejected(t, v, "expired", sign(t, jwt.SigningMethodES256, i.ec, kid("e1"), jwt.MapClaims{"sub": "ann", "exp": 1}), "expired")
}

func TestAudienceMustContainTheService(t *testing.T) {
	t.Parallel()
	v := secretVerifier(t, "shop")
	for _, aud := range []any{"shop", []string{"other", "shop"}} {
		if _, err := v.verify(sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "aud": aud})); err != nil {
			t.Errorf("aud %v: %v", aud, err)
		}
	}
	for _, aud := range []any{"Shop", "", []string{}, []string{"other"}} {
		rejected(t, v, "aud", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "aud": aud}), "aud")
	}
	rejected(t, v, "no aud", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, ann), "aud is missing")
}

func TestVerifierNeedsASecretOrKeys(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	keys, err := OpenKeys(i.file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func() (*verifier, error){
		"neither": func() (*verifier, error) { return newVerifier(&Config{AdminToken: authAdmin}) },
		"both": func() (*verifier, error) {
			return newVerifier(&Config{JWTSecret: []byte(authSecret), Keys: keys, AdminToken: authAdmin})
		},
		"no admin token": func() (*verifier, error) { return newVerifier(&Config{JWTSecret: []byte(authSecret)}) },
	} {
		if _, err := make(); err == nil {
			t.Errorf("%s: newVerifier returned no error", name)
		}
	}
}

// FuzzForgedTokens checks that no text but the valid token is accepted.
func FuzzForgedTokens(f *testing.F) {
	v := secretVerifier(f, "")
	good, err := jwt.NewWithClaims(jwt.SigningMethodHS256, ann).SignedString([]byte(authSecret))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, good[:len(good)-1], "", "..", "a.b.c", `eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.`, strings.Repeat("A.", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if got, err := nameOf(v, token); err == nil && token != good {
			t.Errorf("%q was accepted for %q", token, got)
		}
	})
}
