package imap

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"waypost/backend/mailbox"
)

// trap fences the mailbox at the n-th operation on it.
type trap struct {
	left   atomic.Int64
	spring func()
}

func (t *trap) step() {
	if t.left.Add(-1) == 0 {
		t.spring()
	}
}

type trapBox struct {
	mailbox.Box
	t *trap
}

func (b trapBox) Folder(name string) (mailbox.Folder, error) {
	b.t.step()
	f, err := b.Box.Folder(name)
	return trapFolder{f, b.t}, err
}

func (b trapBox) Folders() ([]mailbox.FolderInfo, error) {
	b.t.step()
	return b.Box.Folders()
}

func (b trapBox) Rights(name string) (mailbox.Rights, error) {
	b.t.step()
	return b.Box.Rights(name)
}

func (b trapBox) Append(folder string, all []mailbox.NewMessage) (mailbox.AppendResult, error) {
	b.t.step()
	return b.Box.Append(folder, all)
}

func (b trapBox) RenameFolder(from, to string) error {
	b.t.step()
	return b.Box.RenameFolder(from, to)
}

func (b trapBox) DeleteFolder(name string) error {
	b.t.step()
	return b.Box.DeleteFolder(name)
}

type trapFolder struct {
	mailbox.Folder
	t *trap
}

func (f trapFolder) Snapshot() (mailbox.Snapshot, error) {
	f.t.step()
	return f.Folder.Snapshot()
}

func (f trapFolder) Status() (mailbox.Status, error) {
	f.t.step()
	return f.Folder.Status()
}

func (f trapFolder) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	f.t.step()
	return f.Folder.Meta(uid)
}

func (f trapFolder) Open(uid mailbox.UID) (mailbox.Body, error) {
	f.t.step()
	return f.Folder.Open(uid)
}

func (f trapFolder) SetFlags(uids []mailbox.UID, c mailbox.FlagChange) (mailbox.FlagResult, error) {
	f.t.step()
	return f.Folder.SetFlags(uids, c)
}

func (f trapFolder) ExpungedSince(modSeq uint64) ([]mailbox.UIDRange, bool, error) {
	f.t.step()
	return f.Folder.ExpungedSince(modSeq)
}

func (f trapFolder) Expunge(uids []mailbox.UID) ([]mailbox.UID, error) {
	f.t.step()
	return f.Folder.Expunge(uids)
}

func (f trapFolder) ExpungeDeleted(uids []mailbox.UID) ([]mailbox.UID, error) {
	f.t.step()
	return f.Folder.ExpungeDeleted(uids)
}

func (f trapFolder) Copy(uids []mailbox.UID, to string) (mailbox.CopyResult, error) {
	f.t.step()
	return f.Folder.Copy(uids, to)
}

func (f trapFolder) Move(uids []mailbox.UID, to string) (mailbox.CopyResult, error) {
	f.t.step()
	return f.Folder.Move(uids, to)
}

