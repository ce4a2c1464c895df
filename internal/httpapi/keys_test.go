package httpapi

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"log/slog"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"flashsale/internal/sandbox/sandboxtest"
)

func TestOneKeyAloneNeedsNoName(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	i.publish(i.key("r1", i.rsa.Public()))
	v := i.verifier("")
	if _, err := v.verify(sign(t, jwt.SigningMethodRS256, i.rsa, nil, ann)); err != nil {
		t.Errorf("a token that names no key: %v", err)
	}
	rejected(t, v, "a token of another key's name", sign(t, jwt.SigningMethodRS256, i.rsa, kid("r2"), ann), wrongKey)
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
	rejected(t, v, "not published yet", after, wrongKey)
	i.publish(i.key("r1", i.rsa.Public()), i.key("r2", next.Public()))
	sandboxtest.Eventually(t, "the new key", is(after, true))
	if !is(before, true)() {
		t.Error("the old key went before its time")
	}
	i.publish(i.key("r2", next.Public()))
	sandboxtest.Eventually(t, "the old key's end", is(before, false))
	if !is(after, true)() {
		t.Error("the new key went with the old")
	}
	// The last key, also where keys that are not for signatures stay.
	encryption := i.key("x", next.Public())
	encryption.Use = "enc"
	for _, empty := range []func(){func() { i.write(`{"keys":[]}`) }, func() { i.publish(encryption) }} {
		empty()
		sandboxtest.Eventually(t, "the last key's end", is(after, false))
		i.publish(i.key("r2", next.Public()))
		sandboxtest.Eventually(t, "the key again", is(after, true))
	}
}

// Only what is a key set takes keys away, and readiness tells of anything else.
func TestBrokenKeySetLeavesTheKeysAndIsReported(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	var log bytes.Buffer
	keys, err := OpenKeys(i.file, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := newVerifier(nil, keys, "", authAdmin)
	if err != nil {
		t.Fatal(err)
	}
	token := sign(t, jwt.SigningMethodRS256, i.rsa, kid("r1"), ann)
	expect := func(what, report string, taken bool) {
		t.Helper()
		sandboxtest.Eventually(t, what, func() bool {
			got := keys.Report()
			return got == report || report != "" && strings.Contains(got, report)
		})
		if _, err := v.verify(token); (err == nil) != taken {
			t.Errorf("%s: %v", what, err)
		}
	}
	expect("a good file", "", true)
	for _, text := range []string{"{", "", "{}", `[]`, `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`} {
		i.write(text)
		expect(text, "missing or broken", true)
		i.publish(i.key("r1", i.rsa.Public()))
		expect("a good file again", "", true)
	}
	if err := os.Remove(i.file); err != nil {
		t.Fatal(err)
	}
	expect("no file", "missing or broken", true)
	i.write(`{"keys":[]}`)
	expect("an empty set", "has no key", false)
	for _, line := range []string{"no such file", "NO KEY"} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log does not say %q: %s", line, log.String())
		}
	}
	if strings.Contains(keys.Report(), i.file) {
		t.Error("readiness names the file")
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
		{"no keys", `{}`, "not a JSON Web Key Set"},
		{"no list of keys", `{"keys":null}`, "not a JSON Web Key Set"},
		{"an empty list of keys", `{"keys":[]}`, "no RSA or P-256 key"},
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
