package httpapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"testing"
)

// signed is a token under authSecret whose header and claims are these bytes: no
// library would write them.
func signed(header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(header)) + "." + encode([]byte(claims))
	mac := hmac.New(sha256.New, []byte(authSecret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

const plainHeader = `{"alg":"HS256","typ":"JWT"}`

func TestClaimsAreReadToTheLetter(t *testing.T) {
	t.Parallel()
	v := secretVerifier(t, "shop")
	for _, claims := range []string{
		`{"sub":"eve","aud":"shop","Scope":"admin"}`, `{"sub":"eve","aud":"shop","scope":"read","SCOPE":"admin"}`,
		`{"sub":"eve","aud":"shop","` + "\u017f" + `cope":"admin"}`, // a long s, which folds to s
		`{"sub":"eve","aud":"shop","SUB":"joe"}`, `{"sub":"eve","aud":"shop","exp":4102444800,"EXP":1}`,
		`{"sub":"eve","aud":"shop","iss":null,"profile":{"scope":"admin","sub":"joe"}}`,
	} {
		got, err := v.verify(signed(plainHeader, claims))
		if err != nil || got.Subject != "eve" || slices.Contains([]string{"admin", "read admin"}, got.Scope) {
			t.Errorf("%s: got %+v, %v, want eve, who is no administrator", claims, got, err)
		}
	}
	for claims, want := range map[string]string{
		`{"sub":"eve","AUD":"shop"}`:                          "",
		`{"sub":"eve","aud":"other","AUD":"shop"}`:            "audience",
		`{"sub":"eve","aud":"shop","exp":1,"EXP":9999999999}`: "expired",
	} {
		rejected(t, v, claims, signed(plainHeader, claims), want)
	}
	got, err := v.verify(signed(plainHeader, `{"sub":"ann","aud":"shop","scope":"read admin","exp":4102444800.5,"nbf":-1e3}`))
	if err != nil || got.Scope != "read admin" || got.ExpiresAt.Unix() != 4102444800 || got.NotBefore.Unix() != -1000 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// What can be read in two ways is not read in one of them.
func TestClaimsThatCanBeReadInTwoWaysAreRefused(t *testing.T) {
	t.Parallel()
	v := secretVerifier(t, "")
	for _, claims := range []string{
		`{"sub":"ann","sub":"eve"}`, `{"sub":"ann","scope":"read","scope":"admin"}`, `{"sub":"ann","\u0073ub":"eve"}`,
		`{"sub":"ann","other":{"a":1,"a":2}}`, `{"sub":"ann"}{"sub":"eve"}`, `{"sub":"ann"} x`, `["ann"]`, `"ann"`,
		"{\"sub\":\"x\xff\"}", "{\"sub\":\"x\xfe\"}", `{"sub":"x\ud800"}`, "{\"sub\":\"ann\",\"other\":\"\xff\"}", "{\"sub\":\"ann\",\"\xff\":1}",
		`{"sub":"ann","nbf":1e19}`, `{"sub":"ann","nbf":9223372036854775808}`, `{"sub":"ann","exp":1e400}`, `{"sub":"ann","exp":-1e19}`,
		`{"sub":"ann","exp":253402300800}`, `{"sub":"ann","exp":"4102444800"}`, `{"sub":"ann","iat":1e19}`, `{"sub":"ann","exp":{}}`,
		`{"sub":"ann","scope":["admin"]}`, `{"sub":["ann"]}`, `{"sub":"ann","aud":7}`,
	} {
		rejected(t, v, claims, signed(plainHeader, claims), notOurs)
	}
	for _, header := range []string{
		`{"alg":"none","alg":"HS256"}`, `{"alg":"HS256","kid":"a","kid":"b"}`, "{\"alg\":\"HS256\",\"kid\":\"\xff\"}", `{"Alg":"HS256"}`,
		`{"alg":"HS256","other":{"a":1,"a":2}}`, `{"alg":"HS256","crit":["b64"]}`, `null`,
	} {
		rejected(t, v, header, signed(header, `{"sub":"ann"}`), notOurs)
	}
	for _, claims := range []string{`null`, `{}`, `{"sub":null}`} {
		if got, err := v.verify(signed(plainHeader, claims)); err == nil && (got.Subject != "" || got.Scope != "") {
			t.Errorf("%s: it is taken as %+v", claims, got)
		}
	}
}
