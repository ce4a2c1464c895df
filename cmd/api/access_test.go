package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"flashsale/internal/sandbox/sandboxtest"
)

func TestWeakAndKnownSecretsAreRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("s", minSecret)
	for _, test := range []struct {
		name string
		in   accessFlags
		want []string // nothing: it is taken
	}{
		{"nothing", accessFlags{}, []string{"--jwt-secret", "--jwks", "openssl rand -hex 32"}},
		{"no secret", accessFlags{AdminToken: long}, []string{"--jwt-secret", "missing"}},
		{"no admin token", accessFlags{JWTSecret: long}, []string{"--admin-token", "missing", "openssl rand -hex 32"}},
		{"a short secret", accessFlags{AdminToken: long, JWTSecret: long[1:]}, []string{"--jwt-secret", "31 bytes", "at least 32"}},
		{"a short admin token", accessFlags{AdminToken: "hunter2", JWTSecret: long}, []string{"--admin-token", "7 bytes"}},
		{"the demo's secret", accessFlags{AdminToken: long, JWTSecret: demoJWTSecret}, []string{"--jwt-secret", "public"}},
		{"the demo's admin token", accessFlags{AdminToken: demoAdminToken, JWTSecret: long}, []string{"--admin-token", "public"}},
		{"the demo's, one for the other", accessFlags{AdminToken: demoJWTSecret, JWTSecret: long}, []string{"--admin-token", "public"}},
		{"two ways to check tokens", accessFlags{AdminToken: long, JWTSecret: long, JWKS: "f"}, []string{"--jwks", "--jwt-secret", "mutually exclusive"}},
		{"good ones", accessFlags{AdminToken: long, JWTSecret: long}, nil},
		{"a key set for anybody", accessFlags{AdminToken: long, JWKS: "f"}, []string{"--jwks", "--jwt-audience", "--jwt-any-audience"}},
		{"the demo's, with a key set for anybody", accessFlags{JWKS: "f", InsecureDemo: true}, []string{"--jwt-audience"}},
		{"a key set", accessFlags{AdminToken: long, JWKS: "f", JWTAudience: "shop"}, nil},
		{"a key set for anybody, and said so", accessFlags{AdminToken: long, JWKS: "f", JWTAnyAudience: true}, nil},
		{"the demo's, and said so", accessFlags{AdminToken: demoAdminToken, JWTSecret: demoJWTSecret, InsecureDemo: true}, nil},
		{"short ones, and said so", accessFlags{AdminToken: "a", JWTSecret: "b", InsecureDemo: true}, nil},
	} {
		err := test.in.check()
		if (err == nil) != (test.want == nil) {
			t.Errorf("%s: got %v", test.name, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %q, which lacks %q", test.name, err, want)
			}
		}
	}
}

// --insecure-demo without secrets uses the demo's, and never empty ones.
func TestDemoHasSecrets(t *testing.T) {
	t.Parallel()
	in := accessFlags{InsecureDemo: true}
	if err := in.check(); err != nil || in.AdminToken != demoAdminToken || in.JWTSecret != demoJWTSecret {
		t.Errorf("got %+v, %v", in, err)
	}
	in = accessFlags{InsecureDemo: true, JWKS: "f", JWTAudience: "shop"}
	if err := in.check(); err != nil || in.JWTSecret != "" {
		t.Errorf("with a key set: got %+v, %v", in, err)
	}
}

// fromFile serves with a configuration file and returns the error.
func fromFile(t *testing.T, config map[string]any) error {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "flashsale.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return run(ctx, []string{"serve", "--config=" + file, "--etcd-endpoints=http://127.0.0.1:1"}, io.Discard, io.Discard)
}

// Every secret can be in a file: an error about a secret shows that it was read.
func TestSecretsMayComeFromAFile(t *testing.T) {
	config := map[string]any{"mysql-dsn": "root:hidden@tcp(127.0.0.1:1)/shop", "admin_token": adminToken, "jwt-secret": "too short"}
	if err := fromFile(t, config); err == nil || !strings.Contains(err.Error(), "--jwt-secret (or --jwks) has 9 bytes") {
		t.Errorf("got %v, want an error about the secret in the file", err)
	}
	t.Setenv("FLASHSALE_JWT_SECRET", "shorter")
	if err := fromFile(t, config); err == nil || !strings.Contains(err.Error(), "has 7 bytes") {
		t.Errorf("got %v: the environment must take precedence over the file", err)
	}
}

