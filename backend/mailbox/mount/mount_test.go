package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/mailboxtest"
	"waypost/backend/mailbox/memory"
	"waypost/director"
)

const (
	ann = director.User("ann@example.test")
	bob = director.User("bob@example.test")
)

// rig is Ann's mailbox with Bob's below "Other Users/bob/".
type rig struct {
	*testing.T
	store *memory.Store
	box   mailbox.Box
	bob   mailbox.Box
}

func open(t *testing.T, s *memory.Store, u director.User) mailbox.Box {
	t.Helper()
	s.Serve(u, "b1", 1)
	b, err := s.Open(t.Context(), u, "b1", 1)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t, store: memory.New()}
	own := open(t, r.store, ann)
	r.bob = open(t, r.store, bob)
	r.box = New(own, Options{Stage: r.store.Stage, Log: slog.New(slog.DiscardHandler)},
		Mount{Prefix: "Other Users/bob/", Kind: mailbox.OtherUsers, Box: open(t, r.store, bob)})
	t.Cleanup(r.box.Close)
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) is(what string, err, want error) {
	r.Helper()
	if !errors.Is(err, want) {
		r.Errorf("%s: %v, want %v", what, err, want)
	}
}

func (r *rig) put(folder string, texts ...string) {
	r.Helper()
	for _, text := range texts {
		m, err := r.store.Stage(context.Background(), "", strings.NewReader(text), 0)
		r.must(err)
		_, err = r.box.Append(folder, []mailbox.NewMessage{{Message: m, Flags: mailbox.Flags{System: mailbox.Flagged, Keywords: []string{"k"}}, Date: time.Unix(1e9, 0)}})
		r.must(err)
	}
}

// list gives UIDs, flags and texts.
func (r *rig) list(name string) string {
	r.Helper()
	f, err := r.box.Folder(name)
	r.must(err)
	if f.Name() != name {
		r.Errorf("%q is named %q", name, f.Name())
	}
	snap, err := f.Snapshot()
	r.must(err)
	var all []string
	for _, m := range snap.Messages.All() {
		b, err := f.Open(m.UID)
		r.must(err)
		text, err := io.ReadAll(b)
		r.must(err)
		date, err := f.InternalDate(m.UID)
		r.must(err)
		all = append(all, fmt.Sprint(m.UID, " ", string(text), " ", m.Flags.System == mailbox.Flagged, m.Flags.Keywords, date.Unix()))
	}
	return strings.Join(all, "; ")
}

// What a mounted Box leaves alone is as without it.
func TestConformance(t *testing.T) {
	mailboxtest.Run(t, func(t *testing.T) mailboxtest.Fixture {
		s := memory.New()
		other := New(open(t, s, bob), Options{Stage: s.Stage, Log: slog.New(slog.DiscardHandler)})
		b := New(open(t, s, ann), Options{Stage: s.Stage, Log: slog.New(slog.DiscardHandler)})
		t.Cleanup(other.Close)
		t.Cleanup(b.Close)
		return mailboxtest.Fixture{Box: b, Stage: s.Stage}
	})
}

