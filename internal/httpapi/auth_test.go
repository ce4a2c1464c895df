package httpapi

import (
	"crypto"
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
	"math/big"
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

// publish replaces the file by one with these keys.
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
	v, err := newVerifier(nil, keys, audience, authAdmin)
	if err != nil {
		i.t.Fatal(err)
	}
	return v
}

func secretVerifier(tb testing.TB, audience string) *verifier {
	tb.Helper()
	v, err := newVerifier([]byte(authSecret), nil, audience, authAdmin)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// sign makes a token with headers beside alg.
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

var ann = jwt.MapClaims{"sub": "ann"}

// rejected checks that a token is answered 401, and that the answer says no more
// than one of few sentences.
func rejected(t *testing.T, v *verifier, name, token, want string) {
	t.Helper()
	got, err := v.verify(token)
	if err == nil {
		t.Errorf("%s: the token is taken as that of %q", name, got.Subject)
		return
	}
	p := problemOf(err)
	if p.Status != 401 || !strings.Contains(p.Detail, want) {
		t.Errorf("%s: got %d %q, want 401 %q", name, p.Status, p.Detail, want)
	}
}

const notOurs = "not one that was issued for this service"

func TestForgedTokensAreRefusedUnderASecret(t *testing.T) {
	t.Parallel()
	v, rsaKey := secretVerifier(t, ""), newRSA(t, 2048)
	good := sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, ann)
	if got, err := v.verify(good); err != nil || got.Subject != "ann" {
		t.Fatalf("a good token: %v", err)
	}
	parts := strings.Split(good, ".")
	encode := base64.RawURLEncoding.EncodeToString
	past, future := time.Now().Add(-2*time.Second).Unix(), time.Now().Add(time.Hour).Unix()
	for _, test := range []struct{ name, token, want string }{
		{"alg none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, ann), notOurs},
		{"alg None, in other letters", encode([]byte(`{"alg":"nOnE"}`)) + "." + parts[1] + ".", notOurs},
		{"no signature", parts[0] + "." + parts[1] + ".", notOurs},
		{"another secret", sign(t, jwt.SigningMethodHS256, []byte("another"), nil, ann), notOurs},
		{"another hash of the family", sign(t, jwt.SigningMethodHS512, []byte(authSecret), nil, ann), notOurs},
		{"an RSA key of one's own", sign(t, jwt.SigningMethodRS256, rsaKey, nil, ann), notOurs},
		{"another's claims under a good signature", parts[0] + "." + encode([]byte(`{"sub":"eve"}`)) + "." + parts[2], notOurs},
		{"a critical extension", sign(t, jwt.SigningMethodHS256, []byte(authSecret), map[string]any{"crit": []string{"b64"}, "b64": false}, ann), notOurs},
		{"bad base64", parts[0] + ".%%%." + parts[2], notOurs},
		{"padded base64", parts[0] + "." + parts[1] + "." + parts[2] + "=", notOurs},
		{"trailing bits in the signature", good[:len(good)-1] + nextLetter(good[len(good)-1]), notOurs},
		{"two parts", parts[0] + "." + parts[1], notOurs},
		{"four parts", good + "." + parts[2], notOurs},
		{"not JSON", encode([]byte("x")) + "." + encode([]byte("y")) + "." + parts[2], notOurs},
		{"empty", "", notOurs},
		{"huge", strings.Repeat("A", 1<<20), notOurs},
		{"huge and many parts", strings.Repeat(".", 1<<20), notOurs},
		{"expired", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "exp": past}), "expired"},
		{"expired, by another secret", sign(t, jwt.SigningMethodHS256, []byte("x"), nil, jwt.MapClaims{"sub": "ann", "exp": past}), notOurs},
		{"not valid yet", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "nbf": future}), "not valid yet"},
		{"exp that is text", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "exp": "never"}), notOurs},
		{"sub that is a list", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": []string{"ann"}}), notOurs},
	} {
		rejected(t, v, test.name, test.token, test.want)
	}
}

