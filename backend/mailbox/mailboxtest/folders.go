package mailboxtest

import (
	"maps"
	"slices"
	"strings"
	"time"

	"waypost/backend/mailbox"
)

func (s *suite) metadata() {
	s.must(s.Box.CreateFolder("A", ""))
	s.must(s.Box.SetMetadata("A", map[string]*string{"/Private/Comment": ptr("my\x00 b\n"), "/shared/x": ptr("")}))
	s.must(s.Box.SetMetadata("", map[string]*string{"/shared/admin": ptr("mailto:x"), "/private/y": ptr("y")}))
	s.must(s.Box.SetMetadata("INBOX", map[string]*string{"/private/comment": ptr("in")}))
	s.must(s.Box.SetMetadata("", map[string]*string{"/private/y": nil, "/private/none": nil}))
	s.must(s.Box.RenameFolder("A", "B"))
	s.again(func() {
		for folder, want := range map[string]map[string]string{
			"B": {"/private/comment": "my\x00 b\n", "/shared/x": ""}, "": {"/shared/admin": "mailto:x"}, "INBOX": {"/private/comment": "in"},
		} {
			got, err := s.Box.Metadata(folder)
			s.must(err)
			if !maps.Equal(got, want) {
				s.Fatalf("%q has %q, want %q", folder, got, want)
			}
		}
	})
	s.must(s.Box.DeleteFolder("B"))
	s.must(s.Box.CreateFolder("B", ""))
	got, err := s.Box.Metadata("B")
	s.must(err)
	if got == nil || len(got) > 0 {
		s.Fatalf("a new folder has %q", got)
	}
}

func (s *suite) metadataLimits() {
	long := "/private/" + strings.Repeat("x", mailbox.MaxMetadataName-9)
	s.must(s.Box.SetMetadata("INBOX", map[string]*string{long: ptr(strings.Repeat("%", mailbox.MaxMetadataValue))}))
	for _, bad := range []map[string]*string{
		{long + "x": ptr(""), "/private/a": ptr("a")},
		{"/private/a": ptr("a"), "/private/b": ptr(strings.Repeat("x", mailbox.MaxMetadataValue+1))},
	} {
		s.is(s.Box.SetMetadata("INBOX", bad), mailbox.ErrTooMuchMetadata)
	}
	many := map[string]*string{}
	for i := range mailbox.MaxMetadataEntries {
		many["/private/"+strings.Repeat("y", i+1)] = ptr("1")
	}
	s.is(s.Box.SetMetadata("INBOX", many), mailbox.ErrTooMuchMetadata)
	many[long] = nil
	s.must(s.Box.SetMetadata("INBOX", many))
	s.again(func() {
		got, err := s.Box.Metadata("INBOX")
		s.must(err)
		equal(s, "entries", len(got), mailbox.MaxMetadataEntries)
	})
}

// uses shows the special uses of a listing.
func (s *suite) uses() string {
	s.Helper()
	list, err := s.Box.Folders()
	s.must(err)
	var out []string
	for _, info := range list {
		if info.SpecialUse != "" {
			out = append(out, info.Name+info.SpecialUse)
		}
	}
	return strings.Join(out, " ")
}