// With white space around it, a secret would differ from that of the clients, and each
// call would get 401. So the start fails and names the flag, wherever the secret is set.
func TestWhiteSpaceAroundASecretEndsTheStart(t *testing.T) {
	long := strings.Repeat("s", minSecret)
	for _, test := range []struct{ value, want string }{
		{long + "\n", "ends with a line break: remove it"}, {long + "\r\n", "ends with a line break: remove it"}, {long + "\n\n", "ends with a line break"},
		{"\n" + long, "begins with a line break: remove it"}, {" " + long, "begins with a space"}, {long + " ", "ends with a space"}, {long + "\t", "ends with a tab"},
		{"\ufeff" + long, "begins with a byte order mark"}, {long + "\u00a0", "ends with a non-breaking space"}, {"\u200b" + long, "begins with an invisible character, U+200B"},
		{"\u3000" + long, "U+3000"}, {long + "\x7f", "U+007F"}, {strings.Repeat(" ", minSecret), "is only white space"}, {"\r\n", "is only white space"},
	} {
		for _, flag := range []string{"admin-token", "jwt-secret", "jwt-audience", "jwt-issuer", "jwt-type", "forward-secret", "etcd-username", "etcd-password", "mysql-dsn"} {
			good := []string{"--mysql-dsn=root:hidden@tcp(127.0.0.1:1)/shop", "--admin-token=" + adminToken, "--jwt-secret=" + secret}
			good = slices.DeleteFunc(good, func(arg string) bool { return strings.HasPrefix(arg, "--"+flag+"=") })
			file := filepath.Join(t.TempDir(), "flags.json")
			text, err := json.Marshal(map[string]string{flag: test.value})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			variable := "FLASHSALE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
			for source, give := range map[string]func() []string{
				"the flag":     func() []string { return append(good, "--"+flag+"="+test.value) },
				"the file":     func() []string { return append(good, "--config="+file) },
				"the variable": func() []string { t.Setenv(variable, test.value); return good },
			} {
				_, err := tool(t, append([]string{"serve", "--strategy=conditional", "--addr=127.0.0.1:0"}, give()...)...)
				_ = os.Unsetenv(variable) // until the test's end, when it is as it was
				if err == nil || !strings.Contains(err.Error(), "--"+flag+" ") || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), long) {
					t.Errorf("%q from %s: got %v; want --%s %s", test.value, source, err, flag, test.want)
				}
			}
		}
	}
	// Commands check it, too. White space inside a secret is allowed.
	for want, args := range map[string][]string{
		"--etcd-password ends with a space":                        {"locks", "--mysql-dsn=u@tcp(127.0.0.1:1)/shop", "--etcd-password=pw "},
		"--etcd-prefix ends with a space":                          {"locks", "--mysql-dsn=u@tcp(127.0.0.1:1)/shop", "--etcd-prefix=shop/ "},
		"--etcd-endpoints: value 2 begins with a space: remove it": {"locks", "--mysql-dsn=u@tcp(127.0.0.1:1)/shop", "--etcd-endpoints=http://a:1, http://b:1"},
		"--max-replicas is 9223372036854775807, must be from 1 to": {"serve", "--mysql-dsn=u@tcp(127.0.0.1:1)/shop", "--max-replicas=9223372036854775807"},
		"--mysql-pool is 9223372036854775807, must be from 2 to":   {"audit", "--mysql-dsn=u@tcp(127.0.0.1:1)/shop", "--mysql-pool=9223372036854775807"},
		"--admin-token contains a line break":                      {"serve", "--mysql-dsn=u@tcp(127.0.0.1:1)/shop", "--jwt-secret=" + secret, "--admin-token=" + long + "\nx"},
		"--admin-token is the demo's":                              {"serve", "--mysql-dsn=u@tcp(127.0.0.1:1)/shop", "--jwt-secret=a b " + long, "--admin-token=" + demoAdminToken},
	} {
		if _, err := tool(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
}

func TestMisspeltNameInTheFileIsAnError(t *testing.T) {
	t.Parallel()
	if err := fromFile(t, map[string]any{"jwtsecret": "hidden", "admin-token": "a"}); err == nil ||
		!strings.Contains(err.Error(), "flashsale.json: unknown flag jwtsecret") || strings.Contains(err.Error(), "hidden") {
		t.Errorf("got %v", err)
	}
}

func TestReplicaTakesTokensOfAKeySet(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "k1", Key: key.Public(), Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := replicaConfig(newDSN(t), "a", "conditional")
	cfg.JWTSecret, cfg.Args = "", append(cfg.Args, "--jwks="+file, "--jwt-audience=shop", "--jwt-issuer=https://id.example", "--jwt-type=at+jwt")
	c := start(t, cfg)
	c.putSKU("lamp", 1)
	// signed returns a token that is valid but for one claim.
	signed := func(typ, claim string, value any) string {
		claims := map[string]any{"sub": "ann", "aud": "shop", "iss": "https://id.example", "exp": 4102444800}
		if claims[claim] = value; value == nil {
			delete(claims, claim)
		}
		return sandboxtest.SignedToken(t, jose.ES256, key, map[jose.HeaderKey]any{"kid": "k1", "typ": typ}, claims)
	}
	for bearer, want := range map[string]int{
		signed("at+jwt", "jti", "1"): http.StatusCreated, signed("application/AT+JWT", "jti", "2"): http.StatusCreated,
		signed("at+jwt", "aud", "other"): http.StatusUnauthorized, signed("at+jwt", "iss", "https://other.example"): http.StatusUnauthorized,
		signed("at+jwt", "iss", nil): http.StatusUnauthorized, signed("at+jwt", "exp", nil): http.StatusUnauthorized,
		signed("JWT", "jti", "3"): http.StatusUnauthorized, customerToken(t, "ann"): http.StatusUnauthorized,
	} {
		if status, text, err := c.call("POST", "/v1/orders", bearer, "key", `{"sku":"lamp","quantity":1}`); err != nil || status != want {
			t.Errorf("got %d %s, %v; want %d", status, text, err, want)
		}
	}
	// A broken file reaches all replicas at once: it is reported, but they stay ready.
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		status, text, err := c.call("GET", "/readyz", "", "", "")
		if err != nil || status != http.StatusOK || time.Now().After(deadline) {
			t.Fatalf("readiness with a broken key set: %d %s, %v", status, text, err)
		}
		if strings.Contains(text, `"jwks":"the --jwks file is missing or invalid`) {
			break
		}
	}
}
