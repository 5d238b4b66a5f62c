package imap

import (
	"fmt"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// somebody is what happens to INBOX, of five messages, meanwhile: the first and the fourth go,
// the second is flagged, one comes.
func somebody(t testing.TB, w world) func(mailbox.Box) {
	return func(b mailbox.Box) {
		expunge(t, b, "INBOX", 1, 4)
		setFlags(t, b, "INBOX", 2, mailbox.Flagged)
		put(t, w, b, "INBOX", letter)
	}
}

// news are the responses that tell of it.
func somebodysNews() []string {
	return []string{"* 4 EXPUNGE", "* 1 EXPUNGE", "* 4 EXISTS", `* 1 FETCH (UID 2 FLAGS (\Flagged))`}
}

// withoutRecent leaves the RECENT responses out, and \Recent: what is recent depends on who
// looked first.
func withoutRecent(lines []string) []string {
	var out []string
	for _, l := range lines {
		if !strings.HasSuffix(l, " RECENT") {
			out = append(out, notRecent(l))
		}
	}
	return out
}

func notRecent(l string) string {
	return strings.ReplaceAll(strings.ReplaceAll(l, ` \Recent`, ""), `\Recent`, "")
}

// heard is next, RECENT apart.
func (tr *traveller) heard(want ...string) {
	tr.t.Helper()
	for _, w := range want {
		l := tr.line()
		for strings.HasSuffix(l, " RECENT") {
			l = tr.line()
		}
		if notRecent(l) != w {
			tr.t.Fatalf("got %q, want %q", l, w)
		}
	}
}

// told wants these untagged responses, RECENT apart.
func (tr *traveller) told(command, status string, want ...string) {
	tr.t.Helper()
	got, st := tr.cmd("%s", command)
	got = withoutRecent(got)
	if !strings.HasPrefix(st, status) || strings.Join(got, "\n") != strings.Join(want, "\n") {
		tr.t.Errorf("%s\n got: %s\n%s\nwant: %s\n%s", command, st, strings.Join(got, "\n"), status, strings.Join(want, "\n"))
	}
}

// five is a world with five messages in INBOX, and a folder Else with one.
func five(t testing.TB, w world) {
	b := w.box()
	defer b.Close()
	put(t, w, b, "INBOX", letter, letter, letter, letter, letter)
	must(t, b.CreateFolder("Else", ""))
	put(t, w, b, "Else", letter)
}

// carriedState is a state that a session can be in.
type carriedState struct {
	name string
	// enter makes the state, go on is behind the hand-off.
	enter, goOn func(*traveller)
	// busy: a command is under way.
	busy bool
}

func carriedStates() []carriedState {
	flagged := `* 1 FETCH (UID 2 FLAGS (\Flagged))`
	return []carriedState{
		{"authenticated", func(tr *traveller) { tr.ok("NOOP") }, func(tr *traveller) {
			tr.want("NOOP", "OK")
			tr.want("FETCH 1 UID", "BAD")
			tr.ok("SELECT INBOX")
		}, false},
		{"selected", func(tr *traveller) { tr.ok("SELECT INBOX") }, func(tr *traveller) {
			tr.told("NOOP", "OK", somebodysNews()...)
			tr.told("FETCH 1:* UID", "OK", "* 1 FETCH (UID 2)", "* 2 FETCH (UID 3)", "* 3 FETCH (UID 5)", "* 4 FETCH (UID 6)")
			tr.told("STORE 2 +FLAGS (\\Seen)", "OK", `* 2 FETCH (FLAGS (\Seen))`)
			tr.told("NOOP", "OK")
		}, false},
		{"numbers stay", func(tr *traveller) { tr.ok("SELECT INBOX") }, func(tr *traveller) {
			// No EXPUNGE in the answer to a FETCH: the numbers are those of before.
			tr.told("FETCH 2:5 (UID FLAGS)", "NO [EXPUNGEISSUED]", `* 2 FETCH (UID 2 FLAGS (\Flagged))`, `* 3 FETCH (UID 3 FLAGS ())`,
				`* 5 FETCH (UID 5 FLAGS ())`, "* 6 EXISTS", `* 2 FETCH (UID 2 FLAGS (\Flagged))`)
			tr.told("FETCH 6 UID", "OK", "* 6 FETCH (UID 6)")
			tr.told("SEARCH FLAGGED", "OK", "* SEARCH 2")
			tr.told("NOOP", "OK", "* 4 EXPUNGE", "* 1 EXPUNGE")
		}, false},
		{"examine", func(tr *traveller) { tr.ok("EXAMINE INBOX") }, func(tr *traveller) {
			tr.told("STORE 2 +FLAGS (\\Seen)", "NO", "* 6 EXISTS", `* 2 FETCH (UID 2 FLAGS (\Flagged))`)
			tr.told("NOOP", "OK", "* 4 EXPUNGE", "* 1 EXPUNGE")
		}, false},
		{"idle", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			tr.send("i IDLE\r\n")
			tr.next("+ idling")
		}, func(tr *traveller) {
			tr.heard(somebodysNews()...)
			tr.send("DONE\r\n")
			tr.heard("i OK IDLE completed")
		}, false},
		{"qresync", func(tr *traveller) {
			tr.ok("ENABLE QRESYNC")
			tr.ok("SELECT INBOX")
		}, func(tr *traveller) {
			got := strings.Join(withoutRecent(tr.ok("NOOP")), "\n")
			if !strings.HasPrefix(got, "* VANISHED 1,4\n* 4 EXISTS\n") || !strings.Contains(got, `* 1 FETCH (UID 2 FLAGS (\Flagged) MODSEQ (`) {
				tr.t.Errorf("%s", got)
			}
		}, false},
		{"uidonly, utf8, rev2", func(tr *traveller) {
			tr.ok("ENABLE UIDONLY UTF8=ACCEPT IMAP4rev2")
			tr.ok("SELECT INBOX")
		}, func(tr *traveller) {
			tr.told("NOOP", "OK", "* VANISHED 1,4", "* 4 EXISTS", `* 2 UIDFETCH (FLAGS (\Flagged))`)
			tr.told("FETCH 1 UID", "BAD [UIDREQUIRED]")
			tr.told("CREATE \"Gr\xc3\xbc\xc3\x9fe\"", "OK")
			tr.told(`LIST "" Gr*`, "OK", "* LIST (\\HasNoChildren) \"/\" \"Gr\xc3\xbc\xc3\x9fe\"")
		}, false},
		{"saved search", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			tr.ok("SEARCH RETURN (SAVE) 2:4")
		}, func(tr *traveller) {
			tr.told("NOOP", "OK", somebodysNews()...)
			tr.told("FETCH $ UID", "OK", "* 1 FETCH (UID 2)", "* 2 FETCH (UID 3)")
		}, false},
		{"live search", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			tr.ok("UID SEARCH RETURN (UPDATE) UNSEEN")
			tr.want("STORE 3 +FLAGS.SILENT (\\Seen)", "OK", `* ESEARCH (TAG "t2") UID REMOVEFROM (0 3)`)
		}, func(tr *traveller) {
			news := somebodysNews()
			tr.told("NOOP", "OK", append(append([]string{`* ESEARCH (TAG "t2") UID REMOVEFROM (0 1,4)`}, news...), `* ESEARCH (TAG "t2") UID ADDTO (0 6)`)...)
			tr.told("STORE 2 -FLAGS.SILENT (\\Seen)", "OK", `* ESEARCH (TAG "t2") UID ADDTO (0 3)`)
		}, false},
		{"untold expunges", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			b := tr.w.box()
			expunge(tr.t.(*testing.T), b, "INBOX", 3)
			b.Close()
			tr.told("FETCH 5 UID", "OK", "* 5 FETCH (UID 5)") // 3 is not told here
		}, func(tr *traveller) {
			tr.told("NOOP", "OK", "* 4 EXPUNGE", "* 3 EXPUNGE", "* 1 EXPUNGE", "* 3 EXISTS", flagged)
		}, false},
		{"own deletion", func(tr *traveller) {
			tr.ok("SELECT Else")
			tr.ok("DELETE Else")
		}, func(tr *traveller) {
			tr.want("FETCH 1 FLAGS", "NO [NONEXISTENT]")
			tr.want("STORE 1 FLAGS ()", "NO [NONEXISTENT]")
			tr.want("SEARCH ALL", "NO [NONEXISTENT]")
			tr.want("EXPUNGE", "NO [NONEXISTENT]")
			tr.want("CLOSE", "OK")
		}, false},
		{"literal that waits", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			tr.send("a APPEND INBOX (\\Seen) {5}\r\n")
			tr.next("+ OK")
			tr.send("ab")
		}, func(tr *traveller) {
			tr.send("cde\r\n")
			tr.appended("a", 7)
		}, true},
		{"literal that does not wait", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			tr.send("a APPEND INBOX (\\Seen) {5+}\r\nabc")
		}, func(tr *traveller) {
			tr.send("de\r\n")
			tr.appended("a", 7)
		}, true},
		{"multiappend", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			tr.send("a APPEND INBOX {3}\r\n")
			tr.next("+ OK")
			tr.send("one (\\Flagged) {3}\r\n")
			tr.next("+ OK")
			tr.send("tw")
		}, func(tr *traveller) {
			tr.send("o {5+}\r\nthree {4}\r\n")
			tr.next("+ OK")
			tr.send("four\r\n")
			tr.appended("a", 10)
		}, true},
		{"pipelined", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			tr.send("a APPEND INBOX {3}\r\n")
			tr.next("+ OK")
		}, func(tr *traveller) {
			tr.send("one\r\nb SEARCH FLAGGED\r\nc CREATE Made\r\nd NOO")
			tr.appended("a", 7)
			if got, st := tr.until("b"); !strings.HasPrefix(st, "OK") || len(got) != 1 {
				tr.t.Errorf("%q %s", got, st)
			}
			if _, st := tr.until("c"); !strings.HasPrefix(st, "OK") {
				tr.t.Errorf("%s", st)
			}
			tr.send("P\r\n")
			if _, st := tr.until("d"); !strings.HasPrefix(st, "OK") {
				tr.t.Errorf("%s", st)
			}
		}, true},
		{"half a line", func(tr *traveller) {
			tr.ok("SELECT INBOX")
			tr.send("a FETCH 2 U")
		}, func(tr *traveller) {
			tr.send("ID\r\n")
			if got, st := tr.until("a"); !strings.HasPrefix(st, "OK") || got[0] != "* 2 FETCH (UID 2)" {
				tr.t.Errorf("%q %s", got, st)
			}
		}, false},
		{"literal in a command", func(tr *traveller) {
			tr.send("a CREATE {3}\r\n")
			tr.next("+ OK")
		}, func(tr *traveller) {
			tr.send("Low\r\n")
			if _, st := tr.until("a"); !strings.HasPrefix(st, "OK") {
				tr.t.Errorf("%s", st)
			}
			tr.told("STATUS Low (MESSAGES)", "OK", "* STATUS Low (MESSAGES 0)")
		}, true},
		{"literal that is passed over", func(tr *traveller) {
			tr.send("a APPEND Nowhere {30+}\r\nz CREATE bad")
			if _, st := tr.until("a"); !strings.HasPrefix(st, "NO [TRYCREATE]") {
				tr.t.Errorf("%s", st)
			}
		}, func(tr *traveller) {
			tr.send("\r\n0123456789012345 {8+}\r\nz NOOP\r\n x\r\n") // answered already
			tr.told(`LIST "" bad`, "OK")
		}, true},
		{"compressed", func(tr *traveller) { tr.ok("ENABLE METADATA") }, func(tr *traveller) {
			tr.told("ENABLE METADATA", "OK", "* ENABLED")
		}, false},
	}
}

