package sharing

import (
	"errors"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

func TestEffective(t *testing.T) {
	for _, c := range []struct {
		acl  mailbox.ACL
		want mailbox.Rights
	}{
		{nil, ""},
		{mailbox.ACL{"bob@example.test": "lr"}, "lr"},
		{mailbox.ACL{"Bob@Example.test": "lr"}, "lr"},
		{mailbox.ACL{"ann@example.test": "lr"}, ""},
		{mailbox.ACL{"anyone": "l", "bob@example.test": "i"}, "li"},
		{mailbox.ACL{"anyone": "lrs", "-bob@example.test": "s"}, "lr"},
		{mailbox.ACL{"bob@example.test": "lrs", "-anyone": "r"}, "ls"},
		{mailbox.ACL{"bob@example.test": "lr", "-ann@example.test": "lr"}, "lr"},
		{mailbox.ACL{"bob": "lr"}, ""},
	} {
		if got := Effective(c.acl, bob); got != c.want {
			t.Errorf("%v: %q, want %q", c.acl, got, c.want)
		}
	}
}

// operation is one that needs rights.
type operation struct {
	name string
	do   func(b *Box, f mailbox.Folder) error
	// needs are the rights that allow it, all together; or any of those in any.
	needs, any string
}

const shared = "ann@example.test/Shared"

func operations(w *world) []operation {
	flags := func(op mailbox.FlagOp, s mailbox.System, keywords ...string) func(*Box, mailbox.Folder) error {
		return func(_ *Box, f mailbox.Folder) error {
			_, err := f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: op, Flags: mailbox.Flags{System: s, Keywords: keywords}})
			return err
		}
	}
	one := []mailbox.UID{1}
	text := "x"
	return []operation{
		{name: "list", needs: "l", do: func(b *Box, _ mailbox.Folder) error {
			infos, err := b.Folders()
			if err == nil && len(infos) == 0 {
				err = mailbox.ErrNoFolder
			}
			return err
		}},
		{name: "rights", any: "lrikxa", do: func(b *Box, _ mailbox.Folder) error { _, err := b.Rights(shared); return err }},
		{name: "open folder", any: "lrikxa", do: func(b *Box, _ mailbox.Folder) error { _, err := b.Folder(shared); return err }},
		{name: "snapshot", needs: "r", do: func(_ *Box, f mailbox.Folder) error { _, err := f.Snapshot(); return err }},
		{name: "status", needs: "r", do: func(_ *Box, f mailbox.Folder) error { _, err := f.Status(); return err }},
		{name: "meta", needs: "r", do: func(_ *Box, f mailbox.Folder) error { _, err := f.Meta(1); return err }},
		{name: "reader", needs: "r", do: func(_ *Box, f mailbox.Folder) error {
			_, err := f.(mailbox.Indexed).Reader().Summary(1)
			return err
		}},
		{name: "open", needs: "r", do: func(_ *Box, f mailbox.Folder) error {
			body, err := f.Open(1)
			if err == nil {
				err = body.Close()
			}
			return err
		}},
		{name: "internal date", needs: "r", do: func(_ *Box, f mailbox.Folder) error { _, err := f.InternalDate(1); return err }},
		{name: "save date", needs: "r", do: func(_ *Box, f mailbox.Folder) error { _, err := f.SaveDate(1); return err }},
		{name: "email id", needs: "r", do: func(_ *Box, f mailbox.Folder) error { _, err := f.EmailID(1); return err }},
		{name: "expunged since", needs: "r", do: func(_ *Box, f mailbox.Folder) error { _, _, err := f.ExpungedSince(1); return err }},
		{name: "+seen", needs: "s", do: flags(mailbox.FlagsAdd, mailbox.Seen)},
		{name: "-seen", needs: "s", do: flags(mailbox.FlagsRemove, mailbox.Seen)},
		{name: "+deleted", needs: "t", do: flags(mailbox.FlagsAdd, mailbox.Deleted)},
		{name: "+flagged", needs: "w", do: flags(mailbox.FlagsAdd, mailbox.Flagged)},
		{name: "+keyword", needs: "w", do: flags(mailbox.FlagsAdd, 0, "$x")},
		{name: "no flags", any: "stw", do: flags(mailbox.FlagsSet, 0)},
		{name: "all flags", any: "stw", do: flags(mailbox.FlagsSet, mailbox.Seen|mailbox.Deleted|mailbox.Draft, "$x")},
		{name: "expunge", needs: "e", do: func(_ *Box, f mailbox.Folder) error { _, err := f.Expunge(nil); return err }},
		{name: "expunge deleted", needs: "e", do: func(_ *Box, f mailbox.Folder) error { _, err := f.ExpungeDeleted(nil); return err }},
		{name: "append", needs: "i", do: func(b *Box, _ mailbox.Folder) error {
			_, err := b.Append(shared, []mailbox.NewMessage{{Message: w.stage("a: b\n\nc\n")}})
			return err
		}},
		{name: "copy", needs: "ri", do: func(_ *Box, f mailbox.Folder) error { _, err := f.Copy(one, shared); return err }},
		{name: "move", needs: "rtei", do: func(_ *Box, f mailbox.Folder) error { _, err := f.Move(one, shared); return err }},
		{name: "create below", needs: "k", do: func(b *Box, _ mailbox.Folder) error { return b.CreateFolder(shared+"/Below", "") }},
		{name: "rename below", needs: "xk", do: func(b *Box, _ mailbox.Folder) error {
			return b.RenameFolder("ann@example.test/Shared/Old", shared+"/New")
		}},
		{name: "delete", needs: "x", do: func(b *Box, _ mailbox.Folder) error { return b.DeleteFolder("ann@example.test/Shared/Old") }},
		{name: "acl", needs: "a", do: func(b *Box, _ mailbox.Folder) error { _, err := b.ACL(shared); return err }},
		{name: "set acl", needs: "a", do: func(b *Box, _ mailbox.Folder) error { return b.SetACL(shared, "cy@example.test", "l") }},
		{name: "set metadata", needs: "lw", do: func(b *Box, _ mailbox.Folder) error {
			return b.SetMetadata(shared, map[string]*string{"/shared/comment": &text})
		}},
	}
}

