package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/backend/scripts"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/vfs"
)

// plant makes files, by path; a path that ends in "/" is a folder, a text that
// begins with "->" a symbolic link.
func plant(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for _, rel := range slices.Sorted(maps.Keys(files)) {
		path, text := filepath.Join(root, rel), files[rel]
		dir := filepath.Dir(path)
		if strings.HasSuffix(rel, "/") {
			dir = path
		}
		err := os.MkdirAll(dir, 0o700)
		if to, link := strings.CutPrefix(text, "->"); err == nil && link {
			err = os.Symlink(to, path)
		} else if err == nil && dir != path {
			err = os.WriteFile(path, []byte(text), 0o600)
			if err == nil && strings.Contains(rel, ",S=") {
				err = os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// dovecotTree is a Maildir++ as Dovecot leaves it, with a gap in the UIDs.
func dovecotTree() map[string]string {
	return map[string]string{
		"tmp/": "", "new/": "", ".Sent/new/": "", ".Sent/tmp/": "", ".Sent.Old/cur/": "", ".Sent.Old/new/": "", ".Sent.Old/tmp/": "",
		"cur/1000000001.M1P1.host,S=4,W=5:2,FS":       "a: b",
		"cur/1000000002.M2P1.host,S=7,W=8:2,a":        "c: long",
		".Sent/cur/1000000003.M3P1.host,S=3,W=4:2,RS": "e:f",
		"dovecot-uidlist":                             "3 V1234 N100 G0123456789abcdef0123456789abcdef\n7 W5 :1000000001.M1P1.host,S=4,W=5\n42 Polder.id :1000000002.M2P1.host,S=7,W=8\n",
		".Sent/dovecot-uidlist":                       "3 V1235 N5 Gfedcba9876543210fedcba9876543210\n4 :1000000003.M3P1.host,S=3,W=4\n",
		".Sent/maildirfolder":                         "", ".Sent.Old/maildirfolder": "",
		"dovecot-keywords": "0 $Work\n", "subscriptions": "V\t2\n\nSent\nSent\tOld\n", "maildirsize": "100000S\n14 3\n",
		"dovecot-uidvalidity": "00000500", "dovecot.index.log": "derived", ".Sent/dovecot.index.cache": "derived",
		"tmp/half": "litter", "note from the user": "kept",
	}
}

// snapshotOf lists a tree: names, contents, times, numbers of names.
func snapshotOf(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		text := []byte{}
		if info.Mode().IsRegular() {
			text, err = os.ReadFile(path)
		}
		fmt.Fprintf(&b, "%s %s %d %d %q\n", path, info.Mode(), info.ModTime().UnixNano(), info.Sys().(*syscall.Stat_t).Ino, text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (r *rig) takeOver(id director.BackendID, req control.AdoptRequest) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c := control.NewClient(r.admin, r.nodes[id].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: string(id)})
	done, err := c.Adopt(ctx, req, func(control.PullProgress) {})
	if err == nil && !done.Done {
		r.t.Errorf("%+v", done)
	}
	return err
}

func (r *rig) publish(id director.BackendID) director.Record {
	r.t.Helper()
	rec, err := director.Create(nil, id)
	r.must(err)
	r.must(r.dir.CreateUser(context.Background(), alice, rec, director.Account{Created: time.Now()}))
	return rec
}

// described is what a mailbox holds, a line per message and folder.
func (r *rig) described(id director.BackendID, rec director.Record) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	box, err := r.nodes[id].Open(ctx, alice, id, rec.Epoch)
	r.must(err)
	defer box.Close()
	var b strings.Builder
	list, err := box.Folders()
	r.must(err)
	for _, info := range list {
		if info.NoSelect {
			continue
		}
		f, err := box.Folder(info.Name)
		r.must(err)
		s, err := f.Snapshot()
		r.must(err)
		fmt.Fprintf(&b, "%s validity %d next %d subscribed %v\n", info.Name, s.UIDValidity, s.UIDNext, info.Subscribed)
		ids, err := f.(mailbox.OlderIDs).OlderIDs()
		r.must(err)
		for _, m := range s.Messages.All() {
			date, err := f.InternalDate(m.UID)
			r.must(err)
			fmt.Fprintf(&b, "  %d size %d flags %v %q at %d %+v\n", m.UID, m.Size, m.Flags.System, m.Flags.Keywords, date.Unix(), ids[m.UID])
		}
	}
	usage, err := box.Usage()
	r.must(err)
	fmt.Fprintf(&b, "%d bytes, %d messages\n", usage.Bytes, usage.Messages)
	return b.String()
}

const dovecotHolds = `INBOX validity 1234 next 100 subscribed false
  7 size 4 flags 5 [] at 1000000000 {Kept: GUID:1000000001.M1P1.host,S=4,W=5 File:1000000001.M1P1.host,S=4,W=5}
  42 size 7 flags 0 ["$Work"] at 1000000000 {Kept:older.id GUID:1000000002.M2P1.host,S=7,W=8 File:1000000002.M2P1.host,S=7,W=8}
Sent validity 1235 next 5 subscribed true
  4 size 3 flags 3 [] at 1000000000 {Kept: GUID:1000000003.M3P1.host,S=3,W=4 File:1000000003.M3P1.host,S=3,W=4}
Sent/Old validity N next 1 subscribed true
14 bytes, 3 messages
`

func TestTakeOver(t *testing.T) {
	for _, mode := range []control.AdoptMode{control.AdoptCopy, control.AdoptLink, control.AdoptMove} {
		for _, home := range []string{"", "Maildir"} {
			t.Run(string(mode)+" "+home, func(t *testing.T) {
				r := newRig(t, "b1")
				path := filepath.Join(r.nodes["b1"].cfg.Data, importName, "ann")
				plant(t, filepath.Join(path, home), dovecotTree())
				before := snapshotOf(t, path)
				req := control.AdoptRequest{User: alice, Path: path, Mode: mode}
				for range 2 { // again is as good as once
					r.must(r.takeOver("b1", req))
				}
				r.fenceIs("b1", fence.Fence{State: fence.Sealed})
				if after := snapshotOf(t, path); mode == control.AdoptCopy && after != before {
					t.Errorf("the Maildir changed:\n%s\n%s", before, after)
				}
				rec := r.publish("b1")
				for range 2 {
					r.must(r.takeOver("b1", req))
				}
				got := r.described("b1", rec)
				if want := strings.Replace(dovecotHolds, "validity N", "validity "+between(got, "Sent/Old validity ", " "), 1); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
				_, err := os.Stat(filepath.Join(path, home))
				if removed := errors.Is(err, fs.ErrNotExist); removed != (mode == control.AdoptMove) {
					t.Errorf("removed: %v", removed)
				}
				if mode == control.AdoptLink {
					if after := snapshotOf(t, path); after != before {
						t.Errorf("the Maildir changed:\n%s\n%s", before, after)
					}
				}
				text, err := os.ReadFile(filepath.Join(r.nodes["b1"].disk.live(alice), "Maildir", "note from the user"))
				if err != nil || string(text) != "kept" {
					t.Errorf("a foreign file: %q, %v", text, err)
				}
				other := req
				other.Path = t.TempDir()
				if err := r.takeOver("b1", other); !control.IsCode(err, control.CodeFence) {
					t.Errorf("another Maildir for the same user: %v", err)
				}
			})
		}
	}
}

func between(text, before, after string) string {
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	return text
}

// TestTakeOverRefuses: what is not taken over stays as it was, and so does the
// fence.
func TestTakeOverRefuses(t *testing.T) {
	r := newRig(t, "b1")
	data := r.nodes["b1"].cfg.Data
	with := func(more map[string]string) map[string]string {
		tree := dovecotTree()
		maps.Copy(tree, more)
		return tree
	}
	for _, row := range []struct {
		name string
		tree map[string]string
		code string
		text string
	}{
		{"a dotlock", with(map[string]string{"dovecot-uidlist.lock": "1:host"}), control.CodeUnavailable, "dovecot-uidlist.lock"},
		{"a dotlock of a folder", with(map[string]string{".Sent/dovecot-uidlist.lock": "1:host"}), control.CodeUnavailable, ".Sent/dovecot-uidlist.lock"},
		{"LAYOUT=fs", with(map[string]string{"Archive/2024/cur/": "", "Archive/2024/new/": ""}), control.CodeBad, "Archive/2024 is a folder of Dovecot's LAYOUT=fs"},
		{"mdbox", map[string]string{"mailboxes/": "", "storage/": ""}, control.CodeBad, "mdbox"},
		{"sdbox", map[string]string{"sdbox/mailboxes/": ""}, control.CodeBad, "sdbox"},
		{"nothing", map[string]string{"some file": ""}, control.CodeBad, "no folders cur and new"},
		{"a message elsewhere", with(map[string]string{"cur/5.x,S=1:2,": "->/etc/passwd"}), control.CodeBad, "symbolic link"},
		{"a folder elsewhere", with(map[string]string{".Shared": "->/tmp"}), control.CodeBad, "symbolic link"},
		{"a script elsewhere", with(map[string]string{".dovecot.sieve": "->/etc/passwd"}), control.CodeBad, ".dovecot.sieve"},
		{"courier's list of the future", map[string]string{"cur/": "", "new/": "", "courierimapuiddb": "9 what\n"}, control.CodeBad, "courierimapuiddb"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := t.TempDir()
			plant(t, path, row.tree)
			before := snapshotOf(t, path)
			err := r.takeOver("b1", control.AdoptRequest{User: alice, Path: path, Mode: control.AdoptMove})
			if !control.IsCode(err, row.code) || !strings.Contains(err.Error(), row.text) {
				t.Errorf("%v", err)
			}
			if after := snapshotOf(t, path); after != before {
				t.Errorf("the Maildir changed:\n%s\n%s", before, after)
			}
			r.fenceIs("b1", fence.Fence{State: fence.Missing})
		})
	}
	good := t.TempDir()
	plant(t, good, dovecotTree())
	file := filepath.Join(t.TempDir(), "mbox")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		req  control.AdoptRequest
		code string
	}{
		{control.AdoptRequest{Path: good, Mode: "steal"}, control.CodeBad},
		{control.AdoptRequest{Path: "relative", Mode: control.AdoptCopy}, control.CodeBad},
		{control.AdoptRequest{Path: good + "/../x", Mode: control.AdoptCopy}, control.CodeBad},
		{control.AdoptRequest{Path: good + "/absent", Mode: control.AdoptCopy}, control.CodeBad},
		{control.AdoptRequest{Path: file, Mode: control.AdoptCopy}, control.CodeBad},
		{control.AdoptRequest{Path: filepath.Dir(data), Mode: control.AdoptCopy}, control.CodeBad},
		{control.AdoptRequest{Path: filepath.Join(data, "users"), Mode: control.AdoptCopy}, control.CodeBad},
		{control.AdoptRequest{Path: good, Mode: control.AdoptCopy, POP3UIDL: "%m"}, control.CodeBad},
		{control.AdoptRequest{Path: good, Mode: control.AdoptCopy, Epoch: 4}, control.CodeEpoch},
	} {
		row.req.User = alice
		if err := r.takeOver("b1", row.req); !control.IsCode(err, row.code) {
			t.Errorf("%+v: %v", row.req, err)
		}
	}
	// What is open in another process is in use.
	held := holdOpen(t, filepath.Join(good, "cur"))
	if err := r.takeOver("b1", control.AdoptRequest{User: alice, Path: good, Mode: control.AdoptCopy}); !control.IsCode(err, control.CodeUnavailable) {
		t.Errorf("while another process works there: %v", err)
	}
	held()
	r.must(r.takeOver("b1", control.AdoptRequest{User: alice, Path: good, Mode: control.AdoptCopy}))
}

// TestTakeOverGoesOn: staging that a call left half done is completed, and what
// is no more in the Maildir goes; staging made of another Maildir goes as a whole.
func TestTakeOverGoesOn(t *testing.T) {
	r := newRig(t, "b1")
	b := r.nodes["b1"].Server
	path, other := t.TempDir(), t.TempDir()
	plant(t, path, dovecotTree())
	plant(t, other, map[string]string{"cur/999.other,S=1,W=1:2,": "x", "new/": "", "tmp/": ""})
	ctx := context.Background()
	src, err := openSource(other, b.disk.root)
	r.must(err)
	defer src.close()
	tree, err := src.read()
	r.must(err)
	staging := b.disk.staging(alice)
	r.must(markAdopted(staging, adopted{Path: other}, ""))
	c := &carrier{src: src, to: filepath.Join(staging, sourceName), room: b.roomFor, report: func(control.PullProgress) {}}
	r.must(c.carry(ctx, tree))

	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := b.takeOver(ended, control.AdoptRequest{User: alice, Path: path, Mode: control.AdoptCopy}, c.report); err == nil {
		t.Error("a call that was broken off made it")
	}
	plant(t, staging, map[string]string{"Maildir/cur/.waypost-half": "ha", "Maildir/cur/998.gone,S=1,W=1:2,": "x", "Maildir/cur/1000000001.M1P1.host,S=4,W=5:2,FS": "wrong"})
	r.must(r.takeOver("b1", control.AdoptRequest{User: alice, Path: path, Mode: control.AdoptCopy}))
	rec := r.publish("b1")
	got := r.described("b1", rec)
	if want := strings.Replace(dovecotHolds, "validity N", "validity "+between(got, "Sent/Old validity ", " "), 1); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestTakeOverLate: mail that somebody delivers into a Maildir that is being
// moved is not lost.
func TestTakeOverLate(t *testing.T) {
	r := newRig(t, "b1")
	path := filepath.Join(r.nodes["b1"].cfg.Data, importName, "ann")
	plant(t, path, dovecotTree())
	req := control.AdoptRequest{User: alice, Path: path, Mode: control.AdoptMove}
	r.must(r.takeOver("b1", req))
	r.publish("b1")
	plant(t, path, map[string]string{"new/2000000000.late": "late"})
	before := snapshotOf(t, path)
	if err := r.takeOver("b1", req); !control.IsCode(err, control.CodeFence) || !strings.Contains(err.Error(), "1 messages") {
		t.Errorf("%v", err)
	}
	if after := snapshotOf(t, path); after != before {
		t.Errorf("the Maildir changed:\n%s\n%s", before, after)
	}
}

// TestTakeOverScripts: as Pigeonhole keeps them, beside the Maildir or in it.
func TestTakeOverScripts(t *testing.T) {
	const keep, drop = "keep;\n", "discard;\n"
	for _, row := range []struct {
		name  string
		tree  map[string]string
		all   string
		local string
	}{
		{"a link", map[string]string{"sieve/main.sieve": keep, "sieve/other.sieve": drop, "sieve/main.svbin": "x", ".dovecot.sieve": "->sieve/main.sieve"}, "main* other", keep},
		{"none active", map[string]string{"sieve/main.sieve": keep}, "main", ""},
		{"a file", map[string]string{".dovecot.sieve": drop}, "dovecot*", drop},
		{"a link elsewhere in the home", map[string]string{".dovecot.sieve": "->my rules", "my rules": drop}, "my rules*", drop},
		{"none", map[string]string{}, "", ""},
	} {
		for _, where := range []string{"beside", "inside", "below"} {
			t.Run(row.name+" "+where, func(t *testing.T) {
				r := newRig(t, "b1")
				home := t.TempDir()
				path := home
				plant(t, home, row.tree)
				switch where {
				case "inside":
					plant(t, home, dovecotTree())
				case "beside":
					path = filepath.Join(home, "Maildir")
					fallthrough
				default:
					plant(t, filepath.Join(home, "Maildir"), dovecotTree())
				}
				r.must(r.takeOver("b1", control.AdoptRequest{User: alice, Path: path, Mode: control.AdoptCopy}))
				store := scripts.New(vfs.OS, r.nodes["b1"].disk.staging(alice), scripts.Limits{})
				list, err := store.List()
				r.must(err)
				var names []string
				for _, s := range list {
					if s.Active {
						s.Name += "*"
					}
					names = append(names, s.Name)
				}
				active, err := store.Active()
				r.must(err)
				if strings.Join(names, " ") != row.all || string(active.Source) != row.local {
					t.Errorf("scripts %q, active %q", names, active.Source)
				}
			})
		}
	}
}

// TestTakeOverCourier: Courier's UIDs, subscriptions and POP3 ids.
func TestTakeOverCourier(t *testing.T) {
	r := newRig(t, "b1")
	path := t.TempDir()
	plant(t, path, map[string]string{
		"cur/1000000001.M1P1.host,S=4:2,S": "a: b", "cur/1000000002.M2P1.host,S=7:2,": "c: long", "new/1000000009.new": "n: w", "tmp/": "",
		".Sent/cur/1000000003.M3P1.host,S=3:2,S": "e:f", ".Sent/new/": "", ".Sent/tmp/": "", ".Sent/maildirfolder": "",
		"courierimapuiddb":       "1 777 12\n11 1000000002.M2P1.host,S=7\n5 1000000001.M1P1.host,S=4\n",
		".Sent/courierimapuiddb": "1 778 3\n2 1000000003.M3P1.host,S=3\n",
		"courierpop3dsizelist":   "/2 4 99\n1000000001.M1P1.host,S=4:2,S 5 3:99\n1000000002.M2P1.host,S=7:2, 8 0:0\n",
		"courierimapsubscribed":  "INBOX.Sent\nINBOX\n",
	})
	r.must(r.takeOver("b1", control.AdoptRequest{User: alice, Path: path, Mode: control.AdoptLink}))
	rec := r.publish("b1")
	got := r.described("b1", rec)
	for _, want := range []string{
		"INBOX validity 777 next ", "Sent validity 778 next 3 subscribed true\n  2 size 3",
		"  5 size 4 flags 1 [] at 1000000000 {Kept:UID3-99 ", "  11 size 7 flags 0 [] at 1000000000 {Kept: GUID:1000000002.M2P1.host,S=7 ", "  12 size 4",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	form, err := r.nodes["b1"].uidlOf(alice)
	r.must(err)
	if id := form.Older(mailbox.Message{UID: 11}, 777, mailbox.OlderID{File: "x,S=7"}); id != "x,S=7" {
		t.Errorf("the id of a message without a number is %q", id)
	}
}
