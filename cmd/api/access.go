package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"

	"flashsale/internal/httpapi"
)

// leastSecret is the shortest secret and admin token, in bytes: RFC 7518 wants a
// key of HS256 to be no shorter than its hash.
const leastSecret = 32

// The demonstration's secrets stand here for everybody to read: --insecure-demo
// fills in what was not given, and a service that has one of them serves with it
// alone.
const (
	demoAdminToken = "demo-admin-token-that-everybody-knows"
	demoJWTSecret  = "demo-jwt-secret-that-everybody-knows"
)

// accessFlags say who may call the service. Secrets are better given in the
// environment or in --config's file: anybody on a machine can read arguments.
type accessFlags struct {
	AdminToken  string `exact:"" placeholder:"TOKEN" help:"Bearer token of administrators, 32 bytes at least, in FLASHSALE_ADMIN_TOKEN or --config rather than here: make one by openssl rand -hex 32."`
	JWTSecret   string `name:"jwt-secret" exact:"" placeholder:"SECRET" help:"HS256 secret of customers' tokens, 32 bytes at least, likewise. This or --jwks."`
	JWKS        string `name:"jwks" placeholder:"FILE" help:"JSON Web Key Set with the public keys of customers' tokens, RS256 or ES256; a changed file is in use within a second. This or --jwt-secret."`
	JWTAudience string `name:"jwt-audience" exact:"" placeholder:"AUD" help:"Audience that tokens must be for. --jwks needs it: the keys' issuer makes tokens for other services, too."`
	// JWTAnyAudience says that the issuer makes tokens for this service alone.
	JWTAnyAudience bool `name:"jwt-any-audience" help:"Take every token that a key of --jwks has signed, whatever its audience. Only where the issuer makes tokens for nobody else."`

	InsecureDemo bool `help:"Serve with secrets that are short or publicly known, and with the demonstration's where none are given. Never where others can reach it."`
}

// check finds secrets that are missing, weak, or publicly known.
func (f *accessFlags) check() error {
	if f.InsecureDemo {
		f.fillDemo()
	}
	if f.JWKS != "" && f.JWTSecret != "" {
		return errors.New("--jwks and --jwt-secret exclude each other: a token must not choose how it is checked")
	}
	if f.JWKS != "" && f.JWTAudience == "" && !f.JWTAnyAudience {
		return errors.New("--jwks without --jwt-audience would take tokens that its issuer made for other services: " +
			"set --jwt-audience, or say --jwt-any-audience if it makes none")
	}
	if f.JWKS == "" {
		if err := f.checkSecret("--jwt-secret (or --jwks)", f.JWTSecret); err != nil {
			return err
		}
	}
	if strings.ContainsFunc(f.AdminToken, unicode.IsControl) {
		return errors.New("--admin-token has a line break or another control character in it, which no header can carry: remove it")
	}
	return f.checkSecret("--admin-token", f.AdminToken)
}

func (f *accessFlags) fillDemo() {
	if f.AdminToken == "" {
		f.AdminToken = demoAdminToken
	}
	if f.JWTSecret == "" && f.JWKS == "" {
		f.JWTSecret = demoJWTSecret
	}
}

func (f *accessFlags) checkSecret(flag, secret string) error {
	const cure = "; make one by: openssl rand -hex 32"
	switch {
	case secret == "":
		return errors.New(flag + " is missing or empty" + cure)
	case f.InsecureDemo:
		return nil
	case secret == demoAdminToken || secret == demoJWTSecret:
		return errors.New(flag + " is the demonstration's, which everybody knows" + cure + " (or say --insecure-demo)")
	case len(secret) < leastSecret:
		return fmt.Errorf("%s has %d bytes, at least %d are needed%s (or say --insecure-demo)", flag, len(secret), leastSecret, cure)
	}
	return nil
}

// keys opens the key set; nil where tokens are checked by a secret.
func (f *accessFlags) keys(logger *slog.Logger) (*httpapi.Keys, error) {
	if f.InsecureDemo {
		logger.Warn("--insecure-demo: ANYBODY CAN MAKE TOKENS FOR THIS SERVICE. Its secrets may be publicly known: nobody else must be able to reach it")
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
