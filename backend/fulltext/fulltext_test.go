package fulltext

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

const deadline = 30 * time.Second

// letter is a message of some words.
func letter(subject, text string) string {
	return "From: bob@example.test\nSubject: " + subject + "\nX-Mailer: Pigeon\n\n" + text + "\n"
}

func filled(t *testing.T, n int) *world {
	t.Helper()
	w := newWorld(t, t.TempDir())
	t.Cleanup(func() { w.close() })
	for i := range n {
		w.append(mailbox.Inbox, letter(fmt.Sprint("number ", i), fmt.Sprintf("some words, of which %c%c%c is one", 'a'+i%26, 'a'+i/26%26, 'q')))
	}
	return w
}

// TestNarrows: what is indexed and cannot match is not read.
func TestNarrows(t *testing.T) {
	w := filled(t, 100)
	w.append(mailbox.Inbox, letter("=?utf-8?q?B=C3=BCro?=", "Grüße aus Köln, 日本語 und Привет"))
	long := strings.Repeat("0123456789 ", maxText/10)
	w.append(mailbox.Inbox, letter("long", long+"needle at the end"))
	for _, c := range []struct {
		keys, want string
		read       int
	}{
		{`BODY "ADQ is"`, "79", 2}, // it, and the long one
		{`TEXT "subject: number 99"`, "100", 2},
		{`BODY "number 99"`, "", 1},
		{`TEXT "büro"`, "101", 2}, {`TEXT "BÜRO"`, "101", 2},
		{`BODY "GRÜßE"`, "101", 2}, {`BODY "本"`, "101", 2}, {`BODY "привет"`, "101", 2},
		{`BODY "end"`, "102", 1}, {`BODY "needle at"`, "102", 1}, {`BODY "nowhere at all"`, "", 1},
		{`NOT BODY "some words"`, "101 102", 101},
		{`OR BODY "bcq" BODY "ccq"`, "54 55", 3},
		{`BODY "aq"`, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26", 102}, // too short
		{`BODY "Ü"`, "101", 2},                                                                     // decomposed it has three bytes
	} {
		w.same(mailbox.Inbox, c.keys) // takes in what is missing
		if answer, read := w.same(mailbox.Inbox, c.keys); answer != c.want || read != c.read {
			t.Errorf("%s: %q after %d messages, want %q after %d", c.keys, answer, read, c.want, c.read)
		}
	}
}

// TestMoves: a move costs nothing, a copy is taken in, an expunge does no harm.
func TestMoves(t *testing.T) {
	w := filled(t, 40)
	w.must(w.box.CreateFolder("Other", ""))
	w.same(mailbox.Inbox, `BODY "aaq"`)
	if got := w.store.taken.Load(); got != 40 {
		t.Fatalf("%d messages taken in", got)
	}
	f, all := w.folder(mailbox.Inbox)
	_, err := f.Move([]mailbox.UID{all.At(0).UID, all.At(1).UID}, "Other")
	w.must(err)
	if answer, read := w.same("Other", `BODY "aaq"`); answer != "1" || read != 1 {
		t.Errorf("after a move: %q, %d messages read", answer, read)
	}
	if got := w.store.taken.Load(); got != 40 {
		t.Errorf("%d messages taken in after a move", got)
	}
	_, err = f.Expunge([]mailbox.UID{all.At(5).UID})
	w.must(err)
	_, err = f.Copy([]mailbox.UID{all.At(6).UID}, "Other")
	w.must(err)
	if answer, _ := w.same("Other", `BODY "gaq"`); answer != "3" {
		t.Errorf("after a copy: %q", answer)
	}
}

// TestWorker: Run takes in what deliveries bring, merges, and drops what is gone.
func TestWorker(t *testing.T) {
	w := filled(t, 3*batchMessages)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.store.Run(ctx, w.worker)
	}()
	for range deliveriesTogether {
		w.store.Delivered(ann, mailbox.Inbox)
	}
	wait(t, func() bool { return w.store.Stats().Taken >= 3*batchMessages })
	stop()
	<-done
	if got := w.index().size(); got != 3*batchMessages {
		t.Errorf("the index has %d messages", got)
	}
	f, all := w.folder(mailbox.Inbox)
	var uids []mailbox.UID
	for _, m := range all.From(10) {
		uids = append(uids, m.UID)
	}
	_, err := f.Expunge(uids)
	w.must(err)
	w.must(w.store.sweep(t.Context(), w.box, w.index()))
	if got := w.index().size(); got != 10 {
		t.Errorf("after a sweep the index has %d messages", got)
	}
	w.restart()
	if answer, read := w.same(mailbox.Inbox, `BODY "caq is"`); answer != "3" || read != 1 || w.store.Stats().Taken != 0 {
		t.Errorf("after a sweep and a restart: %q, %d read, %d taken in", answer, read, w.store.Stats().Taken)
	}
}

func wait(t *testing.T, until func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(deadline)
	for !until() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("waited in vain")
		}
	}
}

