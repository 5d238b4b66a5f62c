package scripts

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"

	"waypost/internal/vfs"
)

// maxNameRunes: RFC 5804, Section 1.6, wants at least 128 characters.
const maxNameRunes = 128

// CheckName reports whether a script can have this name: 1 to 128 characters of
// UTF-8, no control characters, no line or paragraph separator (RFC 5804,
// Section 1.6). The error is ErrBadName.
func CheckName(name string) error {
	if n := utf8.RuneCountInString(name); n < 1 || n > maxNameRunes || !utf8.ValidString(name) {
		return fmt.Errorf("%w: want 1 to %d characters of UTF-8", ErrBadName, maxNameRunes)
	}
	for _, r := range name {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return fmt.Errorf("%w: control character %U", ErrBadName, r)
		}
	}
	return nil
}

const (
	// maxBase bounds an encoded name, so that with any suffix it is a file name
	// (255 bytes) of any usual file system.
	maxBase = 200
	// keptBase is how much of a longer one is kept, for people, before the mark
	// and the digest that tell it apart.
	keptBase = 120
	longMark = '~'
)

// encode makes a file name, without suffix, of a valid script name. What is safe
// in a file name stays as it is, so that people know their scripts; the rest is
// %XX. A leading dot is not safe: it hides files, and Maildir++ gives it a meaning.
func encode(name string) string {
	var b strings.Builder
	cut := 0 // where keptBase may cut: never within a character
	for _, r := range name {
		if b.Len() <= keptBase {
			cut = b.Len()
		}
		if plain(r) && !(r == '.' && b.Len() == 0) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "%%%02X", r)
		}
	}
	if b.Len() <= maxBase {
		return b.String()
	}
	digest := sha256.Sum256([]byte(name))
	return b.String()[:cut] + string(longMark) + hex.EncodeToString(digest[:16])
}

// plain characters stand for themselves. All that are not are ASCII.
func plain(r rune) bool {
	switch {
	case r >= 0x80, r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return true
	}
	return strings.ContainsRune(" -_.@+,=", r)
}

// isLong: the name is not in the encoded name. The mark is never plain.
func isLong(base string) bool { return strings.ContainsRune(base, longMark) }

// decode gives the name that encodes to base; ok is false where none does.
func (s *Store) decode(base string) (name string, ok bool, err error) {
	if isLong(base) {
		text, err := vfs.ReadFile(s.fs, s.in(base+nameSuffix))
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return "", false, err
		}
		name = string(text)
	} else if name, ok = unescape(base); !ok {
		return "", false, nil
	}
	return name, CheckName(name) == nil && encode(name) == base, nil
}

// unescape takes the %XX out.
func unescape(base string) (string, bool) {
	before, rest, found := strings.Cut(base, "%")
	var b strings.Builder
	for b.WriteString(before); found; b.WriteString(before) {
		if len(rest) < 2 {
			return "", false
		}
		octet, err := hex.DecodeString(rest[:2])
		if err != nil {
			return "", false
		}
		b.Write(octet)
		before, rest, found = strings.Cut(rest[2:], "%")
	}
	return b.String(), true
}
