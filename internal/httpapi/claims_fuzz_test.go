package httpapi

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzClaims gives signed tokens any header and any claims, and compares the service's
// answers with those of a small model of the rules. configured chooses the rules.
func FuzzClaims(f *testing.F) {
	for _, seed := range []struct{ header, claims string }{
		{plainHeader, `{"sub":"ann","exp":4102444800}`}, {plainHeader, `{"sub":"ann","iss":"us","aud":["shop"],"exp":4102444800,"scope":"a admin"}`},
		{`{"alg":"HS256","typ":"at+jwt"}`, `{"sub":"ann","iss":"us","aud":"shop","exp":4e9,"nbf":1}`},
		{`{"alg":"HS256","typ":"Application/AT+JWT"}`, `{"sub":"ann","iss":"us","aud":["shop","x"],"exp":4102444800,"scope":["admin"]}`},
		{`{"alg":"HS256","typ":"at+jwt"}`, `{"sub":"ann","iss":"us","aud":["shop",null],"exp":4102444800,"scope":["admin",null]}`},
		{`{"alg":"HS256","typ":null}`, `{"sub":"ann","iss":["us"],"exp":null}`}, {`{"alg":"HS256","typ":"at+\u0130wt"}`, `{"sub":"\ud83d\ude00","exp":-1.5}`},
		{`{"alg":"HS256","typ":"x","typ":"at+jwt"}`, `{"sub":"\ud800"}`}, {`{"alg":"HS256","x":1e400}`, `{"sub":"ann","x":1e400}`}, {plainHeader, "{\"sub\":\"\xff\"}"},
		{plainHeader, `{"sub":"ann","exp":1e400}`}, {plainHeader, `null`}, {plainHeader, ` {"sub":"ann"} `}, {plainHeader, `{"sub":"ann"}{}`}, {"null", "[]"},
	} {
		for configured := range byte(16) {
			f.Add(seed.header, seed.claims, configured)
		}
	}
	v := secretVerifier(f, "")
	f.Fuzz(func(t *testing.T, header, claims string, configured byte) {
		v, now := *v, time.Now()
		v.rules.expires = configured&1 > 0
		if configured&2 > 0 {
			v.rules.issuer = "us"
		}
		if configured&4 > 0 {
			v.rules.audience = "shop"
		}
		if configured&8 > 0 {
			v.typ = "at+jwt"
		}
		want := model(header, claims, &v, now)
		got, err := v.verify(signed(header, claims))
		accepted := err == nil
		var name string
		if accepted {
			name, err = got.subject()
		}
		if err != nil && problemOf(err).Status != http.StatusUnauthorized {
			t.Fatalf("%s.%s: %v, want 401", header, claims, err)
		}
		if want != model(header, claims, &v, time.Now()) {
			return // it expired, or became valid, meanwhile
		}
		if accepted != want.accepted || accepted && (got.scoped("admin") != want.admin || name != want.subject) {
			t.Errorf("%s.%s with %+v and typ %q: accepted is %v, for %q (%v); want %+v", header, claims, v.rules, v.typ, accepted, name, err, want)
		}
	})
}

// outcome is what the model says of a token.
type outcome struct {
	accepted, admin bool
	subject         string // "" if the token names no customer
}

// model judges a token that the service has signed. It shares no code with the service,
// and uses another JSON library.
func model(header, claims string, v *verifier, now time.Time) (o outcome) {
	head, headOK := readStrictly(header)
	body, bodyOK := readStrictly(claims)
	var anything any
	if json.Unmarshal([]byte(header), &anything) != nil { // numbers too large for the JWT library
		headOK = false
	}
	h, _ := head.(map[string]any)
	c, isObject := body.(map[string]any)
	_, critical := h["crit"]
	if !headOK || !bodyOK || body != nil && !isObject || h["alg"] != "HS256" || critical {
		return o
	}
	typ, _ := h["typ"].(string)
	if v.typ != "" && !regexp.MustCompile(`^([Aa][Pp][Pp][Ll][Ii][Cc][Aa][Tt][Ii][Oo][Nn]/)?[Aa][Tt]\+[Jj][Ww][Tt]$`).MatchString(typ) {
		return o
	}
	exp, expires := c["exp"]
	nbf, begins := c["nbf"]
	if expires && !(float64(now.Unix()) < seconds(exp)) || begins && !(float64(now.Unix()) >= seconds(nbf)) || v.rules.expires && !expires {
		return o
	}
	if v.rules.issuer != "" && c["iss"] != v.rules.issuer || v.rules.audience != "" && !slices.Contains(stringsIn(c["aud"]), v.rules.audience) {
		return o
	}
	scopes := stringsIn(c["scope"])
	if text, ok := c["scope"].(string); ok {
		scopes = strings.Split(text, " ")
	}
	o = outcome{accepted: true, admin: slices.Contains(scopes, "admin")}
	if sub, ok := c["sub"].(string); ok && len(sub) <= 255 {
		o.subject = sub
	}
	return o
}

// seconds returns a date, or NaN, which no comparison accepts.
func seconds(value any) float64 {
	number, _ := value.(json.Number)
	f, err := strconv.ParseFloat(string(number), 64)
	if err != nil || math.Abs(f) > 253402300799 {
		return math.NaN()
	}
	return math.Trunc(f)
}

// stringsIn returns the strings of a string or of a list of strings only.
func stringsIn(value any) (all []string) {
	if text, ok := value.(string); ok {
		return []string{text}
	}
	values, _ := value.([]any)
	for _, v := range values {
		text, ok := v.(string)
		if !ok {
			return nil
		}
		all = append(all, text)
	}
	return all
}

// readStrictly reads one JSON value with unique names and valid UTF-8.
func readStrictly(text string) (value any, ok bool) {
	escapes := regexp.MustCompile(`\\(u[dD][89abAB]..\\u[dD][c-fC-F]|u[dD][89a-fA-F]|.)`).FindAllString(text, -1)
	lone := slices.ContainsFunc(escapes, func(e string) bool { return len(e) == len(`\ud8`) })
	if !json.Valid([]byte(text)) || !utf8.ValidString(text) || lone {
		return nil, false
	}
	in := json.NewDecoder(strings.NewReader(text))
	in.UseNumber()
	ok = true
	var read func() any
	read = func() any {
		token, err := in.Token()
		if err != nil {
			ok = false
			return nil
		}
		switch token {
		case json.Delim('{'):
			object := map[string]any{}
			for in.More() && ok {
				name, _ := read().(string)
				if _, twice := object[name]; twice {
					ok = false
				}
				object[name] = read()
			}
			_, _ = in.Token()
			return object
		case json.Delim('['):
			values := []any{}
			for in.More() && ok {
				values = append(values, read())
			}
			_, _ = in.Token()
			return values
		}
		return token
	}
	value = read()
	_, end := in.Token()
	return value, ok && end == io.EOF
}
