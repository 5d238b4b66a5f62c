package imap

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"waypost/internal/dovecottest"
)

// Which random sessions TestLikeDovecot has: other ones from another seed on. They are the same each time.
var (
	sessionSeed    = flag.Uint64("dovecot.seed", 1, "the first of the random sessions beside Dovecot")
	randomSessions = flag.Uint64("dovecot.sessions", 25, "how many of them there are")
)

// dialDovecot begins a session of Debian's IMAP program on an empty Maildir.
func dialDovecot(t *testing.T) *client {
	t.Helper()
	near, _ := dovecottest.New(t, "imap").Begin("imap")
	c := &client{t: t, nc: near, br: bufio.NewReader(near)}
	if g := c.line(); !strings.HasPrefix(g, "* PREAUTH") {
		t.Fatalf("greeting %q", g)
	}
	return c
}

// speaker says commands at random. It leaves out what differs on purpose: a multipart by BINARY, a part
// of a part that has none, the same item twice, numbers in an empty folder, the deletion of a folder that is
// selected or has others below it, subscribing what is not there, and a new name INBOX, to which Dovecot
// says OK.
type speaker struct{ *rand.Rand }

func (s speaker) of(words ...string) string { return words[s.IntN(len(words))] }

func (s speaker) set() string {
	return s.of("1", "2", "3", "1:*", "*", "2:3", "3:2", "*:2", "1,3", "9:*", "1:2,2:3", "0", "1:", "4:5,1", "1,1", "$")
}

func (s speaker) key(depth int) string {
	if depth > 0 {
		switch s.IntN(9) {
		case 0:
			return "NOT " + s.key(depth-1)
		case 1:
			return "OR " + s.key(depth-1) + " " + s.key(depth-1)
		case 2:
			return "(" + s.key(depth-1) + " " + s.key(depth-1) + ")"
		}
	}
	return s.of("SEEN", "UNSEEN", "DELETED", "KEYWORD kw", "UNKEYWORD kw", "FLAGGED", "ALL", "ANSWERED", "DRAFT", "UNDRAFT", "LARGER 300", "SMALLER 300",
		`SUBJECT "a"`, "SUBJECT re", `SUBJECT ""`, `SUBJECT "e e"`, "FROM example", `FROM "@"`, "TO ann", "CC a", "BCC a", "BODY the", "BODY zzz", "TEXT the", "TEXT received",
		`HEADER Subject ""`, `HEADER X-Nope ""`, `HEADER Message-ID "@"`, "SENTSINCE 1-Jan-2010", "SENTBEFORE 1-Jan-2005", "SENTON 3-Nov-2025", "SINCE 1-Jan-2010",
		"BEFORE 1-Jan-2010", "ON 01-Jan-2024", "UID "+s.of("1", "2:4", "3:*", "*"), s.of("1", "2:3", "*", "$"), "KEYWORD $Junk")
}

func (s speaker) item() string {
	section := s.of("", "HEADER", "TEXT", "1", "1.MIME", "2", "2.MIME", "1.HEADER", "HEADER.FIELDS (Subject From)", "HEADER.FIELDS.NOT (Received Subject)", "1.TEXT", "3", "1.2",
		"2.HEADER", "HEADER.FIELDS (To)", "9")
	switch s.IntN(5) {
	case 0:
		return s.of("FLAGS", "UID", "RFC822.SIZE", "ENVELOPE", "INTERNALDATE", "RFC822.HEADER", "RFC822.TEXT", "BODYSTRUCTURE", "BODY")
	case 1, 2, 3:
		return "BODY.PEEK[" + section + "]" + s.of("", "", "<0.10>", "<5.5>", "<100000.5>")
	}
	return s.of("BINARY.PEEK[1]", "BINARY.SIZE[1]", "BINARY.PEEK[1]<0.20>", "BODY[1]", "BODY[]<0.3>")
}