func TestFolders(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"Work", "Other Users/bob/A", "Other Users/bob/A/B", "Other Users/carl"} {
		r.must(r.box.CreateFolder(name, ""))
	}
	r.must(r.box.SetMetadata("Other Users/bob/A", map[string]*string{mailbox.UseEntry: ptr(`\Sent`)}))
	r.must(r.box.Subscribe("Other Users/bob/A", true))
	infos, err := r.box.Folders()
	r.must(err)
	var got []string
	for _, i := range infos {
		got = append(got, fmt.Sprint(i.Name, " ", i.Subscribed, i.HasChildren, i.NoSelect, i.SpecialUse))
	}
	want := []string{"INBOX false false false", "Other Users false true true", "Other Users/bob false true false", "Other Users/bob/A true true false",
		"Other Users/bob/A/B false false false", "Other Users/carl false false false", "Work false false false"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if subs, err := r.box.Subscriptions(); err != nil || !slices.Equal(subs, []string{"Other Users/bob/A"}) {
		t.Error(subs, err)
	}
	inner, err := r.bob.Folders()
	if err != nil || len(inner) != 3 || inner[1].Name != "A" {
		t.Error(inner, err)
	}
	if ns := r.box.Namespaces(); !slices.Equal(ns, []mailbox.Namespace{{}, {Kind: mailbox.OtherUsers, Prefix: "Other Users/bob/"}}) {
		t.Error(ns)
	}
	r.must(r.box.RenameFolder("Other Users/bob/A", "Other Users/bob/C"))
	r.list("Other Users/bob/C/B")
	r.must(r.box.RenameFolder("Work", "Play"))
	for what, err := range map[string]error{
		"to another":     r.box.RenameFolder("Play", "Other Users/bob/Play"),
		"from another":   r.box.RenameFolder("Other Users/bob/C", "C"),
		"above":          r.box.RenameFolder("Play", "Other Users"),
		"its INBOX":      r.box.RenameFolder("Other Users/bob", "Other Users/bob/X"),
		"to its INBOX":   r.box.RenameFolder("Other Users/bob/C", "Other Users/bob"),
		"no name":        r.box.CreateFolder("Other Users/bob/", ""),
		"its INBOX's":    r.box.CreateFolder("Other Users/bob/inbox", ""),
		"rename to such": r.box.RenameFolder("Other Users/bob/C", "Other Users/bob/Inbox"),
		"delete INBOX":   r.box.DeleteFolder("Other Users/bob"),
	} {
		r.is(what, err, mailbox.ErrBadName)
	}
	_, err = r.box.Folder("Other Users/bob/INBOX")
	r.is("INBOX by its own name", err, mailbox.ErrNoFolder)
	r.must(r.box.DeleteFolder("Other Users/bob/C"))
	r.must(r.box.SetACL("Other Users/bob", "carl", "lr"))
	acl, err := r.bob.ACL("INBOX")
	if err != nil || acl["carl"] != "lr" {
		t.Error(acl, err)
	}
	r.must(r.box.SetMetadata("", map[string]*string{"/private/x": ptr("y")}))
	if m, err := r.bob.Metadata(""); err != nil || len(m) != 0 {
		t.Error(m, err)
	}
}

func ptr(s string) *string { return &s }

// What the personal mailbox has under a namespace's name is not shown, and not lost.
func TestHidden(t *testing.T) {
	s := memory.New()
	own := open(t, s, ann)
	for _, name := range []string{"Archive", "Archive/Old", "Archives"} {
		if err := own.CreateFolder(name, ""); err != nil {
			t.Fatal(err)
		}
	}
	b := New(own, Options{Stage: s.Stage, Log: slog.New(slog.DiscardHandler)}, Mount{Prefix: "Archive/", Box: open(t, s, bob)})
	defer b.Close()
	infos, err := b.Folders()
	var names []string
	for _, i := range infos {
		names = append(names, i.Name)
	}
	if err != nil || !slices.Equal(names, []string{"INBOX", "Archive", "Archives"}) {
		t.Error(names, err)
	}
	if _, err := b.Folder("Archive/Old"); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Error(err)
	}
	s.Fail(bob, errors.New("disk"))
	if infos, err := b.Folders(); err != nil || len(infos) != 2 {
		t.Error(infos, err)
	}
}

