package mailboxtest

import (
	"slices"
	"strings"
	"time"

	"waypost/backend/mailbox"
)

func (s *suite) append() {
	date := time.Unix(1e9, 0)
	r, err := s.Box.Append("INBOX", []mailbox.NewMessage{
		{Message: s.stage("one\n"), Flags: mailbox.Flags{System: mailbox.Seen}, Date: date},
		{Message: s.stage("two\n"), Flags: words("b", "a")},
		{Message: s.stage("three\n")},
	})
	s.must(err)
	equalList(s, "UIDs", r.UIDs, 1, 2, 3)
	equalList(s, "next UIDs", s.put("INBOX", mailbox.Flags{}, "four\n"), 4)
	s.again(func() {
		f := s.folder("INBOX")
		snap := s.snapshot(f)
		equal(s, "UIDVALIDITY", snap.UIDValidity, r.UIDValidity)
		equal(s, "messages", snap.Messages.Len(), 4)
		equal(s, "first", s.text(f, 1), "one\r\n")
		equal(s, "third", s.text(f, 3), "three\r\n")
		equal(s, "flags", snap.Messages.At(0).Flags.System, mailbox.Seen)
		equalList(s, "keywords", snap.Messages.At(1).Flags.Keywords, "a", "b")
		got, err := f.InternalDate(1)
		s.must(err)
		equal(s, "date", got.Unix(), date.Unix())
	})
	none, err := s.Box.Append("INBOX", nil)
	s.must(err)
	equal(s, "nothing appended", len(none.UIDs), 0)
}

func (s *suite) appendFails() {
	m := mailbox.NewMessage{Message: s.stage("one\n")}
	_, err := s.Box.Append("None", []mailbox.NewMessage{m})
	s.is(err, mailbox.ErrNoFolder)
	_, err = s.Box.Append("INBOX", []mailbox.NewMessage{m, m})
	s.must(err)
	equal(s, "messages", s.snapshot(s.folder("INBOX")).Messages.Len(), 2)
}

func (s *suite) recent() {
	s.put("INBOX", mailbox.Flags{}, "1", "2")
	f := s.folder("INBOX")
	for range 2 {
		seen, err := f.Peek()
		s.must(err)
		equal(s, "messages", seen.Messages.Len(), 2)
		equalList(s, "recent, to who only looks", seen.Recent, 1, 2)
	}
	equalList(s, "recent", s.snapshot(f).Recent, 1, 2)
	equalList(s, "recent, the second time", s.snapshot(f).Recent)
	equalList(s, "recent, to another", s.snapshot(s.folder("INBOX")).Recent)
	s.put("INBOX", mailbox.Flags{}, "3")
	seen, err := f.Peek()
	s.must(err)
	equalList(s, "recent, later", seen.Recent, 3)
}

func (s *suite) conditional() {
	s.put("INBOX", mailbox.Flags{}, "1", "2", "3")
	f := s.folder("INBOX")
	before := s.snapshot(f).HighestModSeq
	s.set(f, mailbox.FlagsAdd, mailbox.Flags{System: mailbox.Seen}, 2)
	change := mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged}, Conditional: true, UnchangedSince: before}
	r, err := f.SetFlags([]mailbox.UID{3, 2, 1, 9, 3}, change)
	s.must(err)
	equalList(s, "modified", r.Modified, 2)
	equal(s, "changed", len(r.Changed), 2)
	for i, uid := range []mailbox.UID{1, 3} {
		m := r.Changed[i]
		if m.UID != uid || m.Flags.System != mailbox.Flagged || m.ModSeq <= before {
			s.Fatalf("%+v", m)
		}
	}
	snap := s.snapshot(f)
	equal(s, "refused", snap.Messages.Get(2).Flags.System, mailbox.Seen)
	// What stays as it is keeps its mod-sequence, and is told all the same.
	r = s.set(f, mailbox.FlagsAdd, mailbox.Flags{System: mailbox.Flagged}, 1)
	equal(s, "MODSEQ", r.Changed[0].ModSeq, snap.Messages.Get(1).ModSeq)
	equal(s, "HIGHESTMODSEQ", s.snapshot(f).HighestModSeq, snap.HighestModSeq)
	change.UnchangedSince = 0
	r, err = f.SetFlags([]mailbox.UID{1, 2, 3}, change)
	s.must(err)
	equalList(s, "all modified", r.Modified, 1, 2, 3)
	equal(s, "none changed", len(r.Changed), 0)
}

