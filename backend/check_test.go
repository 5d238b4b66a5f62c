package backend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/cluster"
)

func (r *rig) controlOf(id director.BackendID) *control.Client {
	return control.NewClient(r.admin, r.nodes[id].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: string(id)})
}

// check gives the findings of a check; user "" is all.
func (r *rig) check(id director.BackendID, user director.User, deep bool) (found []control.Finding) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	err := r.controlOf(id).Check(ctx, control.CheckRequest{User: user, Deep: deep}, func(l control.CheckLine) error {
		if l.Finding != nil {
			found = append(found, *l.Finding)
		}
		return nil
	})
	r.must(err)
	return found
}

func (r *rig) repair(id director.BackendID, deep bool) (steps []control.Step, err error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	err = r.controlOf(id).Repair(ctx, control.RepairRequest{User: alice, Deep: deep}, func(l control.CheckLine) error {
		if l.Step != nil {
			steps = append(steps, *l.Step)
		}
		return nil
	})
	return steps, err
}

func problems(found []control.Finding) (kinds []string) {
	for _, f := range found {
		if f.Problem() {
			kinds = append(kinds, f.Kind)
		}
	}
	return kinds
}

// shut closes alice's mailbox, so that a test can damage its files.
func (r *rig) shut(id director.BackendID) {
	r.t.Helper()
	b := r.nodes[id]
	u := b.use(alice)
	defer b.release(u)
	u.mu.Lock()
	defer u.mu.Unlock()
	r.must(u.closeAccount())
}

