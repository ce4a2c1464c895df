package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"

	"flashsale/internal/httpapi"
)

// minSecret is the minimum length of a secret in bytes: RFC 7518 requires that an
// HS256 key is at least as long as its hash.
const minSecret = 32

// The secrets of --insecure-demo are public. Without that flag they are rejected.
const (
	demoAdminToken = "demo-admin-token-that-everybody-knows"
	demoJWTSecret  = "demo-jwt-secret-that-everybody-knows"
)

// accessFlags say who may call the service.
type accessFlags struct {
	AdminToken  string `exact:"" placeholder:"TOKEN" help:"Bearer token of administrators, at least 32 bytes; create one with openssl rand -hex 32. Set it by FLASHSALE_ADMIN_TOKEN or --config: every user of this machine can read arguments."`
	JWTSecret   string `name:"jwt-secret" exact:"" placeholder:"SECRET" help:"HS256 secret of customers' tokens, at least 32 bytes. Set it like --admin-token. Either this or --jwks is required."`
	JWKS        string `name:"jwks" placeholder:"FILE" help:"JSON Web Key Set with the public keys of customers' tokens, RS256 or ES256. Their tokens must have an exp. A changed file is used within a second."`
	JWTAudience string `name:"jwt-audience" exact:"" placeholder:"AUD" help:"Audience that tokens must have. Required with --jwks, whose issuer may sign tokens for other services, too."`
	JWTIssuer   string `name:"jwt-issuer" exact:"" placeholder:"ISS" help:"Issuer that tokens must have in iss. By default any."`
	JWTType     string `name:"jwt-type" exact:"" placeholder:"TYP" help:"Type that tokens must have in their header's typ: at+jwt for access tokens of RFC 9068, so that ID tokens are rejected. By default any."`
	// JWTAnyAudience is for an issuer that signs tokens only for this service.
	JWTAnyAudience bool `name:"jwt-any-audience" help:"Accept every token that a key of --jwks has signed, whatever its audience. Only for an issuer that signs tokens for no other service."`

	Payments string `enum:"customer,service" default:"customer" placeholder:"WHO" help:"Who confirms payments. customer, the default: the customers themselves, for demonstrations. service: the shop's payment service alone, whose JWT has the scope payment. Production needs service."`

	InsecureDemo bool `help:"Accept short and publicly known secrets, and use the demo's secrets for those that are missing. Idempotency keys like test-503 then provoke answers, for tests of a storefront (docs/api.md). Only where no one else can reach the service."`
}

// check rejects secrets that are missing, weak or publicly known.
func (f *accessFlags) check() error {
	if f.InsecureDemo {
		f.AdminToken = cmp.Or(f.AdminToken, demoAdminToken)
		if f.JWKS == "" {
			f.JWTSecret = cmp.Or(f.JWTSecret, demoJWTSecret)
		}
	}
	if f.JWKS != "" && f.JWTSecret != "" {
		return errors.New("--jwks and --jwt-secret are mutually exclusive")
	}
	if f.JWKS != "" && f.JWTAudience == "" && !f.JWTAnyAudience {
		return errors.New("--jwks requires --jwt-audience: the issuer may sign tokens for other services; " +
			"if it does not, set --jwt-any-audience")
	}
	if f.JWKS == "" {
		if err := f.checkSecret("--jwt-secret (or --jwks)", f.JWTSecret); err != nil {
			return err
		}
	}
	if strings.ContainsFunc(f.AdminToken, unicode.IsControl) {
		return errors.New("--admin-token contains a line break or another control character, which an HTTP header cannot carry: remove it")
	}
	return f.checkSecret("--admin-token", f.AdminToken)
}

func (f *accessFlags) checkSecret(flag, secret string) error {
	const advice = "; create one with: openssl rand -hex 32"
	switch {
	case secret == "":
		return errors.New(flag + " is missing or empty" + advice)
	case f.InsecureDemo:
		return nil
	case secret == demoAdminToken || secret == demoJWTSecret:
		return errors.New(flag + " is the demo's, which is public" + advice + " (or set --insecure-demo)")
	case len(secret) < minSecret:
		return fmt.Errorf("%s has %d bytes, must have at least %d%s (or set --insecure-demo)", flag, len(secret), minSecret, advice)
	}
	return nil
}

// keys opens the key set. It returns nil if tokens are checked with a secret.
func (f *accessFlags) keys(logger *slog.Logger) (*httpapi.Keys, error) {
	if f.InsecureDemo {
		logger.Warn("--insecure-demo: ANYONE CAN CREATE TOKENS FOR THIS SERVICE. Its secrets may be public: make sure that no one else can reach it")
	}
	if f.Payments == "customer" && !f.InsecureDemo {
		logger.Warn("--payments customer: every customer can confirm their own payments without paying. Set --payments service, and give your payment service a token with the scope payment")
	}
	if f.JWKS == "" {
		return nil, nil
	}
	keys, err := httpapi.OpenKeys(f.JWKS, logger)
	if err != nil {
		return nil, fmt.Errorf("--jwks: %w", err)
	}
	return keys, nil
}