func (s *suite) specialUse() {
	s.must(s.Box.CreateFolder("Sent", ""))
	s.again(func() { equal(s, "uses", s.uses(), "") })
	s.must(s.Box.CreateFolder("Gone", `\sent`))
	s.is(s.Box.CreateFolder("More", `\Sent`), mailbox.ErrUse)
	s.is(s.Box.CreateFolder("More", `\All`), mailbox.ErrUse)
	s.is(s.Box.CreateFolder("More", `\Nonsense`), mailbox.ErrUse)
	_, err := s.Box.Folder("More")
	s.is(err, mailbox.ErrNoFolder)
	s.is(s.Box.SetMetadata("Sent", map[string]*string{"/private/specialUse": ptr(`\Sent`), "/private/x": ptr("x")}), mailbox.ErrUse)
	s.is(s.Box.SetMetadata("INBOX", map[string]*string{mailbox.UseEntry: ptr(`\Junk`)}), mailbox.ErrUse)
	s.is(s.Box.SetMetadata("", map[string]*string{mailbox.UseEntry: ptr(`\Junk`)}), mailbox.ErrUse)
	s.must(s.Box.RenameFolder("Gone", "Out"))
	s.again(func() { equal(s, "uses", s.uses(), `Out\Sent`) })
	s.must(s.Box.SetMetadata("Out", map[string]*string{mailbox.UseEntry: ptr(`\TRASH`), "/private/a": ptr("b")}))
	s.must(s.Box.SetMetadata("Sent", map[string]*string{mailbox.UseEntry: ptr(`\Sent`)}))
	s.again(func() {
		equal(s, "uses", s.uses(), `Out\Trash Sent\Sent`)
		got, err := s.Box.Metadata("Out")
		s.must(err)
		equal(s, "entry", got[mailbox.UseEntry], `\Trash`)
		equal(s, "entries", len(got), 2)
	})
	s.must(s.Box.SetMetadata("Sent", map[string]*string{mailbox.UseEntry: nil}))
	s.must(s.Box.DeleteFolder("Out"))
	s.must(s.Box.CreateFolder("Out", ""))
	s.again(func() { equal(s, "uses", s.uses(), "") })
	s.must(s.Box.CreateFolder("New", `\Trash`))
	s.again(func() { equal(s, "uses", s.uses(), `New\Trash`) })
}

func (s *suite) deliveryUse() {
	for i, folder := range []string{"Kept", "Also"} {
		s.must(s.Box.Deliver(s.Context(), mailbox.Delivery{
			ID: string(rune('a' + i)), Message: s.stage("x"), Places: []mailbox.Place{{Folder: folder, Create: true, Use: `\Archive`}},
		}))
	}
	s.again(func() { equal(s, "uses", s.uses(), `Kept\Archive`) })
	equal(s, "second", s.snapshot(s.folder("Also")).Messages.Len(), 1)
}

func (s *suite) acl() {
	s.must(s.Box.CreateFolder("A", ""))
	s.must(s.Box.SetACL("A", "bea@example.test", "srl"))
	s.must(s.Box.SetACL("A", "anyone", "c"))
	s.must(s.Box.SetACL("A", "-cy", "lrs"))
	s.must(s.Box.SetACL("A", "cy", "l"))
	s.must(s.Box.SetACL("A", "cy", ""))
	s.must(s.Box.SetACL("A", "nobody", ""))
	for identifier, rights := range map[string]mailbox.Rights{"": "l", "-": "l", "x\n": "l", "x": "lQ", strings.Repeat("x", mailbox.MaxIdentifier+1): "l"} {
		s.is(s.Box.SetACL("A", identifier, rights), mailbox.ErrBadRights)
	}
	s.must(s.Box.RenameFolder("A", "B"))
	s.again(func() {
		got, err := s.Box.ACL("B")
		s.must(err)
		if want := (mailbox.ACL{"bea@example.test": "lrs", "anyone": "kx", "-cy": "lrs"}); !maps.Equal(got, want) {
			s.Fatalf("got %v, want %v", got, want)
		}
		none, err := s.Box.ACL("INBOX")
		s.must(err)
		if none == nil || len(none) > 0 {
			s.Fatal(none)
		}
	})
	r, err := s.Box.Rights("B")
	s.must(err)
	equal(s, "rights", r, mailbox.AllRights)
	equalList(s, "namespaces", s.Box.Namespaces(), mailbox.Namespace{Kind: mailbox.Personal})
	for i := range mailbox.MaxACLEntries - 3 {
		s.must(s.Box.SetACL("B", strings.Repeat("z", i+1), "l"))
	}
	s.is(s.Box.SetACL("B", "more", "l"), mailbox.ErrTooMuchMetadata)
	s.must(s.Box.SetACL("B", "anyone", "lr"))
}