func (s speaker) command() string {
	flags := s.of(`\Seen`, `\Deleted`, "kw", `\Flagged kw2`, `\Answered`, "$Junk", "KW", `\Draft \Seen`, "a b")
	uid := s.of("", "UID ")
	switch s.IntN(17) {
	case 0, 1:
		return fmt.Sprintf("%sSTORE %s %s%s (%s)", uid, s.set(), s.of("+", "-", ""), s.of("FLAGS", "FLAGS.SILENT"), flags)
	case 2:
		return uid + "COPY " + s.set() + " " + s.of("A", "INBOX")
	case 3:
		return uid + "MOVE " + s.set() + " A"
	case 4:
		return s.of("EXPUNGE", "UID EXPUNGE "+s.set(), "NOOP")
	case 5, 6, 7:
		return uid + "SEARCH " + s.of("", "", "RETURN ("+s.of("ALL", "MIN MAX", "COUNT", "", "ALL COUNT", "SAVE", "SAVE MAX", "COUNT SAVE")+") ") + s.key(2) + s.of("", " "+s.key(1))
	case 8:
		return uid + "SORT (" + s.of("DATE", "SUBJECT", "FROM", "SIZE", "REVERSE SIZE", "ARRIVAL", "TO", "CC", "REVERSE SUBJECT DATE") + ") UTF-8 " + s.key(1)
	case 9:
		return uid + "THREAD " + s.of("REFERENCES", "ORDEREDSUBJECT", "REFS") + " UTF-8 " + s.key(1)
	case 10:
		return "STATUS " + s.of("A", "INBOX") + " (MESSAGES UNSEEN UIDNEXT SIZE)"
	case 11:
		return s.of("FETCH 1 FAST", "FETCH 1 ALL", "FETCH 1 (FULL)", "FETCH 1 NOPE", "FETCH 1 BODY[NOPE]", "SEARCH", "SEARCH NOPE", "COPY 1", "SEARCH CHARSET NOPE TEXT x",
			"SORT (NOPE) UTF-8 ALL", "FETCH 1 (FLAGS", "FETCH x FLAGS", `STORE 1 +FLAGS \Seen`, "UID FETCH 1:* FLAGS", "FETCH 1 RFC822", "SEARCH ON x")
	}
	first, second := s.item(), s.item()
	if first == second {
		second = "FLAGS"
	}
	return uid + "FETCH " + s.set() + " (" + first + s.of("", " "+second) + ")"
}

// name is a folder's, quoted.
func (s speaker) name() string {
	return `"` + s.of("A", "A", "B", "A/b", "A/b/c", "a", "INBOX", "inbox", "Inbox/x", "INBOX/y", "Trash", "x y", "Nope", "Nope/n", "&AOQ-", ".hid", "", "B/&-") + `"`
}

// pattern is one of LIST's.
func (s speaker) pattern() string {
	return `"` + s.of("*", "%", "A*", "A/%", "%/%", "INBOX", "inbox", "i*", "*b", "%b", "A%c", "*/*", "Tr%", "A", "nope", "INBOX*", "INBOX/%") + `"`
}

// folderCommand is about folders.
func (s speaker) folderCommand() string {
	switch s.IntN(12) {
	case 0, 1, 2:
		return "CREATE " + s.name()
	case 3:
		return "DELETE " + s.of(`"B"`, `"a"`, `"Nope"`, `"x y"`, "INBOX", `"A/b/c"`, `"INBOX/y"`)
	case 4:
		to := s.name()
		if strings.EqualFold(to, `"INBOX"`) {
			to = `"INBOX/x"`
		}
		return "RENAME " + s.of(`"A"`, `"A/b"`, `"B"`, `"a"`, `"x y"`, `"B/&-"`) + " " + to
	case 5:
		return s.of("SUBSCRIBE ", "UNSUBSCRIBE ") + s.of("INBOX", `"Inbox"`)
	case 6, 7:
		return s.of("LIST", "LIST", "LSUB") + ` "` + s.of("", "", "A", "A/", "INBOX") + `" ` + s.pattern()
	case 8:
		return fmt.Sprintf(`LIST (%s) "" (%s %s) RETURN (%s)`, s.of("", "SUBSCRIBED", "SUBSCRIBED RECURSIVEMATCH", "REMOTE", "RECURSIVEMATCH"), s.pattern(), s.pattern(),
			s.of("", "CHILDREN", "SUBSCRIBED", "STATUS (MESSAGES UNSEEN)", "SUBSCRIBED CHILDREN"))
	case 9:
		return "STATUS " + s.name() + " (" + s.of("MESSAGES", "MESSAGES UNSEEN", "SIZE", "MESSAGES SIZE", "") + ")"
	case 10:
		return s.of("SELECT ", "EXAMINE ") + s.name()
	}
	return s.of("UNSELECT", "NOOP", "APPEND "+s.name()+" "+s.of("", `(\Seen) `, "(kw) ")+"{3+}\r\nx\r\n")
}

