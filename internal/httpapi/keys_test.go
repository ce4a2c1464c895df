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
	v, err := newVerifier(&Config{Keys: keys, AdminToken: authAdmin})
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
	expect("an empty set", "has no key that can be used", false)
	for _, line := range []string{"no such file", "the key set has no usable key"} {
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
	rsaKey := i.key("r1", i.rsa.Public())
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
		{"a secret", `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, `keys[0] (kid ""): a secret key`},
		{"a private key and a short one", set(i.key("r1", i.rsa), i.key("r2", weakRSA())), `keys[0] (kid "r1"): a private key`},
		{"a short key", set(i.key("r1", weakRSA())), "1024 bits"},
		{"a duplicate kid", set(rsaKey, i.key("r1", i.ec.Public())), `keys[1] (kid "r1"): another key has the same kid`},
		{"several without a kid", set(i.key("", i.rsa.Public()), i.key("", i.ec.Public())), `keys[1] (kid ""): it has no kid`},
		{"only keys of other kinds", set(encryption, i.key("e2", newEC(t, elliptic.P384()).Public())), `no RSA or P-256 key for signatures (left out: keys[0] (kid "r1"): not for RS256 or ES256: its use is "enc"`},
		{"too large", strings.Repeat(" ", maxKeySet+1), "larger than"},
	} {
		i.write(test.text)
		_, err := OpenKeys(i.file, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), i.file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want the file and %q", test.name, err, test.want)
		}
	}
}

// One bad key does not take the others with it: it is left out, and reported once.
func TestBadKeysAreLeftOut(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	text := func(key any) string {
		text, err := json.Marshal(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	good := text(i.key("r1", i.rsa.Public()))
	encryption := i.key("r1", i.rsa.Public())
	encryption.Use = "enc"
	private, secretKey := text(i.key("x", i.ec)), `{"kty":"oct","kid":"x","k":"c2VjcmV0"}`
	const onCurve = `"x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"`
	accepted := sign(t, jwt.SigningMethodRS256, i.rsa, kid("r1"), ann)
	for _, test := range []struct{ name, key, want string }{
		{"for encryption", text(encryption), `its use is \"enc\"`},
		{"not to verify", `{"kty":"EC","crv":"P-256","kid":"x","key_ops":["sign"],` + onCurve + `}`, "key_ops lack verify"},
		{"for another algorithm", `{"kty":"EC","crv":"P-256","kid":"x","alg":"ECDH-ES",` + onCurve + `}`, `its alg is \"ECDH-ES\"`},
		{"of another type", `{"kty":"OKP","kid":"x","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`, `its kty is \"OKP\"`},
		{"on another curve", text(i.key("x", newEC(t, elliptic.P384()).Public())), `its crv is \"P-384\"`},
		{"short", text(i.key("x", weakRSA())), "an RSA key of 1024 bits"},
		{"an even modulus", text(i.key("x", &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(2), 2047, 1), E: 65537})), "broken"},
		{"an exponent of 1", strings.Replace(text(i.key("x", i.rsa.Public())), `"AQAB"`, `"AQ"`, 1), "broken"},
		{"an even exponent", strings.Replace(text(i.key("x", i.rsa.Public())), `"AQAB"`, `"BA"`, 1), "broken"},
		{"a point off the curve", `{"kty":"EC","crv":"P-256","kid":"x","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}`, "broken"},
		{"bad base64", strings.Replace(text(i.key("x", i.rsa.Public())), `"n":"`, `"n":"%%`, 1), "broken"},
		{"nothing in it", `{}`, `its kty is \"\"`}, {"no object", `7`, "not a JSON object"}, {"a kid that is a number", `{"kty":"RSA","kid":7}`, "members of the right types"},
		{"a name twice", `{"kty":"RSA","kid":"x","kid":"y"}`, "unique names"}, {"null", `null`, "its kty"},
		{"private", private, "a private key"}, {"a factor of a private key", strings.Replace(text(i.key("x", i.rsa.Public())), `"n":`, `"p":"AQAB","n":`, 1), "a private key"},
		{"secret", secretKey, "a secret key"},
		{"without a kid", text(i.key("", i.ec.Public())), "no kid"},
		{"twice under one kid", text(i.key("x", i.ec.Public())) + "," + text(i.key("x", newEC(t, elliptic.P256()).Public())), `keys[2] (kid \"x\"): another key has the same kid`},
	} {
		var log bytes.Buffer
		i.write(`{"keys":[` + good + "," + test.key + `]}`)
		keys, err := OpenKeys(i.file, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		v, err := newVerifier(&Config{Keys: keys, AdminToken: authAdmin})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.verify(accepted); err != nil {
			t.Errorf("%s: the good key is not used: %v", test.name, err)
		}
		if n := len(keys.set.Get().keys); n != 1 {
			t.Errorf("%s: %d keys are used, want 1", test.name, n)
		}
		level := "level=WARN"
		if test.key == private || test.key == secretKey || test.want == "a private key" {
			level = "level=ERROR"
		}
		if line := log.String(); !strings.Contains(line, test.want) || !strings.Contains(line, "keys[1] (kid ") || !strings.Contains(line, level) || strings.Count(line, "\n") != 1 ||
			strings.Contains(line, "c2VjcmV0") || strings.Contains(line, "axfR8") {
			t.Errorf("%s: the log has %q, want one line at %s with %q and no key", test.name, line, level, test.want)
		}
		if got := keys.Report(); !strings.Contains(got, "left out") || strings.Contains(got, i.file) {
			t.Errorf("%s: the report is %q", test.name, got)
		}
	}
	// A key that stands twice is not ambiguous.
	i.write(`{"keys":[` + good + "," + good + `]}`)
	if _, err := i.verifier("").verify(accepted); err != nil {
		t.Errorf("one key twice: %v", err)
	}
}

// While a replica runs, keys that are left out take effect like removed ones, unless
// none is left because of broken keys.
func TestKeysLeftOutWhileRunning(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	var log bytes.Buffer
	keys, err := OpenKeys(i.file, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := newVerifier(&Config{Keys: keys, AdminToken: authAdmin})
	if err != nil {
		t.Fatal(err)
	}
	ofRSA, ofEC := sign(t, jwt.SigningMethodRS256, i.rsa, kid("r1"), ann), sign(t, jwt.SigningMethodES256, i.ec, kid("e1"), ann)
	i.publish(i.key("r1", weakRSA()), i.key("e1", i.ec.Public()))
	sandboxtest.Eventually(t, "one key left out", func() bool { return keys.Report() == "keys of the --jwks file that are left out: 1; the log says why" })
	rejected(t, v, "a token of the key left out", ofRSA, wrongKey)
	if _, err := v.verify(ofEC); err != nil {
		t.Errorf("the other key: %v", err)
	}
	i.publish(i.key("r1", weakRSA()))
	sandboxtest.Eventually(t, "a file without a usable key", func() bool { return strings.Contains(keys.Report(), "missing or invalid") })
	if _, err := v.verify(ofEC); err != nil {
		t.Errorf("a file with only a broken key removed the last one: %v", err)
	}
	if n := strings.Count(log.String(), "1024 bits"); n != 2 {
		t.Errorf("two versions of the file were reported %d times: %s", n, log.String())
	}
}

// weakRSA returns a public key of 1024 bits, which package rsa does not generate.
func weakRSA() crypto.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
}
