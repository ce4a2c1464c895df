package httpapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
)

// signed returns a token with this header and these claims, byte for byte, signed
// with authSecret.
func signed(header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(header)) + "." + encode([]byte(claims))
	mac := hmac.New(sha256.New, []byte(authSecret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

const plainHeader = `{"alg":"HS256","typ":"JWT"}`

func TestClaimNamesAreCaseSensitive(t *testing.T) {
	t.Parallel()
	v := secretVerifier(t, "shop")
	for _, claims := range []string{
		`{"sub":"eve","aud":"shop","Scope":"admin"}`, `{"sub":"eve","aud":"shop","scope":"read","SCOPE":"admin"}`,
		`{"sub":"eve","aud":"shop","` + "\u017f" + `cope":"admin"}`, // a long s, whose upper case is S
		`{"sub":"eve","aud":"shop","SUB":"joe"}`, `{"sub":"eve","aud":"shop","exp":4102444800,"EXP":1}`,
		`{"sub":"eve","aud":"shop","iss":null,"profile":{"scope":"admin","sub":"joe"}}`,
	} {
		token := signed(plainHeader, claims)
		got, err := v.verify(token)
		if name, _ := nameOf(v, token); err != nil || name != "eve" || got.scoped("admin") {
			t.Errorf("%s: got %q, %v, want eve without admin", claims, name, err)
		}
	}
	for claims, want := range map[string]string{
		`{"sub":"eve","AUD":"shop"}`:                          "aud is missing",
		`{"sub":"eve","aud":"other","AUD":"shop"}`:            "aud names another service",
		`{"sub":"eve","aud":"shop","exp":1,"EXP":9999999999}`: "expired",
		`{"sub":"eve","aud":7}`:                               "aud must be a string",
		`{"sub":"eve","aud":["shop",7]}`:                      "aud must be a string",
		`{"sub":"eve","aud":null}`:                            "aud is missing",
	} {
		rejected(t, v, claims, signed(plainHeader, claims), want)
	}
	if name, err := nameOf(v, signed(plainHeader, `{"sub":"ann","aud":["other","shop"],"exp":4102444800.5,"nbf":-1e3}`)); err != nil || name != "ann" {
		t.Errorf("got %q, %v", name, err)
	}
}

// Claims that the service does not check may have any type. A bad value of a checked
// claim is rejected with the claim's name.
func TestUncheckedClaimsMayHaveAnyType(t *testing.T) {
	t.Parallel()
	v := secretVerifier(t, "")
	for _, name := range []string{"iat", "jti", "iss", "scope", "aud", "azp", "roles"} {
		for _, value := range []string{`17`, `1e400`, `"x"`, `"2026-01-01"`, `true`, `null`, `[]`, `["openid"]`, `[1,null]`, `{}`, `{"a":[{}]}`} {
			claims := `{"sub":"ann","` + name + `":` + value + `}`
			if got, err := nameOf(v, signed(plainHeader, claims)); err != nil || got != "ann" {
				t.Errorf("%s: got %q, %v", claims, got, err)
			}
		}
	}
	for _, name := range []string{"exp", "nbf"} {
		for _, value := range []string{`"4102444800"`, `"never"`, `true`, `null`, `[]`, `{}`} {
			rejected(t, v, name, signed(plainHeader, `{"sub":"ann","`+name+`":`+value+`}`), name+" must be a number")
		}
		for _, value := range []string{`1e19`, `-1e19`, `9223372036854775808`, `1e400`, `253402300800`} {
			rejected(t, v, name, signed(plainHeader, `{"sub":"ann","`+name+`":`+value+`}`), name+" is after the year 9999")
		}
	}
	for claims, want := range map[string]string{
		`null`: "sub is missing", `{}`: "sub is missing", `{"sub":null}`: "sub is missing", `{"sub":7}`: "sub must be a string", `{"sub":["ann"]}`: "sub must be a string",
		`{"sub":""}`: "1 to 255 bytes", `{"sub":"` + strings.Repeat("x", 256) + `"}`: "1 to 255 bytes",
	} {
		rejected(t, v, claims, signed(plainHeader, claims), want)
	}
	for scope, want := range map[string]bool{
		`"admin"`: true, `"openid admin"`: true, `["admin"]`: true, `["openid","admin"]`: true,
		`"Admin"`: false, `"admin\topenid"`: false, `"xadmin"`: false, `["openid admin"]`: false, `[["admin"]]`: false, `["admin",7]`: false,
		`{"admin":true}`: false, `true`: false, `null`: false, `""`: false, `[]`: false,
	} {
		got, err := v.verify(signed(plainHeader, `{"sub":17,"scope":`+scope+`}`)) // admin does not read sub
		if err != nil || got.scoped("admin") != want {
			t.Errorf("scope %s: %v, %v, want admin: %v", scope, got, err, want)
		}
	}
}

// Parsers differ on duplicate names and on invalid UTF-8.
func TestAmbiguousTokensAreRejected(t *testing.T) {
	t.Parallel()
	v := secretVerifier(t, "")
	for _, claims := range []string{
		`{"sub":"ann","sub":"eve"}`, `{"sub":"ann","scope":"read","scope":"admin"}`, `{"sub":"ann","\u0073ub":"eve"}`,
		`{"sub":"ann","other":{"a":1,"a":2}}`, `["ann"]`, `"ann"`,
		"{\"sub\":\"x\xff\"}", "{\"sub\":\"x\xfe\"}", `{"sub":"x\ud800"}`, "{\"sub\":\"ann\",\"other\":\"\xff\"}", "{\"sub\":\"ann\",\"\xff\":1}",
	} {
		rejected(t, v, claims, signed(plainHeader, claims), "unique names and valid UTF-8")
	}
	for _, claims := range []string{`{"sub":"ann"}{"sub":"eve"}`, `{"sub":"ann"} x`} {
		rejected(t, v, claims, signed(plainHeader, claims), noJWT)
	}
	for header, want := range map[string]string{
		`{"alg":"none","alg":"HS256"}`: wrongHeader, `{"alg":"HS256","kid":"a","kid":"b"}`: wrongHeader, "{\"alg\":\"HS256\",\"kid\":\"\xff\"}": wrongHeader,
		`{"alg":"HS256","other":{"a":1,"a":2}}`: wrongHeader, `{"alg":"HS256","crit":["b64"]}`: wrongHeader, `{"Alg":"HS256"}`: wrongAlg, `null`: wrongAlg,
	} {
		rejected(t, v, header, signed(header, `{"sub":"ann"}`), want)
	}
	// No answer depends on the claims before the signature is checked.
	for _, claims := range []string{`{"sub":7,"exp":1}`, `{"sub":"ann","sub":"eve"}`, `{}`} {
		token := signed(plainHeader, claims)
		rejected(t, v, claims, token[:len(token)-8]+"AAAAAAAA", unsigned)
	}
}