// keywords has more of them than file names can tell.
func (s *suite) keywords() {
	s.must(s.Box.CreateFolder("Other", ""))
	all := words()
	for i := range 40 {
		all.Keywords = append(all.Keywords, "k"+string(rune('a'+i/10))+string(rune('0'+i%10)))
	}
	s.put("INBOX", all, "1", "2")
	s.put("INBOX", words(all.Keywords[39]), "3")
	less := slices.DeleteFunc(slices.Clone(all.Keywords), func(w string) bool { return w == "ka3" || w == "kd5" })
	f := s.folder("INBOX")
	before := s.snapshot(f).Messages.Get(1).ModSeq
	r := s.set(f, mailbox.FlagsRemove, words("ka3", "kd5"), 1)
	equalList(s, "told", r.Changed[0].Flags.Keywords, less...)
	if r.Changed[0].ModSeq <= before {
		s.Fatal("the mod-sequence did not rise")
	}
	moved, err := f.Move([]mailbox.UID{2}, "Other")
	s.must(err)
	copied, err := f.Copy([]mailbox.UID{1}, "Other")
	s.must(err)
	s.must(s.Box.RenameFolder("Other", "Else"))
	s.again(func() {
		snap, other := s.snapshot(s.folder("INBOX")), s.snapshot(s.folder("Else"))
		equalList(s, "less", snap.Messages.Get(1).Flags.Keywords, less...)
		equalList(s, "one", snap.Messages.Get(3).Flags.Keywords, all.Keywords[39])
		equalList(s, "moved", other.Messages.Get(moved.Dest[0]).Flags.Keywords, all.Keywords...)
		equalList(s, "copied", other.Messages.Get(copied.Dest[0]).Flags.Keywords, less...)
	})
	f = s.folder("INBOX")
	r = s.set(f, mailbox.FlagsSet, words("kd9", "ka0"), 1)
	equalList(s, "set", r.Changed[0].Flags.Keywords, "ka0", "kd9")
	s.must(s.Box.Deliver(s.Context(), mailbox.Delivery{ID: "id", Message: s.stage("4"), Places: []mailbox.Place{{Folder: "Else", Flags: words("new", "ka0")}}}))
	s.again(func() {
		other := s.snapshot(s.folder("Else"))
		equalList(s, "delivered", other.Messages.At(2).Flags.Keywords, "ka0", "new")
		equalList(s, "reset", s.snapshot(s.folder("INBOX")).Messages.Get(1).Flags.Keywords, "ka0", "kd9")
	})
}

func (s *suite) expunged() {
	s.put("INBOX", mailbox.Flags{}, "1", "2", "3", "4", "5")
	f := s.folder("INBOX")
	start := s.snapshot(f).HighestModSeq
	_, err := f.Expunge([]mailbox.UID{2, 3})
	s.must(err)
	middle := s.snapshot(f).HighestModSeq
	s.must(s.Box.CreateFolder("Other", ""))
	_, err = f.Move([]mailbox.UID{5}, "Other")
	s.must(err)
	exact := true
	s.again(func() {
		f := s.folder("INBOX")
		for since, want := range map[uint64][]mailbox.UIDRange{
			start: {{First: 2, Last: 3}, {First: 5, Last: 5}}, middle: {{First: 5, Last: 5}}, s.snapshot(f).HighestModSeq: nil,
		} {
			got, complete, err := f.ExpungedSince(since)
			s.must(err)
			equal(s, "complete", complete, true)
			if exact {
				equalList(s, "expunged", got, want...)
				continue
			}
			for _, r := range got {
				if r.First < 2 || r.Last > 5 || r.First <= 4 && r.Last >= 4 {
					s.Fatalf("expunged: %v, but 1 and 4 are there", got)
				}
			}
		}
		exact = !s.Crashes
	})
}

