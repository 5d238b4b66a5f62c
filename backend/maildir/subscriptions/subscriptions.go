// Package subscriptions is the text of a Maildir's file subscriptions, as
// Dovecot 2.3 writes it: version 2 begins with "V<TAB>2" and an empty line, and
// has the parts of each name, in modified UTF-7, separated by tabs. Version 1,
// whose lines are names with dots between the parts, is read as well.
// It does no I/O.
package subscriptions

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"waypost/backend/mutf7"
)

const header = "V\t2"

// Parse gives the names, parts separated by sep, each once, in the order of
// the file. What is not modified UTF-7 is taken as it is if it is UTF-8.
func Parse(data []byte, sep byte) []string {
	old := true
	if rest, found := bytes.CutPrefix(data, []byte(header+"\n")); found {
		data, old = rest, false
	}
	var names []string
	seen := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		var parts []string
		if old {
			parts = strings.Split(line, ".")
		} else {
			parts = strings.Split(line, "\t")
		}
		name, ok := join(parts, sep, old)
		if ok && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

func join(parts []string, sep byte, old bool) (string, bool) {
	for i, p := range parts {
		if !old {
			p = unescape(p)
		}
		if text, err := mutf7.Decode(p); err == nil {
			p = text
		}
		if p == "" || !utf8.ValidString(p) || strings.IndexByte(p, sep) >= 0 || strings.ContainsAny(p, "\r\n\x00") {
			return "", false
		}
		parts[i] = p
	}
	return strings.Join(parts, string(sep)), true
}

// Format writes version 2.
func Format(names []string, sep byte) []byte {
	b := []byte(header + "\n\n")
	for _, name := range names {
		for i, p := range strings.Split(name, string(sep)) {
			if i > 0 {
				b = append(b, '\t')
			}
			if coded, err := mutf7.Encode(p); err == nil {
				p = coded
			}
			b = append(b, escape(p)...)
		}
		b = append(b, '\n')
	}
	return b
}

// The escapes of Dovecot's tab-separated files; modified UTF-7 leaves nothing to
// escape, but other writers may.
var (
	escapes   = []string{"\x01", "\x011", "\x00", "\x010", "\t", "\x01t", "\r", "\x01r", "\n", "\x01n"}
	unescapes = []string{"\x011", "\x01", "\x010", "\x00", "\x01t", "\t", "\x01r", "\r", "\x01n", "\n"}
)

func escape(s string) string   { return strings.NewReplacer(escapes...).Replace(s) }
func unescape(s string) string { return strings.NewReplacer(unescapes...).Replace(s) }