// TestHandOffCuts fences the mailbox at each operation of each command: the command's answers, those
// before and those behind the hand-off together, are those of one that was not cut, and it has done
// once what it does.
func TestHandOffCuts(t *testing.T) {
	body := "(BODY[] {" + fmt.Sprint(len(letter)) + "}" + letter + ")"
	for _, x := range []struct {
		command string
		// want are untagged responses, and no others but for those of states and numbers.
		want []string
		// inbox and other are how many messages there are in the end.
		inbox, other int
		midway       bool // it may end the session
	}{
		{"FETCH 2:4 (BODY.PEEK[])", []string{"* 2 FETCH " + body, "* 3 FETCH " + body, "* 4 FETCH " + body}, 5, 1, false},
		{"FETCH 1:3 (BODY[])", []string{"* 1 FETCH " + body, "* 2 FETCH " + body, "* 3 FETCH " + body}, 5, 1, false},
		{"UID FETCH 2:3 (FLAGS) (CHANGEDSINCE 1)", nil, 5, 1, false},
		{"SEARCH TEXT world", []string{"* SEARCH 1 2 3 4 5"}, 5, 1, false},
		{"SEARCH RETURN (SAVE COUNT) TEXT world", []string{`* ESEARCH (TAG "x") COUNT 5`}, 5, 1, false},
		{"UID SORT (SUBJECT) UTF-8 ALL", []string{"* SORT 1 2 3 4 5"}, 5, 1, false},
		{"STORE 2:3 +FLAGS (\\Deleted)", []string{`* 2 FETCH (FLAGS (\Deleted))`, `* 3 FETCH (FLAGS (\Deleted))`}, 5, 1, false},
		{"STORE 2:3 +FLAGS.SILENT (\\Deleted)", nil, 5, 1, false},
		{"EXPUNGE", nil, 4, 1, false},
		{"CLOSE", nil, 4, 1, false},
		{"COPY 1:2 Else", nil, 5, 3, false},
		{"MOVE 1:2 Else", []string{"* OK [COPYUID"}, 3, 3, false},
		{"APPEND Else {3+}\r\nabc {3+}\r\ndef", nil, 5, 3, false},
		{"APPEND Else CATENATE (URL \"/INBOX/;UID=1\" TEXT {1+}\r\nx)", nil, 5, 2, false},
		{"REPLACE 1 Else {3+}\r\nabc", []string{"* OK [APPENDUID"}, 4, 2, true},
		{"LIST \"\" * RETURN (STATUS (MESSAGES))", []string{`* LIST (\HasNoChildren) "/" INBOX`, "* STATUS INBOX (MESSAGES 5)",
			`* LIST (\HasNoChildren) "/" Else`, "* STATUS Else (MESSAGES 1)"}, 5, 1, false},
		{"STATUS Else (MESSAGES)", []string{"* STATUS Else (MESSAGES 1)"}, 5, 1, false},
		{"SELECT Else", nil, 5, 1, false},
		{"CREATE New", nil, 5, 1, false},
		{"DELETE Else", nil, 5, -1, false},
		{"RENAME INBOX New", nil, 0, 1, false},
		{"NOOP", nil, 5, 1, false},
		{"RENAME Else New", nil, 5, -1, false},
	} {
		t.Run(strings.ReplaceAll(x.command[:min(len(x.command), 20)], " ", "_"), func(t *testing.T) {
			for n := int64(1); ; n++ {
				w := newMemoryWorld(t)
				five(t, w)
				b := w.box()
				setFlags(t, b, "INBOX", 4, mailbox.Deleted)
				b.Close()
				tr := travel(t, w, Limits{})
				tp := &trap{spring: w.freeze}
				tr.wrap = func(b mailbox.Box) mailbox.Box { return trapBox{b, tp} }
				// Anew, behind the trap.
				tr.hop(nil)
				if strings.HasPrefix(x.command, "RENAME Else") {
					tr.ok("SELECT Else") // what is selected goes along
				} else {
					tr.ok("SELECT INBOX")
				}
				tp.left.Store(n)
				tr.wrap = nil
				on := tr.follow(t)
				tr.send("x %s\r\n", x.command)
				got, st := tr.untilOrBye("x")
				if tp.left.Load() > 0 {
					t.Logf("cut at %d operations", n-1)
					if n == 1 {
						t.Error("never cut")
					}
					break
				}
				if went := <-on; !went {
					if !x.midway || !strings.HasPrefix(st, "* BYE [UNAVAILABLE]") {
						t.Errorf("cut at %d: not handed off: %s", n, st)
					}
					continue
				}
				if !strings.HasPrefix(st, "OK") {
					t.Errorf("cut at %d: %s", n, st)
				}
				tr.hasTold(t, n, got, x.want)
				tr.holds(t, w, x.inbox, x.other)
				tr.isTrue(t, n)
			}
		})
	}
}