// letters are messages of different kinds.
func (s speaker) letter(n int) string {
	head := fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%d@x>\r\n%s", s.of("Zoe <z@example.test>", "bob@example.test", `"A. B" <a@b>, c@d`),
		s.of("ann@example.test", "Ann <ann@x>, bob@y", "g: a@b;"), s.of("Alpha", "Re: Alpha", "beta", "=?utf-8?q?caf=C3=A9?=", "the e e"),
		fmt.Sprintf(s.of("Mon, 3 Nov 2025 10:%02d:00 +0000", "Sun, 2 Nov 2003 10:%02d:00 -0500", "Mon, 3 Nov 2025 23:%02d:00 +0100"), n), n,
		s.of("", "References: <1@x>\r\n", "In-Reply-To: <2@x>\r\n", "Cc: a@example.test\r\n", "Received: from a by b; Mon, 3 Nov 2025 10:00:00 +0000\r\n"))
	mixed := func(parts ...string) string {
		return "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\nprologue\r\n--b\r\n" + strings.Join(parts, "\r\n--b\r\n") + "\r\n--b--\r\n"
	}
	return head + s.of("\r\nthe text\r\n", "\r\n", "\r\n.\r\n..\r\n", "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\ndGhlIGJhc2U2NCB0ZXh0\r\n",
		"Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>a=3Db=\r\n the</p>\r\n",
		mixed("\r\none", "Content-Type: image/png; name=\"x.png\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=x.png\r\n\r\niVBORw0KGgo="),
		mixed("Content-Type: text/plain\r\n\r\nthe first", "Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nFrom: i@n\r\n\r\nthe inner"),
		mixed("\r\nfirst", "Content-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n\r\nplain\r\n--c\r\nContent-Type: text/html\r\n\r\n<b>the</b>\r\n--c--\r\nepilogue"))
}

var (
	dovecotTag   = regexp.MustCompile(`TAG "\w+"`)
	dovecotNoise = regexp.MustCompile(`^\* (OK |NO |\d+ RECENT|FLAGS)|^\* \d+ FETCH \((UID \d+)?\)$`)
	inboxName    = regexp.MustCompile(`(?i)^"?inbox\b`)
	copyUID      = regexp.MustCompile(`COPYUID \d+`)
	responseCode = regexp.MustCompile(`^(OK|NO|BAD)( \[(COPYUID \d+ [^ ]+ [^ ]+|EXPUNGEISSUED|TRYCREATE|BADCHARSET))?`)
)

// alike brings what both say into a form in which what does not matter is alike: UIDVALIDITY, \Recent, the
// order of flags and of a FETCH's items, the case of a structure.
func alike(lines []string, status string) []string {
	var out []string
	for _, l := range lines {
		l = notRecent(l)
		if dovecotNoise.MatchString(l) {
			continue
		}
		if rest, ok := strings.CutPrefix(l, "* "); ok && strings.Contains(l, " FETCH (") {
			n, rest, _ := strings.Cut(rest, " FETCH ")
			l = "* " + n + " FETCH " + sortedItems(rest)
		}
		if rest, ok := strings.CutPrefix(l, "* STATUS "); ok {
			items := strings.Fields(inboxName.ReplaceAllString(strings.NewReplacer("(", " ", ")", " ", `"`, "").Replace(rest), "INBOX"))
			slices.Sort(items)
			l = "* STATUS " + strings.Join(items, " ")
		}
		if kind, rest, ok := strings.Cut(l, " ("); ok && (kind == "* LIST" || kind == "* LSUB") {
			attributes, name, _ := strings.Cut(rest, ") ")
			// Of a parent that is gone, or whose name is, Dovecot may go on saying that it is there.
			l = fmt.Sprintf("%s %v %s", kind, strings.Contains(attributes, `\Subscribed`), strings.ReplaceAll(name, `"`, ""))
		}
		out = append(out, strings.TrimRight(dovecotTag.ReplaceAllString(l, "TAG"), " "))
	}
	code := copyUID.ReplaceAllString(responseCode.FindString(status), "COPYUID")
	return append(out, code)
}

// sortedItems sorts a FETCH's items, and the flags among them.
func sortedItems(list string) string {
	items := split(list[1:])
	var pairs []string
	for i := 0; i+1 < len(items); i += 2 {
		name, value := items[i], items[i+1]
		switch {
		case name == "FLAGS":
			flags := strings.Fields(strings.Trim(value, "()"))
			slices.Sort(flags)
			value = strings.Join(flags, " ")
		case name == "BODYSTRUCTURE", name == "BODY", name == "ENVELOPE":
			value = strings.ToLower(value)
		case name == "INTERNALDATE":
			value = strings.Replace(value, `" `, `"0`, 1)
		}
		pairs = append(pairs, strings.ToUpper(name)+"="+value)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, " ")
}

