package maildir

import (
	"testing"

	"waypost/backend/mailbox"
)

// TestCache: what was read stays when the last Box is closed, as long as there is room, and
// is not used at another epoch.
func TestCache(t *testing.T) {
	c := NewCache(1 << 20)
	s := newSetup(t, func(o *Options) { o.Cache = c })
	s.append("INBOX", "Subject: one\n\nbody\n", mailbox.Flags{})
	uid := s.append("INBOX", "Subject: two\n\nbody\n", mailbox.Flags{})
	h := s.folder("INBOX")
	s.snapshot(h)
	if _, err := h.Meta(uid); err != nil {
		t.Fatal(err)
	}
	loaded := func() *folder {
		s.a.mu.Lock()
		defer s.a.mu.Unlock()
		if f := s.a.folders[""]; f != nil && f.loaded {
			return f
		}
		return nil
	}
	f := loaded()
	if c.Bytes() != 0 || f == nil {
		t.Fatalf("%d bytes while it is open", c.Bytes())
	}
	s.b.Close()
	if loaded() != f || c.Bytes() != 2*messageBytes+folderBytes {
		t.Fatalf("%d bytes, %v", c.Bytes(), loaded())
	}
	s.b = s.a.Box(testUser, 0, nil)
	if loaded() != f || c.Bytes() != 0 {
		t.Fatal("not used again")
	}
	if snap := s.snapshot(s.folder("INBOX")); snap.Messages.Len() != 2 || len(snap.Recent) != 0 {
		t.Fatalf("%+v", snap)
	}
	s.b.Close()
	s.guard.epoch.Store(1)
	s.b = s.a.Box(testUser, 1, nil)
	if loaded() != nil {
		t.Fatal("used at another epoch")
	}
	if snap := s.snapshot(s.folder("INBOX")); snap.Messages.Len() != 2 {
		t.Fatalf("%+v", snap)
	}
	c.max = 100
	s.b.Close()
	if loaded() != nil || c.Bytes() != 0 {
		t.Fatal("kept beyond the bound")
	}
	s.b = s.a.Box(testUser, 1, nil)
	s.snapshot(s.folder("INBOX"))
	c.max = 1 << 20
	s.b.Close()
	must(t, s.a.Close())
	if c.Bytes() != 0 {
		t.Fatal("kept when it was closed")
	}
}

// TestCacheOrder: the longest unused goes first.
func TestCacheOrder(t *testing.T) {
	c := NewCache(2*messageBytes + 5*folderBytes/2)
	var all []*setup
	for range 3 {
		s := newSetup(t, func(o *Options) { o.Cache = c })
		s.append("INBOX", "Subject: one\n\nbody\n", mailbox.Flags{})
		s.snapshot(s.folder("INBOX"))
		all = append(all, s)
	}
	for _, i := range []int{1, 0, 2} {
		all[i].b.Close()
	}
	for i, want := range []bool{true, false, true} {
		if f := all[i].a.folders[""]; (f != nil) != want {
			t.Errorf("account %d: kept %v", i, f != nil)
		}
	}
}
