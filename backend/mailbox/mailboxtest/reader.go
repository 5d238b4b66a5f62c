package mailboxtest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// vocabulary: a Snapshot has all keywords of its messages, and a slice that stays as it is.
func (s *suite) vocabulary() {
	s.put("INBOX", words("b", "a"), "1")
	s.put("INBOX", mailbox.Flags{}, "2")
	f := s.folder("INBOX")
	first := s.snapshot(f)
	equalList(s, "keywords", first.Keywords, "a", "b")
	many := words()
	for i := range 40 {
		many.Keywords = append(many.Keywords, fmt.Sprintf("w%02d", i))
	}
	s.set(f, mailbox.FlagsAdd, many, 2)
	now := s.snapshot(f)
	equalList(s, "more", now.Keywords, append([]string{"a", "b"}, many.Keywords...)...)
	equalList(s, "earlier", first.Keywords, "a", "b")
	if now.Version == first.Version {
		s.Error("the version is the same")
	}
	s.set(f, mailbox.FlagsSet, words("last"), 2)
	s.again(func() {
		snap := s.snapshot(s.folder("INBOX"))
		for _, w := range []string{"a", "b", "last"} {
			if !slices.Contains(snap.Keywords, w) {
				s.Errorf("no %q in %q", w, snap.Keywords)
			}
		}
		if !slices.IsSorted(snap.Keywords) {
			s.Errorf("%q", snap.Keywords)
		}
	})
}

// reader: what a Reader gives is what Meta gives, before and after the message is in an index.
func (s *suite) reader() {
	long := strings.Repeat("x", 9<<10)
	texts := []string{
		"From: Ann <ann@example.test>\nSubject: one\n two\nTo: bob@example.test\nX-Other: no\nDate: Mon, 3 Nov 2025 12:00:00 +0100\n\nHello\n",
		"subject:two\nSubject: again\n\nagain\n",
		"\nno header\n",
		"Subject: " + long + "\nTo: carol@example.test\n\nbody\n",
		"Content-Type: multipart/mixed; boundary=b\n\n--b\n\ntext\n--b\nContent-Disposition: attachment\n\nfile\n--b--\n",
	}
	date := time.Unix(1e9, 0)
	var all []mailbox.NewMessage
	for _, text := range texts {
		all = append(all, mailbox.NewMessage{Message: s.stage(text), Date: date})
	}
	_, err := s.Box.Append("INBOX", all)
	s.must(err)
	s.again(func() {
		f := s.folder("INBOX")
		uids := s.uids(f)
		for _, uid := range append(uids, uids...) {
			s.compare(f, index.ReaderOf(f), uid)
		}
		r := index.ReaderOf(f)
		slices.Reverse(uids)
		for _, uid := range uids {
			s.compare(f, r, uid)
		}
		_, err := r.Wire(99)
		s.is(err, mailbox.ErrNoMessage)
	})
	f := s.folder("INBOX")
	r := index.ReaderOf(f)
	_, err = r.Summary(1)
	s.must(err)
	late := s.put("INBOX", mailbox.Flags{}, "Subject: late\n\nlate\n")[0]
	s.compare(f, r, late)
	_, err = f.Expunge([]mailbox.UID{1})
	s.must(err)
	_, err = r.Summary(1)
	s.is(err, mailbox.ErrNoMessage)
	_, err = r.Arrived(1)
	s.is(err, mailbox.ErrNoMessage)
	s.compare(f, r, 2)
}

func (s *suite) uids(f mailbox.Folder) (uids []mailbox.UID) {
	s.Helper()
	for _, m := range s.snapshot(f).Messages.All() {
		uids = append(uids, m.UID)
	}
	return uids
}

// compare asks the Reader first: the message may not be in the index yet.
func (s *suite) compare(f mailbox.Folder, r mailbox.Reader, uid mailbox.UID) {
	s.Helper()
	names := []string{"subject", "TO", "date"}
	set, ok := index.NamesOf(names)
	equal(s, "names kept", ok, true)
	arrived, err := r.Arrived(uid)
	s.must(err)
	wire, err := r.Wire(uid)
	s.must(err)
	header, known, err := r.Header(uid, set)
	s.must(err)
	summary, err := r.Summary(uid)
	s.must(err)
	var fields []string
	s.must(r.Fields(uid, set, func(f *mime.Field) { fields = append(fields, fmt.Sprint(f.Name, f.Value, f.Cut)) }))
	m, err := f.Meta(uid)
	s.must(err)
	equal(s, "wire", wire, m.Root.Wire)
	wanted, is := index.HeaderFields(m, names)
	equal(s, "header known", known, is)
	equal(s, "header", header, wanted)
	equal(s, "preview", summary.Preview, m.Preview)
	equal(s, "attachment", summary.Attachment, m.Attachment)
	if !summary.Arrived.Equal(m.Arrived) {
		s.Fatalf("arrived %v, want %v", summary.Arrived, m.Arrived)
	}
	date, err := f.InternalDate(uid)
	s.must(err)
	equal(s, "date", arrived.Unix(), date.Unix())
	var want []string
	index.FieldsOf(m, set, func(f *mime.Field) { want = append(want, fmt.Sprint(f.Name, f.Value, f.Cut)) })
	equalList(s, "fields", fields, want...)
}