func TestTransfer(t *testing.T) {
	r := newRig(t)
	r.put("INBOX", "one", "two", "three")
	f, err := r.box.Folder("INBOX")
	r.must(err)
	_, err = f.Snapshot()
	r.must(err)
	got, err := f.Copy([]mailbox.UID{1, 3, 9}, "Other Users/bob")
	r.must(err)
	if !slices.Equal(got.Source, []mailbox.UID{1, 3}) || !slices.Equal(got.Dest, []mailbox.UID{1, 2}) {
		t.Errorf("%+v", got)
	}
	if text, want := r.list("Other Users/bob"), "1 one true [k] 1000000000; 2 three true [k] 1000000000"; text != want {
		t.Errorf("%s", text)
	}
	got, err = f.Move([]mailbox.UID{2}, "Other Users/bob")
	r.must(err)
	if !slices.Equal(got.Source, []mailbox.UID{2}) || !slices.Equal(got.Dest, []mailbox.UID{3}) {
		t.Errorf("%+v", got)
	}
	if text := r.list("INBOX"); strings.Contains(text, "two") {
		t.Errorf("%s", text)
	}
	if _, err := f.Copy([]mailbox.UID{1}, "INBOX"); err != nil {
		t.Error(err)
	}
	back, err := r.box.Folder("Other Users/bob")
	r.must(err)
	r.must(r.box.CreateFolder("Other Users/bob/A", ""))
	_, err = back.Move([]mailbox.UID{1}, "Other Users/bob/A")
	r.must(err)
	_, err = back.Move([]mailbox.UID{3}, "INBOX")
	r.must(err)
	if text := r.list("INBOX"); !strings.HasSuffix(text, "two true [k] 1000000000") {
		t.Errorf("%s", text)
	}

	r.is("no folder", second(f.Copy([]mailbox.UID{1}, "Other Users/bob/None")), mailbox.ErrNoFolder)
	r.is("too many", second(f.Copy(make([]mailbox.UID, MaxTransfer+1), "Other Users/bob")), ErrTooMany)
	if got, err := f.Move([]mailbox.UID{99}, "Other Users/bob"); err != nil || len(got.Dest) != 0 {
		t.Error(got, err)
	}
	// All or none.
	before := r.list("Other Users/bob")
	r.store.SetLimit(bob, mailbox.Limit{Messages: 3})
	r.is("quota", second(f.Move([]mailbox.UID{1, 3}, "Other Users/bob")), mailbox.ErrOverQuota)
	if after := r.list("Other Users/bob"); after != before {
		t.Errorf("%s, was %s", after, before)
	}
	r.store.Renumber(ann, "INBOX")
	r.is("renumbered", second(f.Copy([]mailbox.UID{1}, "Other Users/bob")), mailbox.ErrRenumbered)
}

func second[T any](_ T, err error) error { return err }

func TestUpdates(t *testing.T) {
	r := newRig(t)
	now, _ := r.box.Updates(0)
	step := func(what string, do func(), folders []string, listing bool) {
		t.Helper()
		now, _ = r.box.Updates(now.Version)
		_, wait := r.box.Updates(now.Version)
		if _, again := r.box.Updates(now.Version); again != wait {
			t.Errorf("%s: two channels for the same", what)
		}
		select {
		case <-wait:
			t.Fatalf("%s: told before", what)
		default:
		}
		do()
		select {
		case <-wait:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: not told", what)
		}
		u, _ := r.box.Updates(now.Version)
		if !slices.Equal(u.Folders, folders) || u.Listing != listing || u.All || u.Version <= now.Version {
			t.Errorf("%s: %+v", what, u)
		}
	}
	step("own", func() { r.put("INBOX", "x") }, []string{"INBOX"}, false)
	step("other's", func() { r.put("Other Users/bob", "x") }, []string{"Other Users/bob"}, false)
	step("listing", func() { r.must(r.bob.CreateFolder("A", "")) }, nil, true)
	if u, _ := r.box.Updates(now.Version + 1000); !u.All {
		t.Errorf("an unknown version: %+v", u)
	}
	for range 2 * maxPast {
		r.put("INBOX", "x")
		now, _ = r.box.Updates(now.Version)
	}
	if b := r.box.(*box); len(b.past) > maxPast || len(b.order) > maxPast {
		t.Errorf("%d versions kept", len(b.past))
	}
	_, wait := r.box.Updates(now.Version)
	r.box.Close()
	<-wait
}

// The whole is done when a part of it is.
func TestDone(t *testing.T) {
	for _, u := range []director.User{ann, bob} {
		r := newRig(t)
		select {
		case <-r.box.Done():
			t.Fatal("done")
		default:
		}
		_, wait := r.box.Updates(0)
		r.store.Freeze(u)
		for _, c := range []<-chan struct{}{r.box.Done(), wait} {
			select {
			case <-c:
			case <-time.After(20 * time.Second):
				t.Fatalf("%s frozen, and nothing ends", u)
			}
		}
	}
}