// waited fails if the channel is not closed soon.
func (s *suite) waited(wait <-chan struct{}) {
	s.Helper()
	select {
	case <-wait:
	case <-time.After(20 * time.Second):
		s.Fatal("nobody was told")
	}
}

func (s *suite) updates() {
	s.must(s.Box.CreateFolder("A", ""))
	s.must(s.Box.CreateFolder("B", ""))
	f := s.folder("A")
	s.put("A", mailbox.Flags{}, "1")
	s.snapshot(f)
	now, _ := s.Box.Updates(0)
	if !slices.Contains(now.Folders, "A") || !now.Listing {
		s.Fatalf("%+v", now)
	}
	for name, c := range map[string]struct {
		do      func() error
		folders []string
		listing bool
	}{
		"deliver":   {func() error { return s.deliver("1", "B") }, []string{"B"}, false},
		"append":    {func() error { s.put("A", mailbox.Flags{}, "2"); return nil }, []string{"A"}, false},
		"flags":     {func() error { s.set(f, mailbox.FlagsAdd, words(time.Now().Format("x150405.000000000")), 1); return nil }, []string{"A"}, false},
		"copy":      {func() error { _, err := f.Copy([]mailbox.UID{1}, "B"); return err }, []string{"B"}, false},
		"subscribe": {func() error { return s.Box.Subscribe("A", true) }, nil, true},
		"create":    {func() error { return s.Box.CreateFolder("C", "") }, nil, true},
		"metadata":  {func() error { return s.Box.SetMetadata("A", map[string]*string{"/private/a": ptr("b")}) }, nil, true},
		"account":   {func() error { return s.Box.SetMetadata("", map[string]*string{"/private/a": ptr("b")}) }, nil, true},
		"acl":       {func() error { return s.Box.SetACL("A", "anyone", "l") }, nil, true},
	} {
		now, _ = s.Box.Updates(now.Version)
		_, wait := s.Box.Updates(now.Version)
		if err := c.do(); err != nil {
			s.Fatalf("%s: %v", name, err)
		}
		s.waited(wait)
		got, _ := s.Box.Updates(now.Version)
		for _, folder := range c.folders {
			if !slices.Contains(got.Folders, folder) {
				s.Fatalf("%s: %+v", name, got)
			}
		}
		if got.All || c.listing != got.Listing || c.listing && len(got.Folders) > 0 || got.Version <= now.Version {
			s.Fatalf("%s: %+v after %d", name, got, now.Version)
		}
		now = got
	}
	s.Box.Close()
	_, over := s.Box.Updates(now.Version)
	s.waited(over)
}

func (s *suite) deliver(id, folder string) error {
	return s.Box.Deliver(s.Context(), mailbox.Delivery{ID: id, Message: s.stage("x"), Places: []mailbox.Place{{Folder: folder}}})
}

func (s *suite) missing() {
	_, err := s.Box.Metadata("None")
	s.is(err, mailbox.ErrNoFolder)
	s.is(s.Box.SetMetadata("None", map[string]*string{"/private/a": ptr("b")}), mailbox.ErrNoFolder)
	_, err = s.Box.ACL("None")
	s.is(err, mailbox.ErrNoFolder)
	s.is(s.Box.SetACL("None", "anyone", "l"), mailbox.ErrNoFolder)
	_, err = s.Box.Rights("None")
	s.is(err, mailbox.ErrNoFolder)
	s.must(s.Box.CreateFolder("A", ""))
	f := s.folder("A")
	s.must(s.Box.DeleteFolder("A"))
	_, _, err = f.ExpungedSince(0)
	s.is(err, mailbox.ErrNoFolder)
}