// split takes the items of a list apart, up to its end. A string is without what it was written with.
func split(s string) (items []string) {
	for len(s) > 0 && s[0] != ')' {
		item, rest := one(s)
		items = append(items, item)
		s = strings.TrimLeft(rest, " ")
	}
	return items
}

func one(s string) (item, rest string) {
	switch {
	case s[0] == '(':
		depth, at := 0, s
		for len(at) > 0 {
			switch at[0] {
			case '(':
				depth++
				at, item = at[1:], item+"("
			case ')':
				depth--
				at, item = at[1:], item+")"
			case ' ':
				at, item = at[1:], item+" "
			default:
				var word string
				word, at = one(at)
				item += word
			}
			if depth == 0 {
				break
			}
		}
		return item, at
	case s[0] == '"':
		for i := 1; i < len(s); i++ {
			if s[i] == '\\' {
				i++
				item += s[i : i+1]
			} else if s[i] == '"' {
				return `"` + item, s[i+1:]
			} else {
				item += s[i : i+1]
			}
		}
	case s[0] == '{' || strings.HasPrefix(s, "~{"):
		var n int
		length, rest, _ := strings.Cut(strings.TrimPrefix(s, "~"), "}")
		if _, err := fmt.Sscanf(length, "{%d", &n); err == nil && n <= len(rest) {
			return `"` + rest[:n], rest[n:]
		}
	}
	depth := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case depth == 0 && (c == ' ' || c == ')' || c == '('):
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// likeDovecot runs a session of both for each seed.
func likeDovecot(t *testing.T, session func(t *testing.T, s speaker, both []*client)) {
	for seed := *sessionSeed; seed < *sessionSeed+*randomSessions; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			both := []*client{dialDovecot(t), travel(t, newMaildirWorld(t), Limits{}).client}
			session(t, speaker{rand.New(rand.NewPCG(seed, 2))}, both)
		})
	}
}

// saying says a command to both.
func saying(both []*client) func(command string) [2][]string {
	return func(command string) (answers [2][]string) {
		for i, c := range both {
			answers[i] = alike(c.cmd("%s", command))
		}
		return answers
	}
}

// TestLikeDovecot says the same at random to both, about messages, and compares the answers.
func TestLikeDovecot(t *testing.T) {
	likeDovecot(t, func(t *testing.T, s speaker, both []*client) {
		say := saying(both)
		say("CREATE A")
		for n := range 5 {
			text, flags := s.letter(n+1), s.of("", `\Seen`, "kw")
			say(fmt.Sprintf("APPEND INBOX (%s) \"01-Jan-2024 00:00:00 +0000\" {%d+}\r\n%s", flags, len(text), text))
		}
		say("SELECT INBOX")
		var said []string
		for range 30 {
			command := s.command()
			said = append(said, command)
			got := say(command)
			if strings.Contains(command, "STORE ") {
				// Dovecot does not answer with what stays as it is (RFC 9051, Section 6.4.6 wants it).
				stored := say("FETCH 1:* FLAGS")
				for i := range got {
					got[i] = append(got[i][len(got[i])-1:], stored[i]...)
				}
			}
			if !slices.Equal(got[0], got[1]) {
				t.Errorf("%s\n dovecot %q\n ours    %q", strings.Join(said[max(0, len(said)-4):], "\n"), got[0], got[1])
				return
			}
			if len(say("FETCH 1:* UID")[0]) == 1 {
				return
			}
		}
	})
}

// TestLikeDovecotFolders is TestLikeDovecot about folders.
func TestLikeDovecotFolders(t *testing.T) {
	likeDovecot(t, func(t *testing.T, s speaker, both []*client) {
		say := saying(both)
		say("SELECT INBOX") // before that Dovecot has none
		var said []string
		for range 40 {
			command := s.folderCommand()
			if strings.HasPrefix(command, "DELETE ") {
				say("UNSELECT") // it would end with the selected folder
			}
			said = append(said, command)
			got := say(command)
			for i := range got {
				slices.Sort(got[i])
			}
			if !slices.Equal(got[0], got[1]) {
				t.Errorf("%s\n dovecot %q\n ours    %q", strings.Join(said, "\n"), got[0], got[1])
				return
			}
		}
	})
}