// TestInbox: the personal folders are below INBOX, as Courier has them.
func TestInbox(t *testing.T) {
	r := &rig{T: t, store: memory.New()}
	own := open(t, r.store, ann)
	r.bob = open(t, r.store, bob)
	r.box = New(own, Options{Stage: r.store.Stage, Log: slog.New(slog.DiscardHandler), Inbox: true},
		Mount{Prefix: "Other Users/bob/", Kind: mailbox.OtherUsers, Box: open(t, r.store, bob)})
	t.Cleanup(r.box.Close)
	for _, name := range []string{"INBOX/Work/A", "INBOX/Sent", "INBOX/INBOX/x", "Other Users/bob/B"} {
		r.must(r.box.CreateFolder(name, ""))
		r.must(r.box.Subscribe(name, true))
	}
	r.must(r.box.SetMetadata("INBOX/Sent", map[string]*string{mailbox.UseEntry: ptr(`\Sent`)}))
	r.must(r.box.RenameFolder("INBOX/Work/A", "INBOX/Play"))
	r.must(r.box.Subscribe("INBOX", true))
	infos, err := r.box.Folders()
	r.must(err)
	var got []string
	for _, i := range infos {
		got = append(got, fmt.Sprint(i.Name, " ", i.Subscribed, i.HasChildren, i.NoSelect, i.SpecialUse))
	}
	want := []string{"INBOX true true false", "INBOX/INBOX false true true", "INBOX/INBOX/x true false false", "INBOX/Play false false false",
		`INBOX/Sent true false false\Sent`, "Other Users false true true", "Other Users/bob false true false", "Other Users/bob/B true false false"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	subs, err := r.box.Subscriptions()
	r.must(err)
	if want := []string{"INBOX", "INBOX/INBOX/x", "INBOX/Sent", "INBOX/Work/A", "Other Users/bob/B"}; !slices.Equal(subs, want) {
		t.Errorf("%q", subs)
	}
	kept, err := own.Subscriptions()
	r.must(err)
	if want := []string{"INBOX", "INBOX/x", "Other Users/bob/B", "Sent", "Work/A"}; !slices.Equal(kept, want) {
		t.Errorf("on the disk: %q", kept)
	}
	r.must(r.box.Subscribe("INBOX/Work/A", false))
	if all := r.box.Namespaces(); len(all) != 2 || all[0].Prefix != "INBOX/" || all[1].Prefix != "Other Users/bob/" {
		t.Errorf("%v", all)
	}
	for _, name := range []string{"Sent", "INBOX/", "INBOX/inbox", "Work/A", "Other Users"} {
		if _, err := r.box.Folder(name); !errors.Is(err, mailbox.ErrNoFolder) {
			t.Errorf("%q: %v", name, err)
		}
		if err := r.box.CreateFolder(name, ""); !errors.Is(err, mailbox.ErrBadName) {
			t.Errorf("make %q: %v", name, err)
		}
		if err := r.box.Subscribe(name, true); !errors.Is(err, mailbox.ErrBadName) {
			t.Errorf("subscribe to %q: %v", name, err)
		}
	}
	f, err := r.box.Folder("INBOX/Play")
	r.must(err)
	if f.Name() != "INBOX/Play" {
		t.Errorf("%q", f.Name())
	}
	now, _ := r.box.Updates(0)
	r.must(r.box.Subscribe("INBOX/Play", true))
	m, err := r.store.Stage(t.Context(), "", strings.NewReader("Subject: x\r\n\r\n"), 0)
	r.must(err)
	r.must(errOf(r.box.Append("INBOX/Play", []mailbox.NewMessage{{Message: m}})))
	if u, _ := r.box.Updates(now.Version); !u.Listing || !slices.Equal(u.Folders, []string{"INBOX/Play"}) {
		t.Errorf("%+v", u)
	}
	c, err := f.Copy([]mailbox.UID{1}, "INBOX/Sent")
	if err != nil || len(c.Source) != 1 {
		t.Error(c, err)
	}
	if _, err := f.Copy([]mailbox.UID{1}, "Sent"); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Error(err)
	}
}

func errOf[T any](_ T, err error) error { return err }
