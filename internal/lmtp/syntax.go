package lmtp

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Param is an ESMTP parameter, KEY or KEY=Value.
type Param struct{ Key, Value string }

// maxPath bounds a path: what RFC 5321, Section 4.5.3.1.3 allows, and room for
// sub-addresses, brackets included. Backends take no more.
const maxPath = 902

// CheckAddress reports whether a command can carry the address, without
// brackets and quotes; ErrSyntax if not. The empty one is the null
// reverse-path. Whoever accepts mail for later checks before it does.
func CheckAddress(address string) error {
	_, err := path(address)
	return err
}

// path writes address as a path (RFC 5321, Section 4.1.2), its local part
// quoted where it must be. The empty address is the null reverse-path "<>".
func path(address string) (string, error) {
	if address == "" {
		return "<>", nil
	}
	if !utf8.ValidString(address) {
		return "", fmt.Errorf("address %q: %w", address, ErrSyntax)
	}
	for _, r := range address {
		if r < ' ' || r == 0x7f {
			return "", fmt.Errorf("address %q: %w", address, ErrSyntax)
		}
	}
	at := strings.LastIndexByte(address, '@')
	local, domain := address, ""
	if at >= 0 {
		local, domain = address[:at], address[at:]
	}
	if local == "" || strings.ContainsAny(domain, " <>") {
		return "", fmt.Errorf("address %q: %w", address, ErrSyntax)
	}
	p := "<" + quoteLocal(local) + domain + ">"
	if len(p) > maxPath {
		return "", fmt.Errorf("address of %d bytes: %w", len(address), ErrSyntax)
	}
	return p, nil
}

// quoteLocal gives a Dot-string as it is, and all else as a Quoted-string.
func quoteLocal(local string) string {
	if !strings.ContainsAny(local, " ()<>[]:;@\\,\"") && !strings.HasPrefix(local, ".") &&
		!strings.HasSuffix(local, ".") && !strings.Contains(local, "..") {
		return local
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(local) {
		if c := local[i]; c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(local[i])
	}
	b.WriteByte('"')
	return b.String()
}

// writeParams appends " KEY=value"; a value is an esmtp-value (RFC 5321,
// Section 4.1.2): no '=', space or control character.
func writeParams(b *strings.Builder, params []Param) error {
	for _, p := range params {
		if p.Key == "" || strings.ContainsFunc(p.Key, notWord) || strings.ContainsFunc(p.Value, notWord) {
			return fmt.Errorf("parameter %q=%q: %w", p.Key, p.Value, ErrSyntax)
		}
		b.WriteString(" " + p.Key)
		if p.Value != "" {
			b.WriteString("=" + p.Value)
		}
	}
	return nil
}

func notWord(r rune) bool { return r <= ' ' || r == '=' || r == 0x7f }

// Xtext encodes a value as xtext (RFC 3461, Section 4).
func Xtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c <= '~' && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "+%02X", c)
		}
	}
	return b.String()
}
