package imap

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/mailbox"
)

const (
	maxKeyword  = 128 // bytes
	maxKeywords = 128 // in one command
	flagRecent  = imap.Flag(`\Recent`)
)

type systemFlag struct {
	bit  mailbox.System
	name imap.Flag
}

func systemFlags() [5]systemFlag {
	return [5]systemFlag{
		{mailbox.Answered, imap.FlagAnswered}, {mailbox.Flagged, imap.FlagFlagged},
		{mailbox.Deleted, imap.FlagDeleted}, {mailbox.Seen, imap.FlagSeen}, {mailbox.Draft, imap.FlagDraft},
	}
}

// wireFlags writes flags. Keywords that IMAP has no form for are left out;
// they can only come from other software.
func wireFlags(f mailbox.Flags, recent bool) []imap.Flag {
	out := make([]imap.Flag, 0, 3+len(f.Keywords))
	for _, s := range systemFlags() {
		if f.Has(s.bit) {
			out = append(out, s.name)
		}
	}
	for _, k := range f.Keywords {
		if validKeyword(k) {
			out = append(out, imap.Flag(k))
		}
	}
	if recent {
		out = append(out, flagRecent)
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
func parseFlags(in []imap.Flag) (mailbox.Flags, error) {
	var out mailbox.Flags
next:
	for _, f := range in {
		for _, s := range systemFlags() {
			if f == s.name {
				out.System |= s.bit
				continue next
			}
		}
		switch {
		case strings.EqualFold(string(f), string(flagRecent)):
		case !validKeyword(string(f)):
			return out, no(imap.ResponseCodeCannot, "flag not possible")
		default:
			out.Keywords = append(out.Keywords, string(f))
		}
	}
	slices.Sort(out.Keywords)
	out.Keywords = slices.Compact(out.Keywords)
	if len(out.Keywords) > maxKeywords {
		return out, no(imap.ResponseCodeLimit, "too many keywords")
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

func storeOp(op imap.StoreFlagsOp) mailbox.FlagOp {
	switch op {
	case imap.StoreFlagsAdd:
		return mailbox.FlagsAdd
	case imap.StoreFlagsDel:
		return mailbox.FlagsRemove
	}
	return mailbox.FlagsSet
}
