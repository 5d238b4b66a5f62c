package mailbox

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Rights are letters of RFC 4314, Section 2.1, each at most once, in the order
// of AllRights.
type Rights string

// AllRights are what the owner has.
const AllRights Rights = "lrswipkxtea"

// ParseRights puts letters into their order; false for one that is no right. The
// obsolete "c" and "d" stand for those they became (RFC 4314, Section 2.1.1).
func ParseRights(letters string) (r Rights, ok bool) {
	letters = strings.NewReplacer("c", "kx", "d", "xte").Replace(letters)
	var b strings.Builder
	for _, c := range []byte(AllRights) {
		if strings.IndexByte(letters, c) >= 0 {
			b.WriteByte(c)
		}
	}
	for _, c := range []byte(letters) {
		if !AllRights.Has(c) {
			return "", false
		}
	}
	return Rights(b.String()), true
}

// Has tells whether the right c is among them.
func (r Rights) Has(c byte) bool { return strings.IndexByte(string(r), c) >= 0 }

// ACL is an access control list, by identifier: the name of a user, "anyone",
// or one with "-" in front, which takes rights away.
type ACL map[string]Rights

// MaxACLEntries bounds a folder's ACL, MaxIdentifier an identifier in bytes.
const (
	MaxACLEntries = 100
	MaxIdentifier = 255
)

// CheckACL looks an entry over before a store takes it, and gives its rights in
// their order: ErrBadRights.
func CheckACL(identifier string, r Rights) (Rights, error) {
	r, ok := ParseRights(string(r))
	bad := func(c rune) bool { return c < 0x20 || c == 0x7f }
	if name := strings.TrimPrefix(identifier, "-"); !ok || name == "" || len(identifier) > MaxIdentifier ||
		!utf8.ValidString(identifier) || strings.ContainsFunc(identifier, bad) {
		return "", fmt.Errorf("rights %.40q of %.40q: %w", r, identifier, ErrBadRights)
	}
	return r, nil
}

// NamespaceKind says whose folders a namespace has (RFC 2342).
type NamespaceKind int

// The three kinds.
const (
	Personal NamespaceKind = iota
	OtherUsers
	Shared
)

// Namespace is a part of the folders. Prefix begins their names: "", or what
// ends with Separator.
type Namespace struct {
	Kind   NamespaceKind
	Prefix string
}