// TestHandOffStates hands sessions off in each state that a session can be in, and looks at what
// they tell where they go on.
func TestHandOffStates(t *testing.T) {
	for _, x := range carriedStates() {
		t.Run(x.name, func(t *testing.T) {
			worlds(t, func(t *testing.T, w world) {
				five(t, w)
				tr := travel(t, w, Limits{})
				x.enter(tr)
				tr.hop(somebody(t, w))
				x.goOn(tr)
				// And once more, at rest.
				tr.ok("NOOP")
				tr.hop(nil)
				tr.told("NOOP", "OK")
				if _, st := tr.cmd("LOGOUT"); !strings.HasPrefix(st, "OK") {
					t.Error(st)
				}
			})
		})
	}
}

// appended wants the OK of an APPEND whose last message has that UID.
func (tr *traveller) appended(tag string, last int) {
	tr.t.Helper()
	got, st := tr.until(tag)
	code, _, _ := strings.Cut(st, "]")
	if !strings.HasPrefix(st, "OK [APPENDUID") || !strings.HasSuffix(code, fmt.Sprint(last)) {
		tr.t.Errorf("%q %s", got, st)
	}
	for _, l := range got {
		if strings.HasPrefix(l, "+") {
			tr.t.Errorf("told to go on again: %q", got)
		}
	}
}
