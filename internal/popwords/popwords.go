// Package popwords holds what a proxy and a backend must say alike in one POP3
// session: the capabilities that hold before and after the login, and the answers
// of LANG. The client is not to notice that two programs speak with it. It owns
// nothing; proxy/pop3 and backend/pop3 call it.
//
// RFCs: 2449 (CAPA, EXPIRE, LOGIN-DELAY, IMPLEMENTATION), 6856 (UTF8, LANG).
package popwords

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"waypost/internal/poplist"
)

// Common are the capabilities that are the same in both states, whatever the
// settings (RFC 2449, Section 6).
//
// EXPIRE NEVER: no message is removed for its age (Section 6.7). UTF8 has the
// argument USER, since names and passwords may be UTF-8 (RFC 6856, Section 2.2);
// they are compared byte by byte, as they are in IMAP and in submission.
func Common() []string {
	return []string{
		"TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER",
		"UTF8 USER", "LANG", "IMPLEMENTATION Waypost", poplist.Capability,
	}
}

// LoginDelay is the capability of RFC 2449, Section 6.5: the seconds between two
// logins of a user, which are the same for all.
func LoginDelay(d time.Duration) string {
	return fmt.Sprintf("LOGIN-DELAY %d", (d+time.Second-1)/time.Second)
}

// language is a line of LANG's list: RFC 6856, Section 3.2.
type language struct{ tag, description string }

// languages are those in which we speak. There is one set of texts, English and
// in ASCII, which is what i-default wants too (RFC 2277, Section 4.5).
func languages() []language {
	return []language{{"en", "English"}, {"i-default", "English, the default"}}
}

// Lang is the answer to LANG, whole lines with their ends (RFC 6856, Section
// 3.2): to no argument the list, else whether we speak that language now. A
// range is looked up by cutting subtags off its end (RFC 4647, Section 3.4): who
// wants en-GB gets en. "*" asks for what the operator prefers. Since all
// languages here have the same texts there is nothing to remember.
func Lang(args []string) string {
	switch len(args) {
	case 0:
		var b strings.Builder
		b.WriteString("+OK Language listing follows.\r\n")
		for _, l := range languages() {
			b.WriteString(l.tag + " " + l.description + "\r\n")
		}
		b.WriteString(".\r\n")
		return b.String()
	case 1:
		if tag, ok := lookup(args[0]); ok {
			return "+OK " + tag + " Language changed.\r\n"
		}
		return "-ERR Language is not supported.\r\n"
	}
	return "-ERR LANG wants one language.\r\n"
}

func lookup(want string) (tag string, ok bool) {
	if want == "*" {
		return languages()[0].tag, true
	}
	for want = strings.ToLower(want); want != ""; {
		if slices.ContainsFunc(languages(), func(l language) bool { return l.tag == want }) {
			return want, true
		}
		want = want[:max(0, strings.LastIndexByte(want, '-'))]
	}
	return "", false
}
