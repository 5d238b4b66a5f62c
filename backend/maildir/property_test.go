package maildir

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/mailbox"
)

// action is one step of a worker; n chooses what it works on.
type action struct{ what, n int }

const (
	doDeliver = iota
	doAppend
	doFlag
	doKeyword
	doExpunge
	doCopy
	doMove
	doLook
	doReopenBox
	actionCount
)

// ledger is what the workers know together.
type ledger struct {
	mu        sync.Mutex
	delivered map[int]bool
	// others is what appends and copies added and expunges took away.
	others int
	// guid is what each UID was told to be: folder, UIDVALIDITY, UID.
	guid map[string]string
	err  error
}

func (l *ledger) note(f mailbox.Folder, s mailbox.Snapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := mailbox.UID(0)
	for _, m := range s.Messages.All() {
		if m.UID <= last || m.UID >= s.UIDNext {
			return fmt.Errorf("%s: UID %d after %d, next %d", f.Name(), m.UID, last, s.UIDNext)
		}
		last = m.UID
		key := fmt.Sprint(f.Name(), s.UIDValidity, m.UID)
		if had, ok := l.guid[key]; ok && had != m.GUID {
			return fmt.Errorf("%s: UID %d was %s and is %s", f.Name(), m.UID, had, m.GUID)
		}
		l.guid[key] = m.GUID
	}
	return nil
}

// worker is one session.
type worker struct {
	s       *setup
	l       *ledger
	box     mailbox.Box
	folders []mailbox.Folder
}

var propertyFolders = []string{"INBOX", "A", "A/B"}

func (w *worker) open() error {
	w.box = w.s.a.Box(testUser, 0, nil)
	w.folders = nil
	for _, name := range propertyFolders {
		f, err := w.box.Folder(name)
		if err != nil {
			return err
		}
		w.folders = append(w.folders, f)
	}
	return nil
}

func (w *worker) run(script []action) error {
	if err := w.open(); err != nil {
		return err
	}
	defer func() { w.box.Close() }()
	for _, a := range script {
		if err := w.do(a); err != nil {
			return fmt.Errorf("%+v: %w", a, err)
		}
	}
	return nil
}

func (w *worker) do(a action) error {
	f := w.folders[a.n%3]
	to := propertyFolders[a.n/3%3]
	switch a.what {
	case doDeliver:
		return w.deliver(a.n)
	case doAppend:
		return w.append(to, a.n)
	case doReopenBox:
		w.box.Close()
		return w.open()
	}
	snap, err := f.Snapshot()
	if err != nil {
		return err
	}
	if err := w.l.note(f, snap); err != nil {
		return err
	}
	some := choose(snap, a.n)
	change := 0
	switch a.what {
	case doFlag:
		_, err = f.SetFlags(some, mailbox.FlagChange{Op: mailbox.FlagOp(a.n % 3), Flags: mailbox.Flags{System: mailbox.System(a.n % 32)}})
	case doKeyword:
		_, err = f.SetFlags(some, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: words(fmt.Sprintf("k%d", a.n%40))})
		if errors.Is(err, ErrTooManyKeywords) {
			err = nil
		}
	case doExpunge:
		var gone []mailbox.UID
		gone, err = f.Expunge(some)
		change = -len(gone)
	case doCopy:
		var r mailbox.CopyResult
		r, err = f.Copy(some, to)
		change = len(r.Dest)
	case doMove:
		_, err = f.Move(some, to)
	}
	w.l.mu.Lock()
	w.l.others += change
	w.l.mu.Unlock()
	return err
}

// choose takes about every third message.
func choose(s mailbox.Snapshot, n int) (some []mailbox.UID) {
	for i, m := range s.Messages.All() {
		if (i+n)%3 == 0 {
			some = append(some, m.UID)
		}
	}
	return some
}

func (w *worker) deliver(n int) error {
	id := n % 20
	m, err := w.s.stager.Stage(context.Background(), "", strings.NewReader(text(id)), 0)
	if err != nil {
		return err
	}
	defer m.Discard()
	if err := w.box.Deliver(context.Background(), one(fmt.Sprint(id), m, propertyFolders[n%3], true)); err != nil {
		return err
	}
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.l.delivered[id] = true
	return nil
}

func (w *worker) append(to string, n int) error {
	m, err := w.s.stager.Stage(context.Background(), "", strings.NewReader(text(n)), 0)
	if err != nil {
		return err
	}
	defer m.Discard()
	_, err = appendOne(w.box, to, m, mailbox.Flags{System: mailbox.System(n % 32)}, time.Time{})
	if err == nil {
		w.l.mu.Lock()
		w.l.others++
		w.l.mu.Unlock()
	}
	return err
}

func TestConcurrentUseIsExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		scripts := rapid.SliceOfN(rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) action {
			return action{rapid.IntRange(0, actionCount-1).Draw(rt, "what"), rapid.IntRange(0, 200).Draw(rt, "n")}
		}), 1, 25), 2, 4).Draw(rt, "scripts")
		s := newSetup(t, nil)
		must(t, s.b.CreateFolder("A", ""))
		must(t, s.b.CreateFolder("A/B", ""))
		l := &ledger{delivered: map[int]bool{}, guid: map[string]string{}}
		var all sync.WaitGroup
		for _, script := range scripts {
			w := &worker{s: s, l: l}
			all.Go(func() {
				if err := w.run(script); err != nil {
					l.mu.Lock()
					l.err = errors.Join(l.err, err)
					l.mu.Unlock()
				}
			})
		}
		all.Wait()
		if l.err != nil {
			rt.Fatal(l.err)
		}
		s.checkLedger(rt, l)
		s.reopen()
		s.checkLedger(rt, l)
		must(t, s.a.Close())
	})
}

func (s *setup) checkLedger(rt *rapid.T, l *ledger) {
	total := 0
	for _, name := range propertyFolders {
		f := s.folder(name)
		snap := s.snapshot(f)
		if err := l.note(f, snap); err != nil {
			rt.Fatal(err)
		}
		total += snap.Messages.Len()
		for _, m := range snap.Messages.All() {
			if got := s.read(f, m.UID); int64(len(got)) != m.WireSize {
				rt.Fatalf("%d bytes, want %d", len(got), m.WireSize)
			}
		}
	}
	if want := len(l.delivered) + l.others; total != want {
		rt.Fatalf("%d messages, want %d", total, want)
	}
	s.quotaIsExact()
}