// nextLetter is another letter that stands for the same bits where they are
// read without care: the last letter of 32 bytes has two bits to spare.
func nextLetter(letter byte) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(letters[strings.IndexByte(letters, letter)|1])
}

func TestForgedTokensAreRefusedUnderAKeySet(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v, stranger := i.verifier(""), newRSA(t, 2048)
	for _, good := range []string{
		sign(t, jwt.SigningMethodRS256, i.rsa, kid("r1"), ann),
		sign(t, jwt.SigningMethodES256, i.ec, kid("e1"), ann),
	} {
		if got, err := v.verify(good); err != nil || got.Subject != "ann" {
			t.Fatalf("a good token: %v", err)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(i.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	embedded := map[string]any{"kid": "r1", "jwk": i.key("r1", stranger.Public())}
	for _, test := range []struct{ name, token string }{
		{"alg none", sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid("r1"), ann)},
		{"HS256 with the public key as the secret", sign(t, jwt.SigningMethodHS256, inPEM, kid("r1"), ann)},
		{"HS256 with the public key's bytes", sign(t, jwt.SigningMethodHS256, der, kid("r1"), ann)},
		{"HS256 with an empty secret", sign(t, jwt.SigningMethodHS256, []byte{}, kid("r1"), ann)},
		{"another hash of the family", sign(t, jwt.SigningMethodRS512, i.rsa, kid("r1"), ann)},
		{"another padding", sign(t, jwt.SigningMethodPS256, i.rsa, kid("r1"), ann)},
		{"a stranger's key", sign(t, jwt.SigningMethodRS256, stranger, kid("r1"), ann)},
		{"a key of the token's own", sign(t, jwt.SigningMethodRS256, stranger, embedded, ann)},
		{"an unknown kid", sign(t, jwt.SigningMethodRS256, i.rsa, kid("r2"), ann)},
		{"no kid among several", sign(t, jwt.SigningMethodRS256, i.rsa, nil, ann)},
		{"an empty kid", sign(t, jwt.SigningMethodRS256, i.rsa, kid(""), ann)},
		{"a kid that is a path", sign(t, jwt.SigningMethodRS256, i.rsa, kid("../../dev/null"), ann)},
		{"a kid that is no text", sign(t, jwt.SigningMethodRS256, i.rsa, map[string]any{"kid": []string{"r1"}}, ann)},
		{"the kid of a key of another type", sign(t, jwt.SigningMethodRS256, i.rsa, kid("e1"), ann)},
		{"the kid of a key of another type, ES256", sign(t, jwt.SigningMethodES256, i.ec, kid("r1"), ann)},
		{"a critical extension", sign(t, jwt.SigningMethodRS256, i.rsa, map[string]any{"kid": "r1", "crit": []string{"x"}}, ann)},
	} {
		rejected(t, v, test.name, test.token, notOurs)
	}
	rejected(t, v, "expired", sign(t, jwt.SigningMethodES256, i.ec, kid("e1"), jwt.MapClaims{"sub": "ann", "exp": 1}), "expired")
}

func TestOneKeyAloneNeedsNoName(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	i.publish(i.key("r1", i.rsa.Public()))
	v := i.verifier("")
	if _, err := v.verify(sign(t, jwt.SigningMethodRS256, i.rsa, nil, ann)); err != nil {
		t.Errorf("a token that names no key: %v", err)
	}
	rejected(t, v, "a token of another key's name", sign(t, jwt.SigningMethodRS256, i.rsa, kid("r2"), ann), notOurs)
}

func TestAudienceMustHoldOurs(t *testing.T) {
	t.Parallel()
	v := secretVerifier(t, "shop")
	for _, aud := range []any{"shop", []string{"other", "shop"}} {
		if _, err := v.verify(sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "aud": aud})); err != nil {
			t.Errorf("aud %v: %v", aud, err)
		}
	}
	for _, aud := range []any{"Shop", "", []string{}, []string{"other"}} {
		rejected(t, v, "aud", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, jwt.MapClaims{"sub": "ann", "aud": aud}), "")
	}
	rejected(t, v, "no aud", sign(t, jwt.SigningMethodHS256, []byte(authSecret), nil, ann), "")
}

