package httpapi

import (
	"cmp"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	strict "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
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

// OpenKeys reads the key set in file. It returns an error if the file has no usable
// key at the start: a replica with a wrong file must not replace a working one.
//
// OpenKeys accepts RSA keys for RS256 and P-256 keys for ES256. It leaves out every
// other key, and logs why, once for each version of the file: one bad key must not
// take the others with it.
func OpenKeys(file string, logger *slog.Logger) (*Keys, error) {
	logger = logger.With("file", file)
	running := false
	set, err := rotated.Open(logger, func() (keySet, error) {
		set, err := readKeys(file)
		if err == nil && len(set.keys) == 0 && !running {
			err = fmt.Errorf("%s: the key set has no RSA or P-256 key for signatures (left out: %s)", file, cmp.Or(set.reasons(), "none"))
		}
		if err != nil {
			return set, err
		}
		if len(set.leftOut) > 0 {
			level := slog.LevelWarn
			if slices.ContainsFunc(set.leftOut, func(why error) bool { return errors.Is(why, errLeaked) }) {
				level = slog.LevelError
			}
			logger.Log(context.Background(), level, "keys of the key set are left out", "keys", set.reasons())
		}
		if len(set.keys) == 0 {
			logger.Error("the key set has no usable key: only the admin token is accepted")
		}
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
	switch set := k.set.Get(); {
	case k.set.Err() != nil:
		return "the --jwks file is missing or invalid: the last valid keys stay in use"
	case len(set.keys) == 0:
		return "the --jwks file has no key that can be used: only the admin token is accepted"
	case len(set.leftOut) > 0:
		return fmt.Sprintf("keys of the --jwks file that are left out: %d; the log says why", len(set.leftOut))
	}
	return ""
}

// keySet has the usable keys of a file.
type keySet struct {
	// keys maps a kid to its key, with the key's only algorithm. Only a set of one key
	// may have an empty kid.
	keys map[string]*jose.JSONWebKey
	// leftOut says why each of the other keys is not used, never with key material.
	leftOut []error
}

// maxReasons bounds a log line: 1 MiB of JSON can have many bad keys.
const maxReasons = 10

// reasons joins the reasons of the keys left out.
func (s *keySet) reasons() string {
	var texts []string
	for _, why := range s.leftOut[:min(len(s.leftOut), maxReasons)] {
		texts = append(texts, why.Error())
	}
	if more := len(s.leftOut) - maxReasons; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

func readKeys(file string) (keySet, error) {
	f, err := os.Open(file)
	if err != nil {
		return keySet{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeySet+1))
	if err != nil {
		return keySet{}, err
	}
	if len(text) > maxKeySet {
		return keySet{}, fmt.Errorf("%s: larger than %d bytes", file, maxKeySet)
	}
	set, err := parseKeys(text)
	if err != nil {
		return keySet{}, fmt.Errorf("%s: %w", file, err)
	}
	return set, nil
}

// These are the reasons to leave a key out that matter beyond that key.
var (
	// errOtherUse: the key is meant for something else. A set of such keys only is
	// empty, and not broken.
	errOtherUse = errors.New("not for RS256 or ES256")
	// errLeaked: whoever reads the file can sign tokens with the key.
	errLeaked = errors.New("the file must contain public keys only; replace this key")
)

// parseKeys returns an error if the text is no key set, or if no key is left because
// of broken ones: like a file that cannot be read, they must not revoke keys in use.
func parseKeys(text []byte) (set keySet, err error) {
	var in struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return set, fmt.Errorf("not a JSON Web Key Set: %w", err)
	}
	if in.Keys == nil {
		return set, errors.New("not a JSON Web Key Set: keys is missing")
	}
	broken := false
	leaveOut := func(i int, kid string, why error) {
		set.leftOut = append(set.leftOut, fmt.Errorf("keys[%d] (kid %.64q): %w", i, kid, why))
		broken = broken || !errors.Is(why, errOtherUse)
	}
	parsed := make([]*jose.JSONWebKey, len(in.Keys)) // nil for keys left out
	for i, raw := range in.Keys {
		kid, key, err := parseKey(raw)
		if err != nil {
			leaveOut(i, kid, err)
		}
		parsed[i] = key
	}
	set.keys = map[string]*jose.JSONWebKey{}
	for i, key := range parsed {
		if key == nil {
			continue
		}
		if why := ambiguous(key, parsed); why != nil {
			leaveOut(i, key.KeyID, why)
			continue
		}
		set.keys[key.KeyID] = key
	}
	if broken && len(set.keys) == 0 {
		return set, fmt.Errorf("no key can be used: %s", set.reasons())
	}
	return set, nil
}

// ambiguous returns why a token cannot name key among all. Two keys with one kid are
// both left out: if one stayed, the order in the file would choose it.
func ambiguous(key *jose.JSONWebKey, all []*jose.JSONWebKey) error {
	public := key.Key.(interface{ Equal(crypto.PublicKey) bool })
	for _, other := range all {
		if other == nil || other == key || key.KeyID == other.KeyID && public.Equal(other.Key) {
			continue
		}
		switch key.KeyID {
		case "":
			return errors.New("it has no kid, which a set of several keys requires")
		case other.KeyID:
			return errors.New("another key has the same kid: which one is meant is unknown")
		}
	}
	return nil
}

// parseKey returns a key of the file, or why it is left out. It returns the kid in
// both cases, if there is one.
func parseKey(raw json.RawMessage) (kid string, key *jose.JSONWebKey, err error) {
	var members map[string]jsontext.Value
	var head struct {
		Kty string   `json:"kty"`
		Crv string   `json:"crv"`
		Kid string   `json:"kid"`
		Use string   `json:"use"`
		Alg string   `json:"alg"`
		Ops []string `json:"key_ops"`
	}
	// The decoder is strict. Its errors could quote the key.
	if strict.Unmarshal(raw, &members) != nil || strict.Unmarshal(raw, &head) != nil {
		return "", nil, errors.New("broken: not a JSON object with unique names and members of the right types")
	}
	private := slices.ContainsFunc([]string{"d", "p", "q", "dp", "dq", "qi", "oth", "priv"}, func(name string) bool { return members[name] != nil })
	algorithm := map[string]string{"RSA": jwt.SigningMethodRS256.Alg(), "EC": jwt.SigningMethodES256.Alg()}[head.Kty]
	key = new(jose.JSONWebKey)
	switch {
	case head.Kty == "oct" || members["k"] != nil:
		err = fmt.Errorf("a secret key: %w, and see --jwt-secret", errLeaked)
	case private:
		err = fmt.Errorf("a private key: %w", errLeaked)
	case head.Use != "" && head.Use != "sig":
		err = fmt.Errorf("%w: its use is %.20q", errOtherUse, head.Use)
	case head.Ops != nil && !slices.Contains(head.Ops, "verify"):
		err = fmt.Errorf("%w: its key_ops lack verify", errOtherUse)
	case algorithm == "": // RFC 7517 requires that unknown types are skipped
		err = fmt.Errorf("%w: its kty is %.20q", errOtherUse, head.Kty)
	case head.Kty == "EC" && head.Crv != elliptic.P256().Params().Name:
		err = fmt.Errorf("%w: its crv is %.20q", errOtherUse, head.Crv)
	case head.Alg != "" && head.Alg != algorithm:
		err = fmt.Errorf("%w: its alg is %.20q", errOtherUse, head.Alg)
	case json.Unmarshal(raw, key) != nil || !key.IsPublic():
		err = errors.New("broken: its parameters are not those of a public key")
	default:
		err = checkRSA(key.Key)
	}
	if err != nil {
		return head.Kid, nil, err
	}
	key.Algorithm = algorithm
	return head.Kid, key, nil
}

// checkRSA returns why signatures of an RSA key cannot be trusted or checked. The
// library has checked the points of P-256 keys.
func checkRSA(key any) error {
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil
	}
	if bits := public.N.BitLen(); bits < minRSABits {
		return fmt.Errorf("an RSA key of %d bits; at least %d are required", bits, minRSABits)
	}
	// Package rsa examines a key only when it uses it.
	var digest [sha256.Size]byte
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], make([]byte, public.Size())); !errors.Is(err, rsa.ErrVerification) {
		return fmt.Errorf("broken: %w", err)
	}
	return nil
}

var errNoKey = errors.New("the key set has no key for the token")

// find returns the key that a token names. The token's algorithm must be the key's
// own. If there is only one key, the token need not name it.
func (k *Keys) find(token *jwt.Token) (any, error) {
	set := k.set.Get().keys
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
