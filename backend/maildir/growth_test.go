package maildir

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

// TestOwnChangesDoNotList: a message now and then does not cost a listing of the
// folder each, and foreign ones are seen all the same.
func TestOwnChangesDoNotList(t *testing.T) {
	clock, lists := time.Now().Add(time.Hour), 0
	last := ""
	w := &watchedFS{FS: vfs.OS, seen: func(dir string) error {
		if dir != last {
			lists++
		}
		last = dir
		return nil
	}}
	// Each look at the clock takes a while, and so a scan does.
	s := newSetupOn(t, w, t.TempDir(), func(o *Options) {
		o.Now = func() time.Time { clock = clock.Add(10 * time.Millisecond); return clock }
	})
	s.append("INBOX", text(0), mailbox.Flags{})
	f := s.folder("INBOX")
	clock = clock.Add(time.Hour)
	s.snapshot(f)
	lists = 0
	for i := range 100 {
		clock, last = clock.Add(time.Minute), ""
		s.deliver(fmt.Sprint(i), text(i), "")
		same(t, "messages", s.snapshot(f).Messages.Len(), i+2)
	}
	if lists > 60 {
		t.Errorf("listed %d times for 100 messages", lists)
	}
	must(t, vfs.CreateFile(vfs.OS, s.path("new", "1.M1.h,S=1,W=1"), []byte("a"), 0o600))
	same(t, "with a foreign message", s.snapshot(f).Messages.Len(), 102)
}

// TestDeliveryWithFlagsDoesNotLoad: a folder that nobody has open is not read for it.
func TestDeliveryWithFlagsDoesNotLoad(t *testing.T) {
	s := newSetup(t, nil)
	s.append("INBOX", text(0), words("known", "other"))
	s.reopen()
	deliver := func(id string, flags mailbox.Flags) {
		t.Helper()
		m := s.stage("Subject: " + id + "\n\n")
		defer m.Discard()
		d := mailbox.Delivery{ID: id, Message: m, Places: []mailbox.Place{{Flags: flags}}}
		must(t, s.b.Deliver(context.Background(), d))
	}
	deliver("1", mailbox.Flags{System: mailbox.Seen, Keywords: []string{"other"}})
	same(t, "loaded", s.a.folders[""].loaded, false)
	deliver("2", words("third", "known"))
	snap := s.snapshot(s.folder("INBOX"))
	var got []string
	for _, m := range snap.Messages.All() {
		got = append(got, strings.Join(m.Flags.Keywords, "+"))
	}
	sameList(t, "keywords", got, "known+other", "other", "known+third")
	same(t, "flags", snap.Messages.At(1).Flags.System, mailbox.Seen)
}
