package httpapi

import (
	"cmp"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"flashsale/internal/rotated"
)

const (
	// maxKeySet bounds the file: a hundred RSA keys are 50 KiB.
	maxKeySet = 1 << 20
	// minRSABits is the minimum of RFC 7518 for RS256.
	minRSABits = 2048
)

// Keys are the public keys of a JWKS file, reloaded within a second of a change. An
// empty set rejects every token: the last key can be revoked. If the file is missing
// or invalid, the last valid keys stay in use. Keys are safe for concurrent use.
type Keys struct{ set *rotated.Value[keySet] }

// OpenKeys reads the key set in file. It returns an error if the file has no key at
// the start: a replica with a wrong file must not replace a working one.
//
// OpenKeys accepts RSA keys for RS256 and P-256 keys for ES256, and skips keys for
// other uses. It rejects private and secret keys, which could sign tokens.
func OpenKeys(file string, logger *slog.Logger) (*Keys, error) {
	logger = logger.With("file", file)
	running := false
	set, err := rotated.Open(logger, func() (keySet, error) {
		set, err := readKeys(file)
		switch {
		case err != nil || len(set) > 0:
			return set, err
		case !running:
			return nil, fmt.Errorf("%s: the key set has no RSA or P-256 key for signatures", file)
		}
		logger.Error("the key set is empty: only the admin token is accepted")
		return set, nil
	}, file)
	if err != nil {
		return nil, err
	}
	running = true // before the set is shared
	return &Keys{set}, nil
}

// Report returns what is wrong with the file now, for /readyz; "" means nothing. The
// log has the details, as they contain file names.
func (k *Keys) Report() string {
	switch {
	case k.set.Err() != nil:
		return "the --jwks file is missing or invalid: the last valid keys stay in use"
	case len(k.set.Get()) == 0:
		return "the --jwks file has no key: only the admin token is accepted"
	}
	return ""
}

// keySet maps a kid to its key, with the key's only algorithm. Only a set of one key
// may have an empty kid.
type keySet map[string]*jose.JSONWebKey

func readKeys(file string) (keySet, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeySet+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeySet {
		return nil, fmt.Errorf("%s: larger than %d bytes", file, maxKeySet)
	}
	set, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return set, nil
}

func parseKeys(text []byte) (keySet, error) {
	var in struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, fmt.Errorf("not a JSON Web Key Set: %w", err)
	}
	if in.Keys == nil {
		return nil, errors.New("not a JSON Web Key Set: keys is missing")
	}
	set := keySet{}
	for i, raw := range in.Keys {
		key, err := parseKey(raw)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if key == nil {
			continue
		}
		if set[key.KeyID] != nil {
			return nil, fmt.Errorf("keys[%d]: duplicate kid %q", i, key.KeyID)
		}
		set[key.KeyID] = key
	}
	if set[""] != nil && len(set) > 1 {
		return nil, errors.New("a set of several keys has a key without a kid")
	}
	return set, nil
}

// parseKey returns a key, or nil if the key is for another purpose.
func parseKey(raw json.RawMessage) (*jose.JSONWebKey, error) {
	// RFC 7517 requires that unknown types are skipped.
	var head struct{ Kty, Crv string }
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	switch {
	case head.Kty == "oct":
		return nil, errors.New("a secret key is not allowed here; use --jwt-secret")
	case head.Kty != "RSA" && (head.Kty != "EC" || head.Crv != elliptic.P256().Params().Name):
		return nil, nil
	}
	key := new(jose.JSONWebKey)
	switch err := json.Unmarshal(raw, key); {
	case err != nil:
		return nil, err
	case !key.IsPublic():
		return nil, errors.New("a private key is not allowed here; use its public key")
	case !key.Valid():
		return nil, errors.New("invalid key")
	}
	algorithm := jwt.SigningMethodES256.Alg()
	if k, ok := key.Key.(*rsa.PublicKey); ok {
		algorithm = jwt.SigningMethodRS256.Alg()
		if bits := k.N.BitLen(); bits < minRSABits {
			return nil, fmt.Errorf("RSA key of %d bits; at least %d are required", bits, minRSABits)
		}
	}
	if key.Use != "" && key.Use != "sig" || key.Algorithm != "" && key.Algorithm != algorithm {
		return nil, nil
	}
	key.Algorithm = algorithm
	return key, nil
}

var errNoKey = errors.New("the key set has no key for the token")

// find returns the key that a token names. The token's algorithm must be the key's
// own. If there is only one key, the token need not name it.
func (k *Keys) find(token *jwt.Token) (any, error) {
	set := k.set.Get()
	kid, named := token.Header["kid"].(string)
	if _, given := token.Header["kid"]; given && !named {
		return nil, errNoKey
	}
	if !named && len(set) == 1 {
		for kid = range set {
		}
	}
	key := cmp.Or(set[kid], set[""])
	if key == nil || key.Algorithm != token.Method.Alg() {
		return nil, errNoKey
	}
	return key.Key, nil
}
