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

func TestOnlyKeyNeedsNoKid(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	i.publish(i.key("r1", i.rsa.Public()))
	v := i.verifier("")
	if _, err := v.verify(sign(t, jwt.SigningMethodRS256, i.rsa, nil, ann)); err != nil {
		t.Errorf("a token without a kid: %v", err)
	}
	rejected(t, v, "a token with another kid", sign(t, jwt.SigningMethodRS256, i.rsa, kid("r2"), ann), wrongKey)
}

// Both keys are accepted during a rotation, and the old one is rejected after it.
func TestKeysAreRotatedWithoutARestart(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v, next := i.verifier(""), newRSA(t, 2048)
	before := sign(t, jwt.SigningMethodRS256, i.rsa, kid("r1"), ann)
	after := sign(t, jwt.SigningMethodRS256, next, kid("r2"), ann)
	valid := func(token string, want bool) func() bool {
		return func() bool { _, err := v.verify(token); return (err == nil) == want }
	}
	rejected(t, v, "not published yet", after, wrongKey)
	i.publish(i.key("r1", i.rsa.Public()), i.key("r2", next.Public()))
	sandboxtest.Eventually(t, "the new key", valid(after, true))
	if !valid(before, true)() {
		t.Error("the old key was removed too early")
	}
	i.publish(i.key("r2", next.Public()))
	sandboxtest.Eventually(t, "the old key's removal", valid(before, false))
	if !valid(after, true)() {
		t.Error("the new key was removed with the old one")
	}
	// The last signature key can be removed.
	encryption := i.key("x", next.Public())
	encryption.Use = "enc"
	for _, empty := range []func(){func() { i.write(`{"keys":[]}`) }, func() { i.publish(encryption) }} {
		empty()
		sandboxtest.Eventually(t, "the last key's removal", valid(after, false))
		i.publish(i.key("r2", next.Public()))
		sandboxtest.Eventually(t, "the key again", valid(after, true))
	}
}

// An invalid file removes no keys, and /readyz reports it.
func TestInvalidKeySetKeepsTheLastKeys(t *testing.T) {
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
	expect := func(what, report string, accepted bool) {
		t.Helper()
		sandboxtest.Eventually(t, what, func() bool {
			got := keys.Report()
			return got == report || report != "" && strings.Contains(got, report)
		})
		if _, err := v.verify(token); (err == nil) != accepted {
			t.Errorf("%s: %v", what, err)
		}
	}
	expect("a valid file", "", true)
	for _, text := range []string{"{", "", "{}", `[]`, `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`} {
		i.write(text)
		expect(text, "missing or invalid", true)
		i.publish(i.key("r1", i.rsa.Public()))
		expect("a valid file again", "", true)
	}
	if err := os.Remove(i.file); err != nil {
		t.Fatal(err)
	}
	expect("no file", "missing or invalid", true)
	i.write(`{"keys":[]}`)
	expect("an empty set", "has no key", false)
	for _, line := range []string{"no such file", "the key set is empty"} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log does not say %q: %s", line, log.String())
		}
	}
	if strings.Contains(keys.Report(), i.file) {
		t.Error("/readyz shows the file name")
	}
}

func TestInvalidKeySetIsAnError(t *testing.T) {
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
		{"not an object", `[]`, "not a JSON Web Key Set"},
		{"no keys field", `{}`, "not a JSON Web Key Set"},
		{"keys null", `{"keys":null}`, "not a JSON Web Key Set"},
		{"an empty list of keys", `{"keys":[]}`, "no RSA or P-256 key"},
		{"a secret", `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, "keys[0]: a secret key"},
		{"a private key", set(ecKey, i.key("r1", i.rsa)), "keys[1]: a private key"},
		{"a short key", set(i.key("r1", weakRSA())), "1024 bits"},
		{"a duplicate kid", set(rsaKey, i.key("r1", i.ec.Public())), `keys[1]: duplicate kid "r1"`},
		{"several without a kid", set(rsaKey, i.key("", i.ec.Public())), "without a kid"},
		{"a point off the curve", `{"keys":[{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}]}`, "keys[0]"},
		{"only keys of other kinds", set(encryption, i.key("e2", newEC(t, elliptic.P384()).Public())), "no RSA or P-256 key"},
		{"too large", strings.Repeat(" ", maxKeySet+1), "larger than"},
	} {
		i.write(test.text)
		_, err := OpenKeys(i.file, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), i.file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want the file and %q", test.name, err, test.want)
		}
	}
	i.publish(rsaKey, encryption, i.key("e2", newEC(t, elliptic.P384()).Public()))
	// Skipped keys may have a duplicate kid: encryption has r1's.
	if _, err := OpenKeys(i.file, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("keys of other kinds beside a valid one: %v", err)
	}
}

// weakRSA returns a public key of 1024 bits, which package rsa does not generate.
func weakRSA() crypto.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
}
