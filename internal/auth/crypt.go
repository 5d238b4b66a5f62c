package auth

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/go-crypt/x/crypt"
	"github.com/go-crypt/x/yescrypt"
	"golang.org/x/crypto/bcrypt"
)

// cryptAlphabet is crypt(3)'s base 64. In yescrypt a character's place is its
// value; bcrypt uses the same characters in another order.
const cryptAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// parseCrypt reads the "$id$" strings of crypt(3). crypt(3) verifies by computing
// the whole string anew, so one that it would not itself have written (a salt
// too long, rounds out of range) can match nothing and is malformed.
func parseCrypt(text string) (secret, error) {
	id, _, _ := strings.Cut(text[1:], "$")
	switch id {
	case "1":
		return parseMD5Crypt(text)
	case "2a", "2b", "2y":
		return parseBcrypt(text)
	case "5":
		return parseSHACrypt(text, sha256.New, 43)
	case "6":
		return parseSHACrypt(text, sha512.New, 86)
	case "y":
		return parseYescrypt(text)
	}
	return nil, fmt.Errorf("%w: crypt(3) form", ErrUnknownScheme)
}

func inCryptAlphabet(s string) bool {
	return strings.Trim(s, cryptAlphabet) == ""
}

type md5Crypt struct{ salt, key []byte }

func parseMD5Crypt(text string) (secret, error) {
	fields := strings.Split(text, "$")
	if len(fields) != 4 || len(fields[2]) > 8 || len(fields[3]) != 22 || !inCryptAlphabet(fields[3]) {
		return nil, fmt.Errorf("%w: MD5-CRYPT", ErrMalformed)
	}
	return md5Crypt{salt: []byte(fields[2]), key: []byte(fields[3])}, nil
}

func (m md5Crypt) matches(password []byte) (bool, error) {
	return subtle.ConstantTimeCompare(crypt.KeyMD5Crypt(password, m.salt), m.key) == 1, nil
}

func (m md5Crypt) memory() int64 { return smallMemory }

type shaCrypt struct {
	newHash   func() hash.Hash
	rounds    int
	salt, key []byte
}

func parseSHACrypt(text string, newHash func() hash.Hash, keyChars int) (secret, error) {
	s := shaCrypt{newHash: newHash, rounds: 5000}
	fields := strings.Split(text, "$")[2:]
	if digits, found := strings.CutPrefix(fields[0], "rounds="); found {
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n < 1000 {
			return nil, fmt.Errorf("%w: SHA-crypt rounds", ErrMalformed)
		}
		if n > MaxSHARounds {
			return nil, fmt.Errorf("%w: SHA-crypt with %d rounds", ErrTooCostly, n)
		}
		s.rounds, fields = int(n), fields[1:]
	}
	if len(fields) != 2 || len(fields[0]) > 16 || len(fields[1]) != keyChars || !inCryptAlphabet(fields[1]) {
		return nil, fmt.Errorf("%w: SHA-crypt", ErrMalformed)
	}
	s.salt, s.key = []byte(fields[0]), []byte(fields[1])
	return s, nil
}

func (s shaCrypt) matches(password []byte) (bool, error) {
	return subtle.ConstantTimeCompare(crypt.KeySHACrypt(s.newHash, password, s.salt, s.rounds), s.key) == 1, nil
}

func (s shaCrypt) memory() int64 { return smallMemory }

type bcryptHash struct{ text []byte }

// parseBcrypt takes $2a$, $2b$ and $2y$ as one: they differ only in which
// mistakes of early implementations they promise not to have.
func parseBcrypt(text string) (secret, error) {
	if len(text) != 60 || text[6] != '$' || !inCryptAlphabet(text[7:]) {
		return nil, fmt.Errorf("%w: bcrypt", ErrMalformed)
	}
	cost, err := strconv.ParseUint(text[4:6], 10, 8)
	if err != nil || cost < uint64(bcrypt.MinCost) {
		return nil, fmt.Errorf("%w: bcrypt cost", ErrMalformed)
	}
	if cost > MaxBcryptCost {
		return nil, fmt.Errorf("%w: bcrypt with cost %d", ErrTooCostly, cost)
	}
	return bcryptHash{text: []byte(text)}, nil
}

func (b bcryptHash) matches(password []byte) (bool, error) {
	err := bcrypt.CompareHashAndPassword(b.text, password)
	if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, fmt.Errorf("%w: bcrypt: %w", ErrMalformed, err)
	}
	return err == nil, nil
}

func (b bcryptHash) memory() int64 { return smallMemory }

type yescryptHash struct {
	text  []byte
	bytes int64
}

// parseYescrypt reads "$y$j<N><r>$salt$key": flags j, which is yescrypt's
// default, and one character each for the logarithm of N and for r. That is all
// libxcrypt writes; the longer encodings of other parameters are not supported.
func parseYescrypt(text string) (secret, error) {
	fields := strings.Split(text, "$")
	if len(fields) != 5 || len(fields[4]) != 43 || !inCryptAlphabet(fields[4]) || yescrypt.Decode64([]byte(fields[3])) == nil {
		return nil, fmt.Errorf("%w: yescrypt", ErrMalformed)
	}
	if len(fields[2]) != 3 || fields[2][0] != 'j' {
		return nil, fmt.Errorf("%w: yescrypt parameters", ErrUnknownScheme)
	}
	logN := strings.IndexByte(cryptAlphabet, fields[2][1]) + 1
	r := strings.IndexByte(cryptAlphabet, fields[2][2]) + 1
	if logN < 1 || r < 1 {
		return nil, fmt.Errorf("%w: yescrypt parameters", ErrMalformed)
	}
	if logN < 10 || r > 32 {
		return nil, fmt.Errorf("%w: yescrypt parameters", ErrUnknownScheme)
	}
	if logN > 18 || 128*int64(r)<<logN > MaxMemoryBytes {
		return nil, fmt.Errorf("%w: yescrypt with N=2^%d, r=%d", ErrTooCostly, logN, r)
	}
	return yescryptHash{text: []byte(text), bytes: 128 * int64(r) << logN}, nil
}

func (y yescryptHash) matches(password []byte) (bool, error) {
	got, err := yescrypt.Hash(password, y.text)
	if err != nil {
		return false, fmt.Errorf("%w: yescrypt: %w", ErrMalformed, err)
	}
	return subtle.ConstantTimeCompare(got, y.text) == 1, nil
}

func (y yescryptHash) memory() int64 { return y.bytes }
