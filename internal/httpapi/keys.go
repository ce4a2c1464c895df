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
	// maxKeySet is far above any key set: a hundred RSA keys are 50 KiB.
	maxKeySet = 1 << 20
	// leastRSA is what RFC 7518 asks of RS256, in bits.
	leastRSA = 2048
)

// Keys are the public keys of a JWKS file that customers' tokens are checked by,
// as the file has them now: a changed file is in use within a second. A set
// without keys is one, by which every token is refused: the last key can be
// revoked. A bad file, or none, is logged and leaves the keys that were good. Safe
// for concurrent use.
type Keys struct{ set *rotated.Value[keySet] }

// OpenKeys reads the key set in file. At the start it must have a key: a replica
// that was given a wrong file must not take a good one's place.
//
// Only RS256 and ES256 are known, and a key's own type says which of them it is
// for. Keys for encryption and for other algorithms are left out. A private or a
// secret key is refused: the file is for those who check tokens, and such a key
// makes them.
func OpenKeys(file string, logger *slog.Logger) (*Keys, error) {
	logger = logger.With("file", file)
	running := false
	set, err := rotated.Open(logger, func() (keySet, error) {
		set, err := readKeys(file)
		switch {
		case err != nil || len(set) > 0:
			return set, err
		case !running:
			return nil, fmt.Errorf("%s: it has no RSA or P-256 key for signatures", file)
		}
		logger.Error("THE KEY SET HAS NO KEY: every token but the admin token is refused until it has one")
		return set, nil
	}, file)
	if err != nil {
		return nil, err
	}
	running = true // nobody else has it yet
	return &Keys{set}, nil
}

// Report says, for readiness, what is wrong with the file as it is now; "" when
// all is well. What exactly is in the log: it names files.
func (k *Keys) Report() string {
	switch {
	case k.set.Err() != nil:
		return "the file of --jwks is missing or broken: the keys that it had before stay in use"
	case len(k.set.Get()) == 0:
		return "the file of --jwks has no key: every token but the admin token is refused"
	}
	return ""
}

// publicKey is a key, and the one algorithm that it is for.
type publicKey struct {
	algorithm string
	key       any
}

// keySet has the keys by their kid. The empty kid is only in a set of one.
type keySet map[string]publicKey

func readKeys(file string) (keySet, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err // it names the file
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeySet+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeySet {
		return nil, fmt.Errorf("%s: more than %d bytes", file, maxKeySet)
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
		return nil, errors.New("not a JSON Web Key Set: it has no keys, not even an empty list of them")
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
			return nil, fmt.Errorf("keys[%d]: the kid %q stands twice", i, kid)
		}
		set[kid] = key
		count++
	}
	if _, nameless := set[""]; nameless && count > 1 {
		return nil, errors.New("it has several keys, and one of them has no kid")
	}
	return set, nil
}

// parseKey is the key, or none where it is not for signatures of ours.
func parseKey(raw json.RawMessage) (publicKey, string, error) {
	none := publicKey{}
	// Types that are not known are left out, as RFC 7517 has it.
	var head struct{ Kty, Crv string }
	if err := json.Unmarshal(raw, &head); err != nil {
		return none, "", err
	}
	switch {
	case head.Kty == "oct":
		return none, "", errors.New("it is a secret, which only --jwt-secret may be")
	case head.Kty != "RSA" && (head.Kty != "EC" || head.Crv != elliptic.P256().Params().Name):
		return none, "", nil
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(raw, &key); err != nil {
		return none, "", err
	}
	if !key.IsPublic() {
		return none, "", errors.New("it is a private key, and only public ones belong here")
	}
	if !key.Valid() {
		return none, "", errors.New("it is not a valid key")
	}
	algorithm := ""
	switch k := key.Key.(type) {
	case *ecdsa.PublicKey:
		algorithm = jwt.SigningMethodES256.Alg()
	case *rsa.PublicKey:
		algorithm = jwt.SigningMethodRS256.Alg()
		if bits := k.N.BitLen(); bits < leastRSA {
			return none, "", fmt.Errorf("it is an RSA key of %d bits, at least %d are needed", bits, leastRSA)
		}
	}
	if key.Use != "" && key.Use != "sig" || key.Algorithm != "" && key.Algorithm != algorithm {
		return none, "", nil
	}
	return publicKey{algorithm, key.Key}, key.KeyID, nil
}

var errNoKey = errors.New("no key of this token's is known")

// find is the key for a token. A token names a key, but not how it is used: its
// algorithm has to be the key's own. Where there is one key alone a token need
// not name it.
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
