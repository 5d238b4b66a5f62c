package pop3

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"waypost/backend/link/linktest"
	"waypost/internal/dovecottest"
	"waypost/internal/testmail"
)

// Which random sessions TestLikeDovecot has: other ones from another seed on. They are the same each time.
var (
	dropSeed    = flag.Uint64("dovecot.seed", 1, "the first of the random maildrops compared with Dovecot's")
	randomDrops = flag.Uint64("dovecot.drops", 15, "how many of them there are")
)

// dovecotDrop is a maildrop of Dovecot's with these messages.
func dovecotDrop(t *testing.T, messages []string) *dovecottest.Home {
	t.Helper()
	home := dovecottest.New(t, "pop3")
	for i, text := range messages {
		home.Write(fmt.Sprintf("Maildir/new/%d.M1P1.host", 1700000000+i), []byte(text))
	}
	return home
}

func dialDovecot(t *testing.T, home *dovecottest.Home) *dialogue {
	t.Helper()
	client, wait := home.Begin("pop3") // nothing greets here
	return &dialogue{Dialogue: linktest.NewDialogue(t, client), cancel: func() {}, end: func() error { wait(); return nil }}
}

// hangUp ends a session that has had its QUIT, or has none.
func (d *dialogue) hangUp() {
	d.Conn.Close()
	_ = d.end() // a client that hangs up is an error to some
}

// say gives the lines of an answer.
func (d *dialogue) say(command string) []string {
	d.Helper()
	d.Send(command + "\r\n")
	out := []string{d.Line()}
	name, rest, _ := strings.Cut(command, " ")
	listing := slices.Contains([]string{"LIST", "UIDL"}, name) && strings.Trim(rest, " ") == ""
	if !strings.HasPrefix(out[0], "+OK") || !listing && !slices.Contains([]string{"RETR", "TOP", "CAPA"}, name) {
		return out
	}
	for out[len(out)-1] != ".\r\n" {
		out = append(out, d.Line())
	}
	return out
}

var firstNumbers = regexp.MustCompile(`^\+OK( \d+ \d+)?`)

// alike is of an answer what both must say: the words behind +OK and -ERR, the capabilities
// and the unique ids are each one's own.
func alike(command string, answer []string) []string {
	status := answer[0][:3]
	switch name, _, _ := strings.Cut(command, " "); {
	case status != "+OK" || name == "CAPA":
		return []string{status}
	case name == "UIDL":
		out := []string{status}
		for _, l := range answer[1:] {
			number, _, _ := strings.Cut(l, " ")
			out = append(out, number)
		}
		return out
	case name == "STAT", name == "LIST":
		return append([]string{firstNumbers.FindString(answer[0])}, answer[1:]...)
	}
	return append([]string{status}, answer[1:]...)
}

// user says commands at random. It leaves out what Dovecot lets pass, arguments where none belong, and a space
// before a command, which only we do.
type user struct{ *rand.Rand }

func (u user) of(words ...string) string { return words[u.IntN(len(words))] }

func (u user) command() string {
	number := u.of("1", "2", "3", "4", "5", "6", "7", "0", "-1", "x", "", "99999999999", "1 1", "01", "+1", " 2")
	return u.of("STAT", "LIST", "LIST "+number, "RETR "+number, "DELE "+number, "DELE "+number, "RSET", "TOP 1", "NOOP", "UIDL", "UIDL "+number,
		"TOP "+number+" "+u.of("0", "1", "5", "999999", "-1", "x", "1 1"), "CAPA", "NOPE", "")
}

// messages are some of the corpus, and short ones about lines and dots; none begins with a dot, which Dovecot
// does not double there.
func (u user) messages(corpus []testmail.Message) []string {
	var all []string
	for range 4 {
		text := corpus[u.IntN(len(corpus))].Body
		if u.IntN(3) > 0 {
			text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
		}
		if len(text) < 100_000 {
			all = append(all, string(text))
		}
	}
	return append(all, u.of("Subject: x", "Subject: x\n\n.", "a: b\n\n\n.\n", "\nbody\n", "a: b\n\n..\n.x\n\n", "a: b\r\nc: d\r\n\r\n.x\r\ny"), u.of("a: b\n\n", "a: b\n\n\n\nx\n"))
}

// TestLikeDovecot says the same at random to both, in several sessions of one maildrop, and compares the answers.
func TestLikeDovecot(t *testing.T) {
	corpus, _, err := testmail.Load(t.TempDir(), 500)
	if err != nil {
		t.Fatal(err)
	}
	for seed := *dropSeed; seed < *dropSeed+*randomDrops; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			u := user{rand.New(rand.NewPCG(seed, 3))}
			messages := u.messages(corpus)
			theirs, store := dovecotDrop(t, messages), drop(t, messages...)
			for range 3 {
				both := []*dialogue{dialDovecot(t, theirs), serve(t, Options{}, open(t, store, 7))}
				var said []string
				compare := func(command string) {
					said = append(said, command)
					one, other := alike(command, both[0].say(command)), alike(command, both[1].say(command))
					if !slices.Equal(one, other) {
						t.Errorf("%q\n dovecot %.2000q\n ours    %.2000q", said[max(0, len(said)-5):], one, other)
					}
				}
				for range 25 {
					compare(u.command())
				}
				compare("LIST")
				if u.IntN(10) < 7 {
					compare("QUIT")
				}
				for _, d := range both {
					d.hangUp()
				}
			}
		})
	}
}
