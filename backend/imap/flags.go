package imap

import (
	"math"
	"slices"
	"strings"

	"waypost/backend/mailbox"
)

const (
	maxKeyword  = 128 // bytes
	maxKeywords = 128 // in one command
)

type systemFlag struct {
	bit  mailbox.System
	name string
}

// systemFlags are those of RFC 9051, Section 2.3.2, in the order in which they are told.
func systemFlags() [5]systemFlag {
	return [5]systemFlag{
		{mailbox.Answered, `\Answered`}, {mailbox.Flagged, `\Flagged`},
		{mailbox.Deleted, `\Deleted`}, {mailbox.Seen, `\Seen`}, {mailbox.Draft, `\Draft`},
	}
}

// systemNames are the names of each set of system flags. They are not changed.
var systemNames = func() (names [math.MaxUint8 + 1][]string) {
	for set := range names {
		for _, s := range systemFlags() {
			if mailbox.System(set)&s.bit != 0 {
				names[set] = append(names[set], s.name)
			}
		}
	}
	return names
}()

// wireFlags appends flags as they are written to out. Keywords that IMAP has no form for are
// left out; they can only come from other software.
func wireFlags(out []string, f mailbox.Flags, recent bool) []string {
	out = append(out, systemNames[f.System]...)
	for _, k := range f.Keywords {
		if validKeyword(k) {
			out = append(out, k)
		}
	}
	if recent {
		out = append(out, `\Recent`)
	}
	return out
}

// validKeyword reports an atom (RFC 9051, Section 9: flag-keyword).
func validKeyword(k string) bool {
	return k != "" && len(k) <= maxKeyword && !strings.ContainsFunc(k, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`(){%*"\]`, r)
	})
}

// parseFlags reads a client's flags. \Recent cannot be set; it is left out.
func parseFlags(in []string) (mailbox.Flags, error) {
	var out mailbox.Flags
next:
	for _, f := range in {
		for _, s := range systemFlags() {
			if strings.EqualFold(f, s.name) {
				out.System |= s.bit
				continue next
			}
		}
		switch {
		case strings.EqualFold(f, `\Recent`):
		case !validKeyword(f):
			return out, no("CANNOT", "flag not possible")
		default:
			out.Keywords = append(out.Keywords, f)
		}
	}
	slices.Sort(out.Keywords)
	out.Keywords = slices.Compact(out.Keywords)
	if len(out.Keywords) > maxKeywords {
		return out, no("LIMIT", "too many keywords")
	}
	return out, nil
}

// applyFlags gives the flags after a STORE, as Folder.SetFlags makes them.
func applyFlags(old mailbox.Flags, op mailbox.FlagOp, f mailbox.Flags) mailbox.Flags {
	switch op {
	case mailbox.FlagsAdd:
		keys := slices.Sorted(slices.Values(slices.Concat(old.Keywords, f.Keywords)))
		return mailbox.Flags{System: old.System | f.System, Keywords: slices.Compact(keys)}
	case mailbox.FlagsRemove:
		keys := slices.DeleteFunc(slices.Clone(old.Keywords), func(k string) bool {
			return slices.Contains(f.Keywords, k)
		})
		return mailbox.Flags{System: old.System &^ f.System, Keywords: keys}
	}
	return f
}