// content is the bytes of all messages, by base.
func content(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if dir := filepath.Base(filepath.Dir(path)); err != nil || e.IsDir() || dir != "cur" && dir != "new" {
			return err
		}
		data, err := os.ReadFile(path)
		base, _, _ := strings.Cut(e.Name(), ":2,")
		all[base] = fmt.Sprintf("%x", sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// numbers gives UIDVALIDITY and the UIDs of a folder, by unique name.
func (r *rig) numbers(id director.BackendID, folder string) (uint32, map[string]mailbox.UID) {
	r.t.Helper()
	box, err := r.nodes[id].Open(r.t.Context(), alice, id, r.nodes[id].fenceOf(alice).Epoch)
	r.must(err)
	defer box.Close()
	f, err := box.Folder(folder)
	r.must(err)
	s, err := f.Snapshot()
	r.must(err)
	uids := map[string]mailbox.UID{}
	for _, m := range s.Messages.All() {
		uids[m.GUID] = m.UID
	}
	return s.UIDValidity, uids
}

// furnish makes alice a mailbox with two folders, and gives her Maildir.
func (r *rig) furnish(id director.BackendID) string {
	r.t.Helper()
	rec := r.create(id)
	for i := range 6 {
		r.must(r.deliver(id, rec.Epoch, fmt.Sprint("d", i), fmt.Sprintf("Subject: %d\r\n\r\nbody %d\r\n", i, i)))
	}
	box, err := r.nodes[id].Open(r.t.Context(), alice, id, rec.Epoch)
	r.must(err)
	defer box.Close()
	r.must(box.CreateFolder("Archive", ""))
	in, err := box.Folder("INBOX")
	r.must(err)
	s, err := in.Snapshot()
	r.must(err)
	_, err = in.SetFlags([]mailbox.UID{s.Messages.At(0).UID}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: mailbox.Flags{System: mailbox.Seen, Keywords: []string{"work"}}})
	r.must(err)
	_, err = in.Move([]mailbox.UID{s.Messages.At(1).UID}, "Archive")
	r.must(err)
	_, err = in.Expunge([]mailbox.UID{s.Messages.At(2).UID})
	r.must(err)
	return filepath.Join(r.nodes[id].disk.live(alice), "Maildir")
}

func edit(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func appended(text string) func([]byte) []byte {
	return func(b []byte) []byte { return append(b, text...) }
}

// oneOf gives a message of a folder.
func oneOf(t *testing.T, dir string) string {
	t.Helper()
	for _, sub := range []string{"cur", "new"} {
		if found, _ := filepath.Glob(filepath.Join(dir, sub, "*")); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatalf("no message in %s", dir)
	return ""
}

// TestDamage makes each kind of damage by hand, and wants it found, mended, and
// nothing else changed.
func TestDamage(t *testing.T) {
	uidlist := func(change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) { edit(t, filepath.Join(dir, "dovecot-uidlist"), change) }
	}
	lines := func(change func(l []string) []string) func(*testing.T, string) {
		return uidlist(func(b []byte) []byte {
			l := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
			return []byte(strings.Join(change(l), "\n") + "\n")
		})
	}
	file := func(name string, change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) { edit(t, filepath.Join(dir, name), change) }
	}
	const (
		mended = iota
		left   // a human, or the store, has to do it
	)
	for _, c := range []struct {
		name, kind string
		damage     func(t *testing.T, dir string)
		info       bool // said as info
		after      int
		// fresh is how many messages get other UIDs; validity says that all do.
		fresh    int
		validity bool
		// gone messages, or changed ones, are the damage itself.
		gone int
	}{
		{name: "quota total", kind: control.KindQuota, damage: file("maildirsize", appended("1000 3\n"))},
		{name: "quota garbage", kind: control.KindQuota, damage: file("maildirsize", func([]byte) []byte { return []byte("what?\n\n") })},
		{name: "uidlist line", kind: control.KindUIDList, damage: lines(func(l []string) []string { return slices.Insert(l, 1, "rubbish") })},
		{name: "uidlist order", kind: control.KindUIDList, damage: lines(func(l []string) []string { l[1], l[2] = l[2], l[1]; return l })},
		{name: "uidlist line lost", kind: control.KindUIDList, fresh: 1, damage: lines(func(l []string) []string { l[1] = "x" + l[1]; return l })},
		{name: "uidlist UID twice", kind: control.KindUIDList, damage: lines(func(l []string) []string { return append(l, l[1]) })},
		{name: "uidlist torn", kind: control.KindUIDList, damage: uidlist(appended("99 :to"))},
		{name: "uidlist header", kind: control.KindUIDList, validity: true, damage: lines(func(l []string) []string { l[0] = "3 Vx"; return l })},
		{name: "uidlist missing", kind: control.KindUIDList, validity: true, damage: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "dovecot-uidlist")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "uidlist of yesterday", kind: control.KindUIDNext, fresh: 2, damage: lines(func(l []string) []string {
			l[0] = strings.Join(slices.DeleteFunc(strings.Fields(l[0]), func(f string) bool { return f[0] == 'N' }), " ") + " N1"
			return l[:len(l)-2]
		})},
		{name: "state", kind: control.KindState, damage: file("waypost-state", appended("0000 rubbish\n"))},
		{name: "state of another", kind: control.KindState, damage: func(t *testing.T, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, ".Archive", "waypost-state"))
			if err != nil {
				t.Fatal(err)
			}
			edit(t, filepath.Join(dir, "waypost-state"), func([]byte) []byte { return data })
		}},
		{name: "index", kind: control.KindIndex, info: true, damage: file("waypost-index", func([]byte) []byte { return bytes.Repeat([]byte("x"), 4000) })},
		{name: "keywords", kind: control.KindKeywords, damage: file("dovecot-keywords", appended("not a line\n"))},
		{name: "delivery ids", kind: control.KindLog, damage: file("../deliveries", appended("rubbish\n"))},
		{name: "memories", kind: control.KindLog, damage: file("../memories", appended("rubbish"))},
		{name: "file removed", kind: control.KindVanished, gone: 1, damage: func(t *testing.T, dir string) {
			if err := os.Remove(oneOf(t, filepath.Join(dir, ".Archive"))); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "size", kind: control.KindSize, damage: func(t *testing.T, dir string) { edit(t, oneOf(t, dir), appended("more\n")) }},
		{name: "empty", kind: control.KindEmpty, after: left, damage: func(t *testing.T, dir string) {
			edit(t, oneOf(t, dir), func([]byte) []byte { return nil })
		}},
		{name: "twice", kind: control.KindTwice, after: left, damage: func(t *testing.T, dir string) {
			old := oneOf(t, dir)
			base, _, _ := strings.Cut(filepath.Base(old), ":2,")
			if err := os.Link(old, filepath.Join(dir, "cur", base+":2,DF")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "lock", kind: control.KindDotlock, after: left, damage: file("dovecot-uidlist.lock", appended("1:host"))},
		{name: "foreign", kind: control.KindForeign, info: true, after: left, damage: file("notes.txt", appended("remember the milk"))},
		{name: "cur of a folder", kind: control.KindTree, after: left, gone: 1, damage: func(t *testing.T, dir string) {
			for _, sub := range []string{"cur", "new"} {
				if err := os.RemoveAll(filepath.Join(dir, ".Archive", sub)); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, "b1")
			dir := r.furnish("b1")
			if found := r.check("b1", alice, true); len(found) > 0 {
				t.Fatalf("healthy, but: %+v", found)
			}
			validity, uids := r.numbers("b1", "INBOX")
			r.shut("b1")
			before := content(t, dir)
			c.damage(t, dir)
			damaged := content(t, dir)
			found := r.check("b1", alice, false)
			var kinds []string
			for _, f := range found {
				if f.Problem() != c.info {
					kinds = append(kinds, f.Kind)
				}
			}
			if !slices.Contains(kinds, c.kind) {
				t.Fatalf("%s was not found: %+v", c.kind, found)
			}
			if again := content(t, dir); !maps.Equal(again, damaged) {
				t.Error("the check has changed messages")
			}
			steps, err := r.repair("b1", false)
			r.must(err)
			t.Logf("found %+v\nsteps %+v", found, steps)
			if again := content(t, dir); !maps.Equal(again, damaged) || len(again) != len(before)-c.gone {
				t.Error("the repair has changed messages")
			}
			rest := problems(r.check("b1", alice, false))
			if c.after == left {
				if !c.info && (!slices.Contains(rest, c.kind) || !slices.ContainsFunc(steps, func(s control.Step) bool { return s.Left })) {
					t.Errorf("left: %v, steps %+v", rest, steps)
				}
				return
			}
			if len(rest) > 0 {
				t.Errorf("after the repair: %v", rest)
			}
			now, again := r.numbers("b1", "INBOX")
			if c.validity {
				if now <= validity || len(again) != len(uids) {
					t.Errorf("UIDVALIDITY %d after %d, %d messages", now, validity, len(again))
				}
				return
			}
			sameNumbers(t, validity, now, uids, again, c.fresh)
			if found := r.check("b1", alice, true); len(problems(found)) > 0 {
				t.Errorf("opened after the repair: %+v", found)
			}
		})
	}
}

// sameNumbers wants all but fresh messages to have the UIDs they had, and those to
// have UIDs that nobody had.
func sameNumbers(t *testing.T, validity, now uint32, before, after map[string]mailbox.UID, fresh int) {
	t.Helper()
	if now != validity || len(before) != len(after) {
		t.Errorf("UIDVALIDITY %d after %d, %d messages after %d", now, validity, len(after), len(before))
	}
	highest, changed := mailbox.UID(0), 0
	for _, uid := range before {
		highest = max(highest, uid)
	}
	for guid, uid := range after {
		if before[guid] == uid {
			continue
		}
		if changed++; uid <= highest {
			t.Errorf("UID %d was given again", uid)
		}
	}
	if changed != fresh {
		t.Errorf("%d messages have other UIDs, want %d: %v, %v", changed, fresh, before, after)
	}
}

// TestCheckWhileDelivering: a check beside deliveries, flag changes and expunges
// finds nothing.
func TestCheckWhileDelivering(t *testing.T) {
	r := newRig(t, "b1")
	r.furnish("b1")
	epoch := r.nodes["b1"].fenceOf(alice).Epoch
	var work sync.WaitGroup
	for w := range 3 {
		work.Go(func() {
			for i := range 40 {
				if err := r.deliver("b1", epoch, fmt.Sprintf("w%d.%d", w, i), "Subject: x\r\n\r\ny\r\n"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	work.Go(func() {
		for range 20 {
			if err := r.churn("b1", epoch); err != nil {
				t.Error(err)
				return
			}
		}
	})
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	for n := 0; ; n++ {
		if found := r.check("b1", alice, false); len(problems(found)) > 0 {
			t.Errorf("check %d: %+v", n, found)
		}
		select {
		case <-done:
			if found := r.check("b1", "", true); len(found) > 0 {
				t.Errorf("afterwards: %+v", found)
			}
			return
		default:
		}
	}
}

// churn flags, moves and expunges what there is.
func (r *rig) churn(id director.BackendID, epoch director.Epoch) error {
	box, err := r.nodes[id].Open(context.Background(), alice, id, epoch)
	if err != nil {
		return err
	}
	defer box.Close()
	f, err := box.Folder("INBOX")
	if err != nil {
		return err
	}
	s, err := f.Snapshot()
	if err != nil || s.Messages.Len() < 4 {
		return err
	}
	uid := func(i int) []mailbox.UID { return []mailbox.UID{s.Messages.At(i).UID} }
	_, one := f.SetFlags(uid(0), mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Flagged}})
	_, two := f.Move(uid(1), "Archive")
	_, three := f.Expunge(uid(2))
	return errors.Join(one, two, three)
}
