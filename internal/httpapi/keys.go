package httpapi

import (
	"crypto/ecdsa"
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

// Keys are the public keys of a JWKS file, which check the tokens. A changed file is
// in use within a second. A file without keys is valid and rejects every token, so
// that the last key can be revoked. If the file is missing or invalid, the last
// valid keys stay in use. Keys are safe for concurrent use.
type Keys struct{ set *rotated.Value[keySet] }

// OpenKeys reads the key set in file. It returns an error if the file has no key at
// the start: a replica with a wrong file must not replace a working one.
//
// OpenKeys accepts RSA keys for RS256 and P-256 keys for ES256, and skips keys for
// encryption or other algorithms. It rejects private and secret keys: they sign
// tokens, and do not belong on a server that only checks them.
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

// publicKey is a key and its only algorithm.
type publicKey struct {
	algorithm string
	key       any
}

// keySet maps a kid to its key. Only a set of one key may have an empty kid.
type keySet map[string]publicKey

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
	set, count := keySet{}, 0
	for i, raw := range in.Keys {
		key, kid, err := parseKey(raw)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if key.key == nil {
			continue
		}
		if _, twice := set[kid]; twice && kid != "" {
			return nil, fmt.Errorf("keys[%d]: duplicate kid %q", i, kid)
		}
		set[kid] = key
		count++
	}
	if _, nameless := set[""]; nameless && count > 1 {
		return nil, errors.New("a set of several keys has a key without a kid")
	}
	return set, nil
}

// parseKey returns a key, or none if the key is for another purpose.
func parseKey(raw json.RawMessage) (publicKey, string, error) {
	none := publicKey{}
	// RFC 7517 requires that unknown types are skipped.
	var head struct{ Kty, Crv string }
	if err := json.Unmarshal(raw, &head); err != nil {
		return none, "", err
	}
	switch {
	case head.Kty == "oct":
		return none, "", errors.New("a secret key is not allowed here; use --jwt-secret")
	case head.Kty != "RSA" && (head.Kty != "EC" || head.Crv != elliptic.P256().Params().Name):
		return none, "", nil
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(raw, &key); err != nil {
		return none, "", err
	}
	if !key.IsPublic() {
		return none, "", errors.New("a private key is not allowed here; use its public key")
	}
	if !key.Valid() {
		return none, "", errors.New("invalid key")
	}
	algorithm := ""
	switch k := key.Key.(type) {
	case *ecdsa.PublicKey:
		algorithm = jwt.SigningMethodES256.Alg()
	case *rsa.PublicKey:
		algorithm = jwt.SigningMethodRS256.Alg()
		if bits := k.N.BitLen(); bits < minRSABits {
			return none, "", fmt.Errorf("RSA key of %d bits; at least %d are required", bits, minRSABits)
		}
	}
	if key.Use != "" && key.Use != "sig" || key.Algorithm != "" && key.Algorithm != algorithm {
		return none, "", nil
	}
	return publicKey{algorithm, key.Key}, key.KeyID, nil
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
	key, ok := set[kid]
	if !ok && len(set) == 1 {
		for name, only := range set {
			key, ok = only, !named || name == ""
		}
	}
	if !ok || key.algorithm != token.Method.Alg() {
		return nil, errNoKey
	}
	return key.key, nil
}