// TestCompact: many small segments become few, and the answers stay.
func TestCompact(t *testing.T) {
	w := filled(t, 0)
	for i := range 3 * mergeOf {
		w.append(mailbox.Inbox, letter("x", fmt.Sprintf("word%dword", i)))
		w.same(mailbox.Inbox, `BODY "nothing like this"`)
	}
	if n := len(w.segments()); n != 3*mergeOf {
		t.Fatalf("%d segments", n)
	}
	w.must(w.index().compact())
	if n := len(w.segments()); n >= mergeOf {
		t.Errorf("%d segments after merging", n)
	}
	for range 2 {
		if answer, read := w.same(mailbox.Inbox, `BODY "word7word"`); answer != "8" || read != 1 {
			t.Errorf("after merging: %q, %d read", answer, read)
		}
		w.restart()
	}
}

// TestDamage: whatever happens to the files, the answers stay, and the index comes back.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"cut off":     func(p string) error { return os.Truncate(p, 100) },
		"empty":       func(p string) error { return os.Truncate(p, 0) },
		"gone":        os.Remove,
		"a directory": func(p string) error { return errorsJoin(os.Remove(p), os.Mkdir(p, 0o700)) },
		"a bit": func(p string) error {
			b, err := os.ReadFile(p)
			if err == nil {
				b[len(b)/2] ^= 4
				err = os.WriteFile(p, b, 0o600)
			}
			return err
		},
		"another format": func(p string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(p), formatName), []byte("0"), 0o600)
		},
		"litter": func(p string) error {
			return os.WriteFile(strings.TrimSuffix(p, segmentSuffix)+"9"+tempSuffix, []byte("0"), 0o600)
		},
		"twice": func(p string) error {
			b, err := os.ReadFile(p)
			return errorsJoin(err, os.WriteFile(filepath.Join(filepath.Dir(p), "77"+segmentSuffix), b, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := filled(t, 30)
			w.same(mailbox.Inbox, `BODY "caq"`)
			w.lease.Release()
			w.store.Close()
			w.must(damage(w.segments()[0]))
			w.start()
			w.same(mailbox.Inbox, `BODY "caq"`)
			if answer, read := w.same(mailbox.Inbox, `BODY "caq is"`); answer != "3" || read != 1 {
				t.Errorf("%q, %d read", answer, read)
			}
		})
	}
}

func errorsJoin(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// TestFull: a full disk makes no index, and no wrong answers.
func TestFull(t *testing.T) {
	w := filled(t, 10)
	w.full = true
	if answer, read := w.same(mailbox.Inbox, `BODY "caq is"`); answer != "3" || read != 10 {
		t.Errorf("%q, %d read", answer, read)
	}
	if n := len(w.segments()); n != 0 {
		t.Errorf("%d segments", n)
	}
}

// TestRevoke: a Lease of before does nothing any more; files stay as they are.
func TestRevoke(t *testing.T) {
	w := filled(t, 10)
	w.same(mailbox.Inbox, `BODY "caq is"`)
	w.store.Revoke(ann)
	w.append(mailbox.Inbox, letter("x", "one more"))
	if answer, read := w.same(mailbox.Inbox, `BODY "one more"`); answer != "11" || read != 11 {
		t.Errorf("%q, %d read", answer, read)
	}
	if n := len(w.segments()); n != 1 {
		t.Errorf("%d segments", n)
	}
	w.lease.Release()
	w.lease = w.store.Lease(ann, w.root)
	if answer, read := w.same(mailbox.Inbox, `BODY "one more"`); answer != "11" || read != 1 {
		t.Errorf("a new lease: %q, %d read", answer, read)
	}
}

// TestNobody: a folder of a user that is gone is not made again.
func TestNobody(t *testing.T) {
	w := filled(t, 3)
	w.must(os.RemoveAll(w.root))
	w.same(mailbox.Inbox, `BODY "caq is"`)
	if _, err := os.Lstat(w.root); err == nil {
		t.Error("the user's folder was made")
	}
}

// TestMaxOpen: at most so many are open, and Stats tells.
func TestMaxOpen(t *testing.T) {
	w := filled(t, 3)
	w.store.o.MaxOpen = 2
	for i := range 5 {
		root := filepath.Join(t.TempDir(), "u")
		w.must(os.MkdirAll(root, 0o700))
		l := w.store.Lease(director.User(fmt.Sprint(i, "@example.test")), root)
		defer l.Release()
		f, all := w.folder(mailbox.Inbox)
		if _, ok := l.Candidates(t.Context(), f, all, "CAQ", true); !ok {
			t.Error("no answer")
		}
	}
	if n := w.store.Stats().Open; n > 2 {
		t.Errorf("%d indexes are open", n)
	}
	w.store.closeIdle(time.Now().Add(time.Hour))
	if n := w.store.Stats().Open; n != 0 {
		t.Errorf("%d indexes are open when idle", n)
	}
}
