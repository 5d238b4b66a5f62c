package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/maildir"
	"waypost/backend/maildir/uidlist"
	"waypost/backend/quota"
	"waypost/internal/vfs"
)

// tree makes a mailbox with files, by path below the user's folder.
func tree(t *testing.T, files map[string]string) Options {
	t.Helper()
	root := filepath.Join(t.TempDir(), "u")
	if err := maildir.Create(vfs.OS, root); err != nil {
		t.Fatal(err)
	}
	for path, data := range files {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return Options{FS: vfs.OS, Root: root, Now: time.Now}
}

// all runs both halves of a check.
func all(t *testing.T, o Options) Report {
	t.Helper()
	r, err := Names(context.Background(), o)
	if err == nil {
		err = Messages(context.Background(), o, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// dovecot is a tree as Dovecot 2.3 leaves it.
func dovecot() map[string]string {
	return map[string]string{
		"Maildir/cur/1700000000.M1P1.h,S=4,W=6:2,PSZa":          "a\nb\n",
		"Maildir/cur/1700000001.M1P1.h:2,":                      "a\r\nb\n",
		"Maildir/new/1700000002.M1P1.h,S=4,W=5":                 "abc\n",
		"Maildir/dovecot-uidlist":                               "3 V1234 N9 G0123456789abcdef0123456789abcdef\n4 Polduidl O2 :1700000000.M1P1.h,S=4,W=6\n6 Gguid1 :1700000001.M1P1.h\n7 :gone\n",
		"Maildir/dovecot-keywords":                              "0 $Forwarded\n",
		"Maildir/dovecot-uidvalidity":                           "000004d2",
		"Maildir/dovecot-uidvalidity.000004d2":                  "",
		"Maildir/dovecot.index.log":                             "x",
		"Maildir/dovecot.index.cache":                           "x",
		"Maildir/dovecot.list.index.log":                        "x",
		"Maildir/dovecot.mailbox.log":                           "x",
		"Maildir/dovecot-acl-list":                              "",
		"Maildir/subscriptions":                                 "INBOX\nA.B\n",
		"Maildir/maildirsize":                                   "1000S\n13 3\n",
		"Maildir/.A.B/maildirfolder":                            "",
		"Maildir/.Entw&APw-rfe/cur/1700000003.M1P1.h,S=1,W=1:2": "x",
		"Maildir/.Entw&APw-rfe/dovecot-uidlist":                 "3 V1235 N2 G0123456789abcdef0123456789abcdee\n1 :1700000003.M1P1.h,S=1,W=1\n",
		"deliveries":                                            "",
	}
}

func TestHealthyDovecotTree(t *testing.T) {
	o := tree(t, dovecot())
	if err := os.WriteFile(filepath.Join(o.Root, "Maildir/maildirsize"), []byte("1000S\n14 4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Deep = true
	if r := all(t, o); len(r.Findings) > 0 || r.Doubtful() {
		t.Errorf("%+v", r.Findings)
	}
}

func TestFindings(t *testing.T) {
	for _, c := range []struct {
		name, path, data string
		kind             string
		level            control.Level
		folder           string
		deep             bool
	}{
		{"W=", "Maildir/cur/1700000009.M1P1.h,S=4,W=9:2,", "a\nb\n", control.KindSize, control.LevelProblem, "", true},
		{"zeros", "Maildir/cur/1700000009.M1P1.h:2,", "a\n" + strings.Repeat("\x00", 100), control.KindZeros, control.LevelProblem, "", true},
		{"letters", "Maildir/cur/1700000009.M1P1.h:2,q", "a\n", control.KindKeywords, control.LevelInfo, "INBOX", false},
		{"put by hand", "Maildir/cur/by-hand", "a\n", control.KindUnnumbered, control.LevelInfo, "INBOX", false},
		{"no uidlist", "Maildir/.New/new/1700000009.M1P1.h", "a\n", control.KindUIDList, control.LevelInfo, "New", false},
		{"no folder", "Maildir/..x/file", "a\n", control.KindForeign, control.LevelInfo, "", false},
		{"folder in a folder", "Maildir/.A.B/sub/file", "a\n", control.KindForeign, control.LevelInfo, "A/B", false},
		{"hidden message", "Maildir/cur/.hidden", "a\n", control.KindForeign, control.LevelInfo, "INBOX", false},
		{"foreign", "notes", "a\n", control.KindForeign, control.LevelInfo, "", false},
		{"lock of a folder", "Maildir/.A.B/dovecot-uidlist.lock", "a\n", control.KindDotlock, control.LevelProblem, "A/B", false},
		{"empty state", "Maildir/waypost-state", "", control.KindState, control.LevelProblem, "INBOX", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := dovecot()
			delete(files, "Maildir/maildirsize")
			files[c.path] = c.data
			o := tree(t, files)
			o.Deep = c.deep
			r := all(t, o)
			if !slices.ContainsFunc(r.Findings, func(f control.Finding) bool {
				return f.Kind == c.kind && f.Level == c.level && (c.folder == "" || f.Folder == c.folder) && f.Do != ""
			}) {
				t.Errorf("%+v", r.Findings)
			}
		})
	}
}

// TestLitter is two days later.
func TestLitter(t *testing.T) {
	files := dovecot()
	delete(files, "Maildir/maildirsize")
	for _, litter := range []string{
		"Maildir/tmp/1700000005.M1P1.h", "Maildir/.A.B/tmp/1700000006.M1P1.h", "Maildir/..waypost-gone/cur/1700000006.M1P1.h",
		"Maildir/.waypost-tmp-1", "Maildir/maildirsize.new.x", ".waypost-tmp-2",
	} {
		files[litter] = "x"
	}
	o := tree(t, files)
	if r := all(t, o); len(r.Findings) > 0 {
		t.Errorf("too early: %+v", r.Findings)
	}
	o.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	r := all(t, o)
	if len(r.Findings) != 6 || slices.ContainsFunc(r.Findings, func(f control.Finding) bool { return f.Kind != control.KindLitter }) {
		t.Errorf("%+v", r.Findings)
	}
	var did []control.Step
	open, err := Mend(context.Background(), o, quota.Limit{}, func(s control.Step) { did = append(did, s) })
	if err != nil || len(open) > 0 || len(did) != 1 {
		t.Errorf("%v %+v %v", open, did, err)
	}
	if r := all(t, o); len(r.Findings) > 0 {
		t.Errorf("after: %+v", r.Findings)
	}
}

// TestCheckWritesNothing runs a check of a damaged tree on a file system that
// refuses to be changed.
func TestCheckWritesNothing(t *testing.T) {
	files := dovecot()
	files["Maildir/waypost-state"] = "rubbish\n"
	files["Maildir/waypost-index"] = strings.Repeat("x", 1000)
	files["Maildir/dovecot-uidlist"] += "torn"
	files["deliveries"] = "rubbish\n"
	o := tree(t, files)
	o.FS = readOnly{vfs.OS}
	if r := all(t, o); len(r.Findings) < 4 {
		t.Errorf("%+v", r.Findings)
	}
	for path, want := range files {
		if got, err := os.ReadFile(filepath.Join(o.Root, path)); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", path, got, err)
		}
	}
}

func TestSalvage(t *testing.T) {
	e := func(uid uint32, base string) uidlist.Entry { return uidlist.Entry{UID: uid, Base: base} }
	for _, c := range []struct {
		name, lines string
		want        []uidlist.Entry
		lost        int
		next        uint32
	}{
		{"all", "1 :a\n2 :b\n", []uidlist.Entry{e(1, "a"), e(2, "b")}, 0, 9},
		{"order", "7 :c\n2 :b\n20 :d\n", []uidlist.Entry{e(2, "b"), e(7, "c"), e(20, "d")}, 0, 21},
		{"rubbish", "1 :a\nwhat\n\x00\x00\n3 :c\n", []uidlist.Entry{e(1, "a"), e(3, "c")}, 2, 9},
		{"torn", "1 :a\n30 :b", []uidlist.Entry{e(1, "a")}, 1, 9},
		{"one UID, two files", "1 :a\n2 :b\n2 :c\n3 :d\n", []uidlist.Entry{e(1, "a"), e(3, "d")}, 1, 9},
		{"one file, two UIDs", "1 :a\n4 :b\n3 :a\n", []uidlist.Entry{e(3, "a"), e(4, "b")}, 0, 9},
		{"used up", "4294967290 :a\n1 :b\n", []uidlist.Entry{e(1, "b")}, 1, 9},
	} {
		s, err := salvage([]byte("3 V5 N9 Gx Kother\n" + c.lines))
		if err != nil || !slices.Equal(s.entries, c.want) || s.lost != c.lost || s.header.Next != c.next || s.header.Validity != 5 || s.header.GUID != "x" {
			t.Errorf("%s: %+v %v", c.name, s, err)
		}
	}
	for _, data := range []string{"", "3 Vx N1\n1 :a\n", "1 :a\n", "3 V1\n"} {
		if _, err := salvage([]byte(data)); !errors.Is(err, errNoHeader) {
			t.Errorf("%q: %v", data, err)
		}
	}
}

// FuzzSalvage: whatever the bytes, what is kept can be written and read again, and
// the next UID is over all.
func FuzzSalvage(f *testing.F) {
	for _, seed := range []string{"3 V5 N9\n1 :a\n", "3 V5 N9\n2 :b\n1 :a\n1 :c\nx\n", "3 V5 N9\n4294967295 :a\n", "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := salvage(data)
		if err != nil {
			return
		}
		text := fmt.Sprintf("3 V%d N%d\n", s.header.Validity, gapped(s.header.Next, s.lost))
		for _, e := range s.entries {
			text += strings.TrimSuffix(fmt.Sprintf("%d %s", e.UID, e.Fields), " ") + " :" + e.Base + "\n"
		}
		p, err := uidlist.Parse(strings.NewReader(text))
		if err != nil || len(p.Entries) != len(s.entries) || p.Salvaged {
			t.Fatalf("%q: %+v %v", text, p, err)
		}
		for _, e := range p.Entries {
			if e.UID >= p.Header.Next {
				t.Fatalf("UID %d is not below %d", e.UID, p.Header.Next)
			}
		}
	})
}

func TestTopUID(t *testing.T) {
	for text, want := range map[string]uint64{
		"":                                   0,
		"00000000 m 5 1:3,9\n":               9,
		"00000000 x 5 12\n00000000 s 99 4\n": 12,
		"00000000 k 5 word 3,7:11 =text\n":   11,
		"00000000 a 5 key =77\n":             0,
		"00000000 c 500\n00000000 b 1 2\n":   0,
	} {
		if got := topUID(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