// legal tells whether id is one of RFC 8474, Section 7.
func legal(id string) bool {
	return id != "" && len(id) <= 255 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

func (s *suite) ids() {
	s.must(s.Box.CreateFolder("A", ""))
	inbox, a := s.snapshot(s.folder("INBOX")).ID, s.snapshot(s.folder("A")).ID
	if !legal(inbox) || !legal(a) || inbox == a {
		s.Fatalf("%q, %q", inbox, a)
	}
	s.must(s.Box.RenameFolder("A", "B"))
	s.must(s.Box.CreateFolder("A", ""))
	s.again(func() {
		status, err := s.folder("B").Status()
		s.must(err)
		equal(s, "renamed", status.ID, a)
		equal(s, "INBOX", s.snapshot(s.folder("INBOX")).ID, inbox)
		if s.snapshot(s.folder("A")).ID == a {
			s.Fatal("another folder has the same id")
		}
	})
	s.must(s.Box.DeleteFolder("B"))
	s.must(s.Box.CreateFolder("B", ""))
	if s.snapshot(s.folder("B")).ID == a {
		s.Fatal("a new folder has an old id")
	}
}

func (s *suite) emailIDs() {
	s.must(s.Box.CreateFolder("A", ""))
	s.put("INBOX", mailbox.Flags{}, "1", "2", "3")
	f := s.folder("INBOX")
	var ids []string
	for uid := range mailbox.UID(3) {
		id, err := f.EmailID(uid + 1)
		s.must(err)
		if !legal(id) || slices.Contains(ids, id) {
			s.Fatalf("%q after %q", id, ids)
		}
		ids = append(ids, id)
	}
	_, err := f.Copy([]mailbox.UID{1, 2}, "A")
	s.must(err)
	_, err = s.folder("A").Copy([]mailbox.UID{1}, "A")
	s.must(err)
	_, err = s.folder("A").Move([]mailbox.UID{2}, "INBOX")
	s.must(err)
	_, err = f.Move([]mailbox.UID{2, 3}, "A")
	s.must(err)
	_, err = s.folder("A").Move([]mailbox.UID{1}, "A")
	s.must(err)
	s.again(func() {
		a, inbox := s.folder("A"), s.folder("INBOX")
		for uid, want := range map[mailbox.UID]string{3: ids[0], 4: ids[1], 5: ids[2], 6: ids[0]} {
			got, err := a.EmailID(uid)
			s.must(err)
			equal(s, "email id", got, want)
		}
		got, err := inbox.EmailID(4)
		s.must(err)
		equal(s, "moved copy", got, ids[1])
		_, err = a.EmailID(1)
		s.is(err, mailbox.ErrNoMessage)
	})
}

func (s *suite) saveDates() {
	s.must(s.Box.CreateFolder("A", ""))
	before := time.Now().Truncate(time.Second)
	r, err := s.Box.Append("INBOX", []mailbox.NewMessage{{Message: s.stage("1"), Date: time.Unix(1e9, 0)}})
	s.must(err)
	s.must(s.Box.Deliver(s.Context(), mailbox.Delivery{ID: "id", Message: s.stage("2"), Places: []mailbox.Place{{}}}))
	f := s.folder("INBOX")
	s.snapshot(f)
	_, err = f.Copy(r.UIDs, "A")
	s.must(err)
	_, err = f.Move([]mailbox.UID{2}, "A")
	s.must(err)
	after := time.Now()
	dates := map[mailbox.UID]time.Time{}
	s.again(func() {
		for folder, uids := range map[string][]mailbox.UID{"INBOX": {1}, "A": {1, 2}} {
			for _, uid := range uids {
				at, err := s.folder(folder).SaveDate(uid)
				s.must(err)
				if at.Before(before) || at.After(after) {
					s.Fatalf("%s: UID %d was saved at %v, not %v to %v", folder, uid, at, before, after)
				}
				if was, known := dates[uid]; folder == "A" && known && !was.Equal(at) {
					s.Fatalf("%v was %v", at, was)
				}
				if folder == "A" {
					dates[uid] = at
				}
			}
		}
		_, err := s.folder("INBOX").SaveDate(2)
		s.is(err, mailbox.ErrNoMessage)
	})
}

func (s *suite) status() {
	s.put("INBOX", mailbox.Flags{System: mailbox.Deleted}, "a\nb", "c\n")
	s.put("INBOX", mailbox.Flags{System: mailbox.Seen}, "d")
	s.again(func() {
		f := s.folder("INBOX")
		st, err := f.Status()
		s.must(err)
		equal(s, "deleted", st.Deleted, 2)
		equal(s, "deleted bytes", st.DeletedBytes, 4+3)
		equal(s, "bytes", st.Bytes, 4+3+1)
		snap := s.snapshot(f)
		equal(s, "HIGHESTMODSEQ", st.HighestModSeq, snap.HighestModSeq)
		equal(s, "id", st.ID, snap.ID)
	})
	f := s.folder("INBOX")
	_, err := f.Expunge([]mailbox.UID{1})
	s.must(err)
	s.set(f, mailbox.FlagsRemove, mailbox.Flags{System: mailbox.Deleted}, 2)
	st, err := f.Status()
	s.must(err)
	equal(s, "deleted bytes", st.DeletedBytes, 0)
}
