package auth

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// encoding is how the part after "{SCHEME}" is written.
type encoding int

const (
	encodingDefault encoding = iota // the scheme's own
	encodingHex
	encodingBase64
)

// parseScheme reads Dovecot's "{SCHEME}" and "{SCHEME.encoding}" forms. Scheme
// names are case-insensitive.
func parseScheme(stored string) (secret, error) {
	name, body, found := strings.Cut(stored[1:], "}")
	if !found {
		return nil, fmt.Errorf("%w: no closing brace", ErrUnknownScheme)
	}
	name, enc, err := cutEncoding(strings.ToUpper(name))
	if err != nil {
		return nil, err
	}
	if body == "" {
		return nil, fmt.Errorf("%w: nothing after the scheme", ErrMalformed)
	}
	if d, ok := digestScheme(name, body); ok {
		return d.parse(enc, body)
	}
	text, err := decodeText(enc, body)
	if err != nil {
		return nil, err
	}
	return parseTextScheme(name, text)
}

func cutEncoding(name string) (string, encoding, error) {
	name, suffix, found := strings.Cut(name, ".")
	switch {
	case !found:
		return name, encodingDefault, nil
	case suffix == "HEX":
		return name, encodingHex, nil
	case suffix == "B64" || suffix == "BASE64":
		return name, encodingBase64, nil
	}
	return "", 0, fmt.Errorf("%w: encoding suffix", ErrUnknownScheme)
}

// parseTextScheme handles the schemes whose stored form is text.
func parseTextScheme(name, text string) (secret, error) {
	switch name {
	case "PLAIN", "CLEAR", "CLEARTEXT":
		return plain{text: []byte(text)}, nil
	case "ARGON2ID":
		return parsePrefixed(text, parseArgon2, "$argon2id$")
	case "ARGON2I":
		return parsePrefixed(text, parseArgon2, "$argon2i$")
	case "CRYPT":
		return parsePrefixed(text, parseCrypt, "$")
	case "MD5-CRYPT", "MD5":
		return parsePrefixed(text, parseCrypt, "$1$")
	case "BLF-CRYPT":
		return parsePrefixed(text, parseCrypt, "$2")
	case "SHA256-CRYPT":
		return parsePrefixed(text, parseCrypt, "$5$")
	case "SHA512-CRYPT":
		return parsePrefixed(text, parseCrypt, "$6$")
	case "PBKDF2":
		return parsePBKDF2(text)
	case "SCRAM-SHA-1":
		return parseSCRAM(text, sha1.New)
	case "SCRAM-SHA-256":
		return parseSCRAM(text, sha256.New)
	}
	return nil, fmt.Errorf("%w: %.32q", ErrUnknownScheme, name)
}

// parsePrefixed refuses a body of another kind than the scheme names. Only
// {CRYPT} promises so little that an unknown body is an unknown scheme; there
// the body without "$" is DES-crypt.
func parsePrefixed(text string, parse func(string) (secret, error), prefix string) (secret, error) {
	if strings.HasPrefix(text, prefix) {
		return parse(text)
	}
	if prefix == "$" {
		return nil, fmt.Errorf("%w: DES-crypt", ErrUnknownScheme)
	}
	return nil, fmt.Errorf("%w: scheme and content differ", ErrMalformed)
}

type plain struct{ text []byte }

// matches compares digests, because comparing texts of unequal length in
// constant time is not possible without telling the length.
func (p plain) matches(password []byte) (bool, error) {
	want, got := sha256.Sum256(p.text), sha256.Sum256(password)
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1, nil
}

func (p plain) memory() int64 { return smallMemory }

// digest is one unkeyed pass over the password and, after it, the salt.
type digest struct {
	newHash   func() hash.Hash
	salted    bool
	sum, salt []byte
}

// digestScheme returns the empty digest of a scheme, and false for the names of
// other schemes. {MD5} is what RFC 2307 calls Dovecot's LDAP-MD5, and to older
// Dovecot it is MD5-CRYPT; base64 has no "$", so that the body decides.
func digestScheme(name, body string) (digest, bool) {
	switch name {
	case "PLAIN-MD5", "LDAP-MD5":
		return digest{newHash: md5.New}, true
	case "MD5":
		return digest{newHash: md5.New}, !strings.HasPrefix(body, "$")
	case "SMD5":
		return digest{newHash: md5.New, salted: true}, true
	case "SHA", "SHA1":
		return digest{newHash: sha1.New}, true
	case "SSHA":
		return digest{newHash: sha1.New, salted: true}, true
	case "SHA256":
		return digest{newHash: sha256.New}, true
	case "SSHA256":
		return digest{newHash: sha256.New, salted: true}, true
	case "SHA512":
		return digest{newHash: sha512.New}, true
	case "SSHA512":
		return digest{newHash: sha512.New, salted: true}, true
	}
	return digest{}, false
}

// parse decodes the stored bytes. Without a salt the length alone tells hex
// from base64, as it does in Dovecot; with one, base64 is the default.
func (d digest) parse(enc encoding, body string) (secret, error) {
	size := d.newHash().Size()
	if enc == encodingDefault {
		enc = encodingBase64
		if !d.salted && len(body) == hex.EncodedLen(size) {
			enc = encodingHex
		}
	}
	raw, err := decodeText(enc, body)
	if err != nil {
		return nil, err
	}
	if d.salted && len(raw) <= size || !d.salted && len(raw) != size {
		return nil, fmt.Errorf("%w: digest of %d bytes", ErrMalformed, len(raw))
	}
	d.sum, d.salt = []byte(raw[:size]), []byte(raw[size:])
	return d, nil
}

func (d digest) matches(password []byte) (bool, error) {
	h := d.newHash()
	h.Write(password)
	h.Write(d.salt)
	return subtle.ConstantTimeCompare(h.Sum(nil), d.sum) == 1, nil
}

func (d digest) memory() int64 { return smallMemory }

func decodeText(enc encoding, body string) (string, error) {
	var raw []byte
	var err error
	switch enc {
	case encodingHex:
		raw, err = hex.DecodeString(body)
	case encodingBase64:
		raw, err = decodeBase64(body)
	default:
		return body, nil
	}
	if err != nil || len(raw) == 0 {
		return "", fmt.Errorf("%w: hex or base64", ErrMalformed)
	}
	return string(raw), nil
}

// decodeBase64 does without the padding, which some exporters drop.
func decodeBase64(text string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
}