// What was signed by the old key is refused once that key has gone, and nobody
// was turned away in between.
func TestKeysAreRotatedWithoutARestart(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v, next := i.verifier(""), newRSA(t, 2048)
	before := sign(t, jwt.SigningMethodRS256, i.rsa, kid("r1"), ann)
	after := sign(t, jwt.SigningMethodRS256, next, kid("r2"), ann)
	is := func(token string, good bool) func() bool {
		return func() bool { _, err := v.verify(token); return (err == nil) == good }
	}
	rejected(t, v, "not published yet", after, notOurs)
	i.publish(i.key("r1", i.rsa.Public()), i.key("r2", next.Public()))
	awaitTrue(t, "the new key", is(after, true))
	if !is(before, true)() {
		t.Error("the old key went before its time")
	}
	i.write("{")
	time.Sleep(1500 * time.Millisecond) // the file is looked at once a second
	if !is(before, true)() || !is(after, true)() {
		t.Error("a bad file took good keys away")
	}
	i.publish(i.key("r2", next.Public()))
	awaitTrue(t, "the old key's end", is(before, false))
	if !is(after, true)() {
		t.Error("the new key went with the old")
	}
}

func awaitTrue(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestBadKeySetIsOneClearError(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	rsaKey, ecKey := i.key("r1", i.rsa.Public()), i.key("e1", i.ec.Public())
	set := func(keys ...jose.JSONWebKey) string {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	encryption := rsaKey
	encryption.Use = "enc"
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "not a JSON Web Key Set"},
		{"no set", `[]`, "not a JSON Web Key Set"},
		{"no keys", `{}`, "no RSA or P-256 key"},
		{"a secret", `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, "keys[0]: it is a secret"},
		{"a private key", set(ecKey, i.key("r1", i.rsa)), "keys[1]: it is a private key"},
		{"a short key", set(i.key("r1", weakRSA())), "1024 bits"},
		{"a kid twice", set(rsaKey, i.key("r1", i.ec.Public())), `keys[1]: the kid "r1" stands twice`},
		{"several without a kid", set(rsaKey, i.key("", i.ec.Public())), "no kid"},
		{"a point that is not on its curve", `{"keys":[{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}]}`, "keys[0]"},
		{"only keys of other kinds", set(encryption, i.key("e2", newEC(t, elliptic.P384()).Public())), "no RSA or P-256 key"},
		{"too much of it", strings.Repeat(" ", maxKeySet+1), "more than"},
	} {
		i.write(test.text)
		_, err := OpenKeys(i.file, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), i.file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want the file and %q", test.name, err, test.want)
		}
	}
	i.publish(rsaKey, encryption, i.key("e2", newEC(t, elliptic.P384()).Public()))
	// Left out before kids are compared: encryption has r1's.
	if _, err := OpenKeys(i.file, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("keys of other kinds beside a good one: %v", err)
	}
}

// weakRSA is a public key of a size that is not made any more.
func weakRSA() crypto.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
}

func TestVerifierNeedsOneWayToCheckTokens(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	keys, err := OpenKeys(i.file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func() (*verifier, error){
		"neither":        func() (*verifier, error) { return newVerifier(nil, nil, "", authAdmin) },
		"both":           func() (*verifier, error) { return newVerifier([]byte(authSecret), keys, "", authAdmin) },
		"no admin token": func() (*verifier, error) { return newVerifier([]byte(authSecret), nil, "", "") },
	} {
		if _, err := make(); err == nil {
			t.Errorf("%s: it was made", name)
		}
	}
}

// No text but a token of ours is taken, and none makes the check panic.
func FuzzNoForgedTokenIsTaken(f *testing.F) {
	v := secretVerifier(f, "")
	good, err := jwt.NewWithClaims(jwt.SigningMethodHS256, ann).SignedString([]byte(authSecret))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, good[:len(good)-1], "", "..", "a.b.c", `eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.`, strings.Repeat("A.", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if got, err := v.verify(token); err == nil && token != good {
			t.Errorf("%q is taken as that of %q", token, got.Subject)
		}
	})
}