// hasTold wants these responses once each, and beside them only what tells of states and
// numbers. The last word may be left out.
func (tr *traveller) hasTold(t *testing.T, n int64, got, want []string) {
	t.Helper()
	got = withoutRecent(got)
	for _, l := range want {
		is := func(g string) bool {
			return g == l || strings.HasPrefix(g, l) && strings.HasPrefix(l, "* OK") || withoutFlags(g) == l
		}
		i := slices.IndexFunc(got, is)
		if i < 0 {
			t.Errorf("cut at %d: no %q in %q", n, l, got)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	for _, l := range got {
		if !strings.Contains(l, "FETCH (") && !strings.HasSuffix(l, "EXISTS") && !strings.HasSuffix(l, "EXPUNGE") && !strings.HasPrefix(l, "* FLAGS") &&
			!strings.HasPrefix(l, "* OK") || strings.Contains(l, "BODY") {
			t.Errorf("cut at %d: unexpected %q", n, l)
		}
	}
}

// withoutFlags takes a trailing FLAGS out of a FETCH.
func withoutFlags(l string) string {
	i := strings.LastIndex(l, " FLAGS (")
	if i < 0 || !strings.HasSuffix(l, "))") {
		return l
	}
	return l[:i] + ")"
}

// follow takes the session on to the next place as soon as this one has ended, and tells when it
// has: false, where the session ended with it.
func (tr *traveller) follow(t *testing.T) <-chan bool {
	on := make(chan bool, 1)
	go func() {
		if err := tr.ended(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		select {
		case state := <-tr.leg.handed:
			tr.w.move()
			if err := tr.begin(state); err != nil {
				t.Errorf("not resumed: %v", err)
			}
			on <- true
		default:
			on <- false
		}
	}()
	return on
}

// followAll is follow for all sessions of a mailbox.
func followAll(t testing.TB, w world, all []*traveller) <-chan struct{} {
	on := make(chan struct{})
	go func() {
		defer close(on)
		var states [][]byte
		for _, tr := range all {
			if err := tr.ended(); err != nil {
				t.Errorf("Serve: %v", err)
			}
			select {
			case state := <-tr.leg.handed:
				states = append(states, state)
			default:
				t.Errorf("not handed off")
				return
			}
		}
		w.move()
		for i, tr := range all {
			if err := tr.begin(states[i]); err != nil {
				t.Errorf("not resumed: %v", err)
			}
		}
	}()
	return on
}

// holds wants so many messages, −1: no folder, and that the client's numbers are the truth.
func (tr *traveller) holds(t *testing.T, w world, inbox, other int) {
	t.Helper()
	b := w.box()
	defer b.Close()
	for name, want := range map[string]int{"INBOX": inbox, "Else": other} {
		f, err := b.Folder(name)
		if err != nil {
			if want >= 0 {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if st, err := f.Status(); err != nil || st.Messages != want {
			t.Errorf("%s has %d messages (%v), want %d", name, st.Messages, err, want)
		}
	}
}

// untilOrBye is until, or up to a BYE.
func (tr *traveller) untilOrBye(tag string) (untagged []string, status string) {
	tr.t.Helper()
	for {
		l := tr.line()
		if rest, ok := strings.CutPrefix(l, tag+" "); ok {
			return untagged, rest
		}
		if strings.HasPrefix(l, "* BYE") || l == "EOF" {
			return untagged, l
		}
		untagged = append(untagged, l)
	}
}

// isTrue selects INBOX anew if it is not selected, and compares its flags.
func (tr *traveller) isTrue(t *testing.T, n int64) {
	t.Helper()
	tr.ok("NOOP")
	got, st := tr.cmd("FETCH 1:* (UID FLAGS)")
	if strings.HasPrefix(st, "BAD") {
		return // nothing is selected any more
	}
	b := tr.w.box()
	defer b.Close()
	for _, name := range []string{"INBOX", "Else", "New"} {
		f, err := b.Folder(name)
		if err != nil {
			continue
		}
		snap, err := f.Snapshot()
		must(t, err)
		var want []string
		for i, m := range snap.Messages.All() {
			want = append(want, fmt.Sprintf("* %d FETCH (UID %d FLAGS (%s))", i+1, m.UID, words(m.Flags)))
		}
		for i := range got {
			got[i] = strings.ReplaceAll(notRecent(got[i]), "( ", "(")
		}
		if slices.Equal(got, want) {
			return
		}
	}
	t.Errorf("cut at %d: %q is no folder's content", n, got)
}
