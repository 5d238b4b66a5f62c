package imap

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	messageModSeq = regexp.MustCompile(`^\* (\d+) FETCH .*MODSEQ \((\d+)\)`)
	anyModSeq     = regexp.MustCompile(`MODSEQ \(?\d+\)?`)
	modSeqOf      = regexp.MustCompile(`#\d`)
)

// condstoreCommand is about mod-sequences; "#2" stands for that of message 2. Dovecot panics at VANISHED of a
// set that is none, so that there is none with it.
func (s speaker) condstoreCommand() string {
	uid, of := s.of("", "UID "), s.of("#1", "#2", "#3", "#4")
	switch s.IntN(9) {
	case 0:
		return uid + "STORE " + s.set() + " (UNCHANGEDSINCE " + of + ") " + s.of("+", "-", "") + s.of("FLAGS", "FLAGS.SILENT") + " (" + s.of(`\Seen`, "kw", `\Deleted`) + ")"
	case 1:
		return uid + "FETCH " + s.set() + " (FLAGS) (CHANGEDSINCE " + of + ")"
	case 2:
		return "UID FETCH " + s.of("1:*", "2:3", "*", "9:*") + " (FLAGS) (CHANGEDSINCE " + of + " VANISHED)"
	case 3:
		return uid + "SEARCH " + s.of("", "RETURN ("+s.of("ALL", "COUNT", "MIN", "MAX")+") ") + "MODSEQ " + of + s.of("", " SEEN")
	case 4:
		return "STATUS " + s.of("A", "INBOX") + " (MESSAGES HIGHESTMODSEQ)"
	case 5:
		return uid + "SORT (ARRIVAL) UTF-8 MODSEQ " + of
	}
	return s.of(`UID STORE 1:3 +FLAGS.SILENT (\Deleted)`, "EXPUNGE", "UID STORE 2 -FLAGS (x1)", "UID EXPUNGE 1:3", "NOOP", "UID MOVE 4 A")
}

// modSeqs says a command with the mod-sequences that messages have at this server, and gives the answers
// without any.
func (c *client) modSeqs(command string) (lines []string, status string) {
	c.t.Helper()
	said := command
	if modSeqOf.MatchString(command) {
		known := make(map[string]string)
		for _, l := range c.ok("FETCH 1:* MODSEQ") {
			if m := messageModSeq.FindStringSubmatch(l); m != nil {
				known["#"+m[1]] = m[2]
			}
		}
		said = modSeqOf.ReplaceAllStringFunc(command, func(of string) string {
			if m, ok := known[of]; ok {
				return m
			}
			return "1"
		})
	}
	lines, status = c.cmd("%s", said)
	if strings.Contains(said, "STORE ") {
		lines = c.ok("FETCH 1:* FLAGS") // see TestLikeDovecot
		if _, refused, ok := strings.Cut(status, "[MODIFIED "); ok {
			lines = append(lines, "* MODIFIED "+refused[:strings.IndexByte(refused, ']')])
		}
	}
	for i := range lines {
		lines[i] = anyModSeq.ReplaceAllString(lines[i], "MODSEQ n")
	}
	return lines, status
}

// TestLikeDovecotCondstore is TestLikeDovecot about mod-sequences (RFC 7162).
func TestLikeDovecotCondstore(t *testing.T) {
	likeDovecot(t, func(t *testing.T, s speaker, both []*client) {
		say := func(command string) (answers [2][]string) {
			for i, c := range both {
				answers[i] = alike(c.modSeqs(command))
			}
			return answers
		}
		say("ENABLE " + s.of("QRESYNC", "CONDSTORE"))
		say("CREATE A")
		for n := range 5 {
			text := s.letter(n + 1)
			say(fmt.Sprintf("APPEND INBOX (%s) {%d+}\r\n%s", s.of("", `\Seen`, "kw"), len(text), text))
		}
		say("SELECT INBOX")
		for i := range 4 {
			say(fmt.Sprintf("STORE %d +FLAGS (x%d)", i+1, i))
		}
		var said []string
		for range 30 {
			command := s.condstoreCommand()
			said = append(said, command)
			if got := say(command); !slices.Equal(got[0], got[1]) {
				t.Errorf("%s\n dovecot %q\n ours    %q", strings.Join(said, "\n"), got[0], got[1])
				return
			}
			if len(say("FETCH 1:* UID")[0]) == 1 {
				return
			}
		}
	})
}