// allowed tells whether an operation should be.
func (o operation) allowed(has mailbox.Rights) bool {
	if o.any != "" {
		return strings.ContainsAny(string(has), o.any)
	}
	for _, c := range []byte(o.needs) {
		if !has.Has(c) {
			return false
		}
	}
	return true
}

// Each right alone, each beside l and r, each missing from all, all and none: they
// allow their operations, and no others.
func TestRightsAndOperations(t *testing.T) {
	sets := []mailbox.Rights{"", mailbox.AllRights, "rtei", "ri", "xk"}
	for _, c := range string(mailbox.AllRights) {
		beside, _ := mailbox.ParseRights("lr" + string(c))
		sets = append(sets, mailbox.Rights(c), beside, mailbox.Rights(strings.ReplaceAll(string(mailbox.AllRights), string(c), "")))
	}
	for _, has := range sets {
		for i := range operations(nil) {
			w := newWorld(t, ann, bob)
			o := operations(w)[i]
			own := w.own(ann)
			w.must(own.CreateFolder("Shared", ""))
			w.must(own.CreateFolder("Shared/Old", ""))
			w.put(own, "Shared", mailbox.Flags{})
			// The handle is of a time when there was a right.
			w.must(own.SetACL("Shared", string(bob), "l"))
			b := w.view(bob)
			f, err := b.Folder(shared)
			w.must(err)
			w.must(own.SetACL("Shared", string(bob), has))
			w.must(own.SetACL("Shared/Old", string(bob), has))
			err = o.do(b, f)
			want := error(nil)
			switch {
			case o.allowed(has):
			case has.Has('l') || has.Has('r'):
				want = mailbox.ErrNoRight
				if o.name == "list" {
					want = mailbox.ErrNoFolder
				}
			default:
				want = mailbox.ErrNoFolder
			}
			if !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("%q: %s: %v, want %v", has, o.name, err, want)
			}
			b.Close()
			own.Close()
		}
	}
}

// Flags that one may not change stay, and those that one may not set are not.
func TestSomeFlags(t *testing.T) {
	w := newWorld(t, ann, bob)
	own, b := w.own(ann), w.view(bob)
	w.must(own.CreateFolder("Shared", ""))
	full := mailbox.Flags{System: mailbox.Seen | mailbox.Deleted | mailbox.Flagged, Keywords: []string{"$a", "$b"}}
	for _, c := range []struct {
		has         mailbox.Rights
		store       mailbox.Flags
		left, added mailbox.Flags
	}{
		{"lrs", mailbox.Flags{}, mailbox.Flags{System: mailbox.Deleted | mailbox.Flagged, Keywords: full.Keywords}, mailbox.Flags{System: mailbox.Seen}},
		{"lrt", mailbox.Flags{System: mailbox.Deleted}, full, mailbox.Flags{System: mailbox.Deleted}},
		{"lrw", mailbox.Flags{System: mailbox.Draft, Keywords: []string{"$b", "$c"}}, mailbox.Flags{System: mailbox.Seen | mailbox.Deleted | mailbox.Draft, Keywords: []string{"$b", "$c"}},
			mailbox.Flags{System: mailbox.Flagged, Keywords: full.Keywords}},
		{"lrswt", mailbox.Flags{}, mailbox.Flags{}, full},
	} {
		w.must(own.SetACL("Shared", string(bob), c.has+"i"))
		uid := w.put(own, "Shared", full)
		f, err := b.Folder(shared)
		w.must(err)
		r, err := f.SetFlags([]mailbox.UID{uid}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: c.store})
		w.must(err)
		if len(r.Changed) != 1 || !r.Changed[0].Flags.Equal(c.left) {
			t.Errorf("%s: %+v, want %+v", c.has, r.Changed, c.left)
		}
		// A condition holds for all of it.
		r, err = f.SetFlags([]mailbox.UID{uid}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: full, Conditional: true, UnchangedSince: 1})
		w.must(err)
		if len(r.Changed) != 0 || len(r.Modified) != 1 {
			t.Errorf("%s: conditional: %+v", c.has, r)
		}
		put, err := b.Append(shared, []mailbox.NewMessage{{Message: w.stage("a: b\n\nc\n"), Flags: full}})
		w.must(err)
		snap, err := f.Snapshot()
		w.must(err)
		if m := snap.Messages.Get(put.UIDs[0]); !m.Flags.Equal(c.added) {
			t.Errorf("%s: appended with %+v, want %+v", c.has, m.Flags, c.added)
		}
	}
}
