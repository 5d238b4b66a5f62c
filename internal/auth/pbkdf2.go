package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// pbkdf2Hash is Dovecot's {PBKDF2}: "$1$salt$rounds$hex", HMAC-SHA-1, and the
// salt's characters taken as they stand.
type pbkdf2Hash struct {
	salt, key []byte
	rounds    int
}

func parsePBKDF2(text string) (secret, error) {
	fields := strings.Split(text, "$")
	if len(fields) != 5 || fields[0] != "" || fields[1] != "1" {
		return nil, fmt.Errorf("%w: PBKDF2", ErrMalformed)
	}
	rounds, err := parseRounds(fields[3])
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(fields[4])
	if err != nil || len(key) != sha1.Size {
		return nil, fmt.Errorf("%w: PBKDF2 key", ErrMalformed)
	}
	return pbkdf2Hash{salt: []byte(fields[2]), key: key, rounds: rounds}, nil
}

func parseRounds(digits string) (int, error) {
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%w: PBKDF2 rounds", ErrMalformed)
	}
	if n > MaxPBKDF2Rounds {
		return 0, fmt.Errorf("%w: PBKDF2 with %d rounds", ErrTooCostly, n)
	}
	return int(n), nil
}

func (p pbkdf2Hash) matches(password []byte) (bool, error) {
	got, err := pbkdf2.Key(sha1.New, string(password), p.salt, p.rounds, len(p.key))
	if err != nil {
		return false, fmt.Errorf("auth: PBKDF2: %w", err)
	}
	return subtle.ConstantTimeCompare(got, p.key) == 1, nil
}

func (p pbkdf2Hash) memory() int64 { return smallMemory }

// scram is the stored form "rounds,salt,StoredKey,ServerKey" of RFC 5802,
// Section 3. Dovecot does not apply SASLprep when it makes one, so neither does
// the verification.
type scram struct {
	newHash         func() hash.Hash
	rounds          int
	salt, storedKey []byte
}

func parseSCRAM(text string, newHash func() hash.Hash) (secret, error) {
	fields := strings.Split(text, ",")
	if len(fields) != 4 {
		return nil, fmt.Errorf("%w: SCRAM", ErrMalformed)
	}
	rounds, err := parseRounds(fields[0])
	if err != nil {
		return nil, err
	}
	s := scram{newHash: newHash, rounds: rounds}
	if s.salt, err = decodeBase64(fields[1]); err != nil || len(s.salt) == 0 {
		return nil, fmt.Errorf("%w: SCRAM salt", ErrMalformed)
	}
	size := newHash().Size()
	if s.storedKey, err = decodeBase64(fields[2]); err != nil || len(s.storedKey) != size {
		return nil, fmt.Errorf("%w: SCRAM stored key", ErrMalformed)
	}
	if serverKey, err := decodeBase64(fields[3]); err != nil || len(serverKey) != size {
		return nil, fmt.Errorf("%w: SCRAM server key", ErrMalformed)
	}
	return s, nil
}

func (s scram) matches(password []byte) (bool, error) {
	salted, err := pbkdf2.Key(s.newHash, string(password), s.salt, s.rounds, len(s.storedKey))
	if err != nil {
		return false, fmt.Errorf("auth: SCRAM: %w", err)
	}
	clientKey := hmac.New(s.newHash, salted)
	clientKey.Write([]byte("Client Key"))
	storedKey := s.newHash()
	storedKey.Write(clientKey.Sum(nil))
	return subtle.ConstantTimeCompare(storedKey.Sum(nil), s.storedKey) == 1, nil
}

func (s scram) memory() int64 { return smallMemory }
