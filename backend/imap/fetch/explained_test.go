package fetch

import (
	"strconv"
	"strings"
)

// explanation says why ours is right, or as good, where an answer is not Dovecot's. name is the
// beginning of a message's name, item that of a data item's.
type explanation struct{ name, item, why string }

// explain gives the reason of a difference, or "".
func explain(name, item string, got, want value) string {
	for _, e := range explanations {
		if strings.HasPrefix(name, e.name) && strings.HasPrefix(item, e.item) {
			return e.why
		}
	}
	g, w := got.String(), want.String()
	switch {
	case strings.EqualFold(g, w) && strings.HasPrefix(item, "BODY"):
		return "Dovecot has a short form for plain ASCII texts, in its own letters; ours are the sender's, and case does not matter (RFC 2045, Section 5.1)"
	case item == "ENVELOPE" && strings.Contains(w, "SYNTAX_ERROR"):
		return "Dovecot marks what it cannot read as SYNTAX_ERROR and drops the rest of the list; ours goes on (RFC 9051, Section 7.5.2 has no such mark)"
	case w == strings.TrimSuffix(g, `"`)+`\r\n"`:
		return whyLineEnd
	case strings.HasPrefix(item, "BINARY.SIZE[") && number(want) == number(got)+2:
		return whyLineEnd
	}
	return ""
}

func number(v value) int {
	n, err := strconv.Atoi(v.text)
	if err != nil {
		return -1 << 20
	}
	return n
}

const (
	whyLenient  = "BINARY: Dovecot refuses what is damaged, or fails an assertion; ours passes over it (RFC 2045, Sections 6.7 and 6.8)"
	whyLineEnd  = "the line end before a delimiter is the delimiter's, also behind an inner multipart or message (RFC 2046, Section 5.1.1)"
	whyBytes    = "chosen fields are byte for byte as in the message, and an empty line ends them always (RFC 9051, Section 6.4.5.1: HEADER.FIELDS)"
	whyNoField  = "a line without a name and a colon is no header field (RFC 5322, Section 2.2)"
	whyTolerant = "Dovecot ends an address list at the first error; ours goes on, and shows what is there"
	whyParam    = "Dovecot drops a parameter list from its first error on; ours reads what senders mean (RFC 2045, Section 5.1 needs quotes)"
	whyType     = "Dovecot gives an empty type; one that cannot be read is text/plain (RFC 2045, Section 5.2)"
	whyNoPart   = "a multipart has one part at least (RFC 2046, Section 5.1.1); without, it is shown as the text that it is"
	whyEncoded  = "a message may not be encoded (RFC 2046, Section 5.2.1); BINARY decodes one that is, all the same"
	whyGlobal   = "message/global encloses a message (RFC 6532, Section 3.7; RFC 9051, Section 9: body-type-msg)"
	whyTwice    = "of a MIME field that is there twice the first counts, for all that is made of it; Dovecot takes now the first, now the last"
	whyBounded  = "what is kept of a field has a limit, and a record of the index, too"
	whyCR       = "a CR of its own is no line end (RFC 5322, Section 2.3)"
	whyPieces   = "RFC 2231 forbids this; whatever one makes of it is as good"
	whyDisposed = "a disposition that is no token is none (RFC 2183, Section 2)"
	whyBoundary = "Dovecot cuts boundaries off at 80 characters (RFC 2046, Section 5.1.1 allows 70); ours takes them as they are, without white space at the end"
	whyEmpty    = "a message of an empty part has an empty header, and so an empty line"
	whyRefused  = "a transfer encoding that is no token, or absent, is 7bit (RFC 2045, Section 6.1), and parameters and quotes do not make one unknown"
	whyCommas   = "empty elements of an address list are nothing (RFC 5322, Section 4.4)"
	whyGroup    = "a group has a name (RFC 5322, Section 3.4)"
)

var explanations = []explanation{
	{"nasty 2231 both", "BODY", whyPieces},
	{"nasty 2231 odd", "BODY", whyPieces},
	{"nasty CR CR LF", "BODY[HEADER.FIELDS", whyBytes},
	{"nasty CR only", "BODY[HEADER.FIELDS", whyBytes},
	{"nasty CR", "ENVELOPE", whyCR},
	{"nasty header without colon", "BODY[HEADER.FIELDS.NOT", whyNoField},
	{"nasty starts folded", "BODY[HEADER.FIELDS.NOT", whyNoField},
	{"nasty empty", "BODY[HEADER.FIELDS.NOT", whyBytes},
	{"made", "BODY[HEADER.FIELDS.NOT", whyBytes}, // some end behind their header
	{"nasty no body", "BODY[HEADER.FIELDS", whyBytes},
	{"nasty multipart header only", "BODY[HEADER.FIELDS", whyBytes},
	{"nasty backslashes", "ENVELOPE", whyTolerant},
	{"nasty mailto", "ENVELOPE", whyTolerant},
	{"nasty name behind", "ENVELOPE", whyTolerant},
	{"nasty no domain", "ENVELOPE", whyTolerant},
	{"nasty semicolons", "ENVELOPE", whyTolerant},
	{"nasty spaces in addr-spec", "ENVELOPE", whyTolerant},
	{"nasty stray closers", "ENVELOPE", whyTolerant},
	{"nasty unbalanced", "ENVELOPE", whyTolerant},
	{"nasty two a", "ENVELOPE", whyTolerant},
	{"nasty two groups", "ENVELOPE", whyTolerant},
	{"nasty commas", "ENVELOPE", whyCommas},
	{"nasty sender and reply-to empty", "ENVELOPE", whyCommas},
	{"nasty group without name", "ENVELOPE", whyGroup},
	{"nasty line of 1 MB in subject", "ENVELOPE", whyBounded},
	{"nasty disposition", "BODY", whyDisposed},
	{"nasty duplicate content headers", "B", whyTwice},
	{"nasty encoding", "BINARY", whyRefused},
	{"nasty encoding", "NO UNKNOWN-CTE", whyRefused},
	{"nasty encoding quoted", "BODY", whyRefused},
	{"nasty encoding with junk", "BODY", whyRefused},
	{"nasty message base64", "BINARY", whyEncoded},
	{"nasty message quoted-printable", "BINARY", whyEncoded},
	{"nasty message base64", "BODY", whyLineEnd},
	{"nasty message empty", "BODY[1.", whyEmpty},
	{"nasty message empty", "BODY", whyLineEnd},
	{"nasty message global", "B", whyGlobal},
	{"nasty message without body", "BODY", whyLineEnd},
	{"nasty digest empty header", "BODY[1.HEADER", whyEmpty},
	{"nasty digest empty header", "BODY", whyLineEnd},
	{"nasty multipart boundary long", "B", whyBoundary},
	{"nasty multipart boundary spaces", "B", whyBoundary},
	{"nasty multipart empty", "B", whyNoPart},
	{"nasty multipart header only", "B", whyNoPart},
	{"nasty multipart only end", "B", whyNoPart},
	{"nasty multipart without", "B", whyNoPart},
	{"nasty parameter", "BODY", whyParam},
	{"nasty type double semicolon", "BODY", whyParam},
	{"nasty type", "BODY", whyType},
	{"nasty multipart no subtype", "BODY", whyType},
	{"corpus 1683", "B", whyNoPart},
}
