package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// HashParams are the costs of a new argon2id hash. Tests use cheap ones;
// everything else uses DefaultHashParams.
type HashParams struct {
	MemoryKiB uint32 // at least 8 per lane
	Passes    uint32 // argon2's t
	Lanes     uint8  // argon2's p
}

const (
	saltBytes = 16
	keyBytes  = 32
)

// DefaultHashParams returns 19 MiB, two passes, one lane: the least that OWASP
// recommends, and about what a proxy can afford at every client's reconnect.
func DefaultHashParams() HashParams {
	return HashParams{MemoryKiB: 19456, Passes: 2, Lanes: 1}
}

// Hash returns a new argon2id hash of password in PHC form with the default
// costs and a random salt. The error is ErrPassword.
func Hash(password string) (string, error) {
	return DefaultHashParams().Hash(password)
}

// Hash is the package's Hash with other costs. Errors are ErrPassword, and
// ErrMalformed or ErrTooCostly for costs that Verify would refuse.
func (p HashParams) Hash(password string) (string, error) {
	if !acceptable(password) {
		return "", ErrPassword
	}
	a := argon2Hash{id: true, HashParams: p, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	if err := a.check(); err != nil {
		return "", err
	}
	rand.Read(a.salt)
	key := a.derive([]byte(password))
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.MemoryKiB, p.Passes, p.Lanes,
		base64.RawStdEncoding.EncodeToString(a.salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

type argon2Hash struct {
	HashParams
	id        bool // argon2id, otherwise argon2i
	salt, key []byte
}

func (a argon2Hash) derive(password []byte) []byte {
	if a.id {
		return argon2.IDKey(password, a.salt, a.Passes, a.MemoryKiB, a.Lanes, uint32(len(a.key)))
	}
	return argon2.Key(password, a.salt, a.Passes, a.MemoryKiB, a.Lanes, uint32(len(a.key)))
}

func (a argon2Hash) matches(password []byte) (bool, error) {
	return subtle.ConstantTimeCompare(a.derive(password), a.key) == 1, nil
}

func (a argon2Hash) memory() int64 { return int64(a.MemoryKiB) << 10 }

// check enforces RFC 9106, Section 3.1, and the caps. Keys under 16 bytes are
// legal there but too easily met by chance to guard an account.
func (a argon2Hash) check() error {
	switch {
	case a.Passes < 1, a.Lanes < 1, a.MemoryKiB < 8*uint32(a.Lanes),
		len(a.salt) < 8, len(a.salt) > 64, len(a.key) < 16, len(a.key) > 64:
		return fmt.Errorf("%w: argon2 parameters", ErrMalformed)
	case a.memory() > MaxMemoryBytes, a.Passes > MaxArgon2Passes, a.Lanes > MaxArgon2Lanes:
		return fmt.Errorf("%w: argon2 with m=%d, t=%d, p=%d", ErrTooCostly, a.MemoryKiB, a.Passes, a.Lanes)
	}
	return nil
}

func parseArgon2(text string) (secret, error) {
	fields := strings.Split(text, "$")
	if fields[1] != "argon2id" && fields[1] != "argon2i" {
		return nil, fmt.Errorf("%w: argon2 variant", ErrUnknownScheme)
	}
	// Without "v=" the string is of version 1.0, which computes differently.
	if len(fields) == 5 || len(fields) == 6 && fields[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, fmt.Errorf("%w: argon2 version other than 1.3", ErrUnknownScheme)
	}
	if len(fields) != 6 {
		return nil, fmt.Errorf("%w: argon2", ErrMalformed)
	}
	a := argon2Hash{id: fields[1] == "argon2id"}
	var err error
	if a.HashParams, err = parseArgon2Params(fields[3]); err != nil {
		return nil, err
	}
	if a.salt, err = base64.RawStdEncoding.DecodeString(fields[4]); err != nil {
		return nil, fmt.Errorf("%w: argon2 salt", ErrMalformed)
	}
	if a.key, err = base64.RawStdEncoding.DecodeString(fields[5]); err != nil {
		return nil, fmt.Errorf("%w: argon2 key", ErrMalformed)
	}
	return a, a.check()
}

func parseArgon2Params(text string) (HashParams, error) {
	var values [3]uint64
	parts := strings.Split(text, ",")
	if len(parts) != len(values) {
		return HashParams{}, fmt.Errorf("%w: argon2 parameters", ErrMalformed)
	}
	for i, name := range []string{"m=", "t=", "p="} {
		digits, found := strings.CutPrefix(parts[i], name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !found || err != nil {
			return HashParams{}, fmt.Errorf("%w: argon2 parameters", ErrMalformed)
		}
		values[i] = n
	}
	if values[2] > 255 {
		return HashParams{}, fmt.Errorf("%w: argon2 with p=%d", ErrTooCostly, values[2])
	}
	return HashParams{MemoryKiB: uint32(values[0]), Passes: uint32(values[1]), Lanes: uint8(values[2])}, nil
}
