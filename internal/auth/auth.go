// Package auth verifies passwords against stored hashes and speaks the server's
// side of the SASL mechanisms that carry a password.
//
// It owns no state besides the turn queue of a Hasher, and nothing of it
// survives a crash. Any tier and any tool may call it; every function is safe
// for concurrent use. A password is never kept, logged or put into an error,
// and neither is a stored hash.
//
// A stored hash is what an account record holds: an argon2 string in PHC form,
// a crypt(3) string, or Dovecot's "{SCHEME}" form of either or of an older
// digest (see Supported). Hash writes argon2id only; the other forms exist so
// that accounts can be imported and so that mailboxes can move back. Costs are
// taken from the stored string, which an importer may not have read closely, so
// they are capped: a hash that needs more is refused with ErrTooCostly, by
// Supported at import time and by Verify always.
//
// RFCs: 9106 (argon2), 4616 (PLAIN), 5802 and 7677 (the stored form of
// SCRAM-SHA-1 and SCRAM-SHA-256, plaintext verification only), 8018 (PBKDF2).
package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Errors of this package. Test with errors.Is.
var (
	// ErrUnknownScheme says that the form of a stored hash is not one that this
	// package can verify.
	ErrUnknownScheme = errors.New("auth: unknown password scheme")
	// ErrMalformed says that a stored hash names a known scheme and then breaks
	// its syntax.
	ErrMalformed = errors.New("auth: malformed password hash")
	// ErrTooCostly says that verifying would need more memory or time than the
	// caps, or the Hasher's memory, allow.
	ErrTooCostly = errors.New("auth: password hash is too costly")
	// ErrPassword says that a password cannot be hashed: it is empty, has a NUL
	// octet, or is longer than MaxPasswordBytes.
	ErrPassword = errors.New("auth: unacceptable password")
	// ErrOverloaded says that a Hasher's queue is full. It is temporary.
	ErrOverloaded = errors.New("auth: too many verifications waiting")
)

// Caps on what a stored hash may ask for.
const (
	MaxMemoryBytes   = 256 << 20 // argon2 and yescrypt
	MaxArgon2Passes  = 16
	MaxArgon2Lanes   = 16
	MaxBcryptCost    = 14
	MaxSHARounds     = 1_000_000
	MaxPBKDF2Rounds  = 5_000_000
	MaxPasswordBytes = 1024 // the time of SHA-crypt grows with the square of the length

	maxStoredBytes = 4096
	// smallMemory stands for the working memory of hashes that are not
	// memory-hard; bcrypt's 4 KiB of S-boxes are the largest of them.
	smallMemory = 8 << 10
)

// secret is a parsed stored hash whose costs are within the caps.
type secret interface {
	// matches compares in constant time. The password is acceptable.
	matches(password []byte) (bool, error)
	// memory is the working memory of matches in bytes.
	memory() int64
}

// Verify reports whether password is the one that stored was made from.
//
// A false without an error is a wrong password; so is a password that no hash
// can have been made from (empty, with a NUL, over MaxPasswordBytes). Errors are
// ErrUnknownScheme, ErrMalformed, ErrTooCostly, and ctx's own before the work
// begins: a verification under way is not interrupted.
func Verify(ctx context.Context, stored, password string) (bool, error) {
	s, err := parse(stored)
	if err != nil {
		return false, err
	}
	return verify(ctx, s, password)
}

func verify(ctx context.Context, s secret, password string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("auth: verify: %w", err)
	}
	if !acceptable(password) {
		return false, nil
	}
	return s.matches([]byte(password))
}

// Supported reports whether Verify could work with stored: nil, or
// ErrUnknownScheme, ErrMalformed or ErrTooCostly. It computes no hash.
//
// Supported are argon2id and argon2i (bare or with {ARGON2ID}, {ARGON2I}); the
// crypt(3) forms $1$, $2a$, $2b$, $2y$, $5$, $6$ and $y$ (yescrypt as libxcrypt
// writes it), bare or with {CRYPT}, {MD5-CRYPT}, {BLF-CRYPT}, {SHA256-CRYPT},
// {SHA512-CRYPT}; {PLAIN}, {CLEAR}, {CLEARTEXT}; {MD5}, {PLAIN-MD5}, {LDAP-MD5},
// {SMD5}; {SHA}, {SHA1}, {SHA256}, {SHA512} and {SSHA}, {SSHA256}, {SSHA512};
// {PBKDF2}; {SCRAM-SHA-1}, {SCRAM-SHA-256}. A scheme may end in .hex, .b64 or
// .base64. DES-crypt, $2x$, CRAM-MD5 and DIGEST-MD5 are not supported.
func Supported(stored string) error {
	_, err := parse(stored)
	return err
}

func parse(stored string) (secret, error) {
	switch {
	case len(stored) > maxStoredBytes:
		return nil, fmt.Errorf("%w: over %d bytes", ErrMalformed, maxStoredBytes)
	case strings.HasPrefix(stored, "{"):
		return parseScheme(stored)
	case strings.HasPrefix(stored, "$argon2"):
		return parseArgon2(stored)
	case strings.HasPrefix(stored, "$"):
		return parseCrypt(stored)
	}
	return nil, fmt.Errorf("%w: neither {SCHEME} nor $id$", ErrUnknownScheme)
}

// acceptable refuses the empty password because a directory that lost its
// values must not become one that lets everybody in, and NUL because crypt(3)
// would have stopped reading there.
func acceptable(password string) bool {
	return password != "" && len(password) <= MaxPasswordBytes && strings.IndexByte(password, 0) < 0
}
