package clustertest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/mutf7"
	"waypost/director"
)

// letters are a Maildir file's flags as IMAP has them; a is the keyword that
// offlineimap is told of.
var letters = map[rune]string{'S': "\\seen", 'R': "\\answered", 'F': "\\flagged", 'D': "\\draft", 'T': "\\deleted", 'P': "$forwarded", 'a': "$urgent"}

// tree is a program that keeps Maildirs equal to a mailbox.
type tree struct {
	c        *clients
	mail     string // the Maildirs
	encode   func(folder string) string
	decode   func(path string) string
	sync     func(*testing.T)
	keywords bool // it shows $urgent
	// trash says how a deletion is made here: by the flag T, or by removing the file.
	trash bool
}

func (c *clients) newMbsyncTree(t *testing.T, u director.User) *tree {
	t.Helper()
	home := filepath.Join(c.dir, "mbsync-two-way")
	w := &tree{c: c, mail: filepath.Join(home, "mail"), trash: true}
	if err := os.MkdirAll(w.mail, 0o700); err != nil {
		t.Fatal(err)
	}
	rc := put(t, home, "mbsyncrc", fmt.Sprintf(`IMAPAccount waypost
Host localhost
Port %d
User %s
Pass %s
AuthMechs PLAIN
SSLType IMAPS
CertificateFile %s
SystemCertificates no

IMAPStore far
Account waypost

MaildirStore near
Path %[5]s/
Inbox %[5]s/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Remove Both
Expunge Both
CopyArrivalDate yes
SyncState *
`, 1993+c.offset, u, password, c.ca, w.mail), 0o600)
	w.encode = func(folder string) string { // names are kept as IMAP has them
		s, err := mutf7.Encode(folder)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.decode = func(path string) string {
		s, err := mutf7.Decode(path)
		if err != nil {
			t.Error(err)
		}
		return s
	}
	w.sync = func(t *testing.T) {
		t.Helper()
		out := strings.ToLower(must(t, home, "mbsync", "-c", rc, "all"))
		if strings.Contains(out, "warning") || strings.Contains(out, "error") {
			t.Errorf("mbsync said:\n%s", out)
		}
	}
	return w
}

func (c *clients) newOfflineimap(t *testing.T, u director.User) *tree {
	t.Helper()
	home := filepath.Join(c.dir, "offlineimap")
	w := &tree{c: c, mail: filepath.Join(home, "mail"), keywords: true}
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	same := func(s string) string { return s }
	w.encode, w.decode = same, same
	rc := put(t, home, "offlineimaprc", fmt.Sprintf(`[general]
accounts = waypost
metadata = %[1]s/state
ui = basic
socktimeout = 30

[Account waypost]
localrepository = near
remoterepository = far
utf8foldernames = yes

[Repository near]
type = Maildir
localfolders = %[1]s/mail
sep = /
customflag_a = $urgent

[Repository far]
type = IMAP
remotehost = localhost
remoteport = %[2]d
remoteuser = %[3]s
remotepass = %[4]s
ssl = yes
sslcacertfile = %[5]s
usecompression = yes
`, home, 1993+c.offset, u, password, c.ca), 0o600)
	w.sync = func(t *testing.T) {
		t.Helper()
		out := must(t, home, "offlineimap", "-c", rc, "-o")
		if low := strings.ToLower(out); strings.Contains(low, "error") || strings.Contains(low, "traceback") || strings.Contains(low, "uidvalidity problem") {
			t.Errorf("offlineimap said:\n%s", out)
		}
	}
	return w
}

// files calls for each message file.
func (w *tree) files(t *testing.T, each func(folder, path string)) {
	t.Helper()
	err := filepath.WalkDir(w.mail, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || d.Name() != "cur" {
			return err
		}
		rel, err := filepath.Rel(w.mail, filepath.Dir(path))
		if err != nil {
			return err
		}
		each(w.decode(rel), "")
		for _, sub := range []string{"cur", "new"} {
			files, err := filepath.Glob(filepath.Join(filepath.Dir(path), sub, "*"))
			if err != nil {
				return err
			}
			for _, f := range files {
				each(w.decode(rel), f)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *tree) holdings(t *testing.T) holdings {
	t.Helper()
	out := make(holdings)
	w.files(t, func(folder, path string) {
		if path == "" {
			out[folder] = nil
			return
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var flags []string
		_, info, _ := strings.Cut(filepath.Base(path), ":2,")
		for _, l := range info {
			flags = append(flags, letters[l])
		}
		out[folder] = append(out[folder], holding(flags, canon(b)))
	})
	return out
}

// file finds the file of a message.
func (w *tree) file(t *testing.T, folder, subject string) string {
	t.Helper()
	var found []string
	w.files(t, func(in, path string) {
		if in != folder || path == "" {
			return
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(lineEnds.Replace(string(b)), "\nSubject: "+subject+"\n") {
			found = append(found, path)
		}
	})
	if len(found) != 1 {
		t.Fatalf("%s has %d files of %q", folder, len(found), subject)
	}
	return found[0]
}

// flag sets a message's letters, as a mail program does: by renaming its file.
func (w *tree) flag(t *testing.T, folder, subject, info string) {
	t.Helper()
	path := w.file(t, folder, subject)
	base, _, _ := strings.Cut(filepath.Base(path), ":2,")
	if err := os.Rename(path, filepath.Join(w.mail, w.encode(folder), "cur", base+":2,"+info)); err != nil {
		t.Fatal(err)
	}
}

func (w *tree) remove(t *testing.T, folder, subject string) {
	t.Helper()
	if w.trash {
		w.flag(t, folder, subject, "ST")
	} else if err := os.Remove(w.file(t, folder, subject)); err != nil {
		t.Fatal(err)
	}
}

func (w *tree) create(t *testing.T, folder string) {
	t.Helper()
	for _, sub := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(w.mail, w.encode(folder), sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *tree) put(t *testing.T, folder, name, text string) {
	t.Helper()
	put(t, filepath.Join(w.mail, w.encode(folder), "cur"), name, lineEnds.Replace(text), 0o600)
}

// state is all that the program's next run goes by, here and at the server.
func (w *tree) state(t *testing.T, f *far) []any {
	t.Helper()
	names := make(map[string]bool)
	w.files(t, func(folder, path string) { names[path] = true })
	return []any{names, w.holdings(t), f.folders()}
}

// settled: both sides have just what is wanted, and another run changes nothing,
// before a move of the user and behind it.
func (c *clients) settled(t *testing.T, how string, f *far, w *tree, want holdings) {
	t.Helper()
	equal(t, how+", at the server", f.holdings(), want)
	near := want
	if !w.keywords {
		near = make(holdings)
		for name, all := range want {
			near[name] = nil
			for _, m := range all {
				flags, text, _ := strings.Cut(m, "\n")
				kept := slices.DeleteFunc(strings.Fields(flags), func(f string) bool { return f == "$urgent" })
				near[name] = append(near[name], holding(kept, text))
			}
		}
	}
	equal(t, how+", here", w.holdings(t), near)
	before := w.state(t, f)
	w.sync(t)
	if !reflect.DeepEqual(before, w.state(t, f)) {
		t.Errorf("%s: a second run has changed something", how)
	}
	f.move()
	w.sync(t)
	if !reflect.DeepEqual(before, w.state(t, f)) {
		t.Errorf("%s: the run after a move has changed something", how)
	}
}

// twoWay lets both sides change at once, folders and messages.
func (c *clients) twoWay(t *testing.T, f *far, w *tree) {
	want := holdings{"INBOX": nil}
	add := func(folder, subject string, flags ...string) {
		var fs []imap.Flag
		for _, x := range flags {
			fs = append(fs, imap.Flag(x))
		}
		f.append(folder, letter(subject), fs...)
		want.add(folder, letter(subject), flags...)
	}
	for _, name := range []string{umlauts, nested, "Old name", "Empty"} {
		f.create(name)
		want[name] = nil
	}
	for _, s := range []string{"one", "two", "three", "four"} {
		add("INBOX", s)
	}
	add("INBOX", "flags", "\\flagged", "\\seen", "\\answered")
	add("INBOX", "keyword", "$urgent", "\\seen")
	add(umlauts, "umlauts", "\\draft")
	add(nested, "nested", "\\seen")
	add("Old name", "renamed", "\\seen")
	w.sync(t)
	c.settled(t, "first run", f, w, want)

	// At the server: a message comes, one goes, flags are set and taken back, a
	// folder is made.
	add("INBOX", "five", "\\flagged")
	f.remove("INBOX", "one")
	want.removes(t, "INBOX", "one")
	f.flag("INBOX", "two", imap.StoreFlagsAdd, imap.FlagAnswered)
	want.flags(t, "INBOX", "two", "\\answered")
	f.flag("INBOX", "flags", imap.StoreFlagsDel, imap.FlagFlagged)
	want.flags(t, "INBOX", "flags", "\\seen", "\\answered")
	f.create("Made there/Ünten")
	add("Made there/Ünten", "made there", "\\seen")
	// Here the same, with other messages and names.
	w.flag(t, "INBOX", "three", "FS")
	want.flags(t, "INBOX", "three", "\\seen", "\\flagged")
	w.remove(t, "INBOX", "four")
	want.removes(t, "INBOX", "four")
	w.put(t, nested, "1748858400.put.here:2,RS", letter("put here"))
	want.add(nested, letter("put here"), "\\answered", "\\seen")
	w.create(t, "Made here & Ö")
	w.put(t, "Made here & Ö", "1748858401.put.here:2,F", letter("in the new one"))
	want.add("Made here & Ö", letter("in the new one"), "\\flagged")
	// offlineimap takes keywords from the server only, mbsync none: none may be lost.
	f.flag(umlauts, "umlauts", imap.StoreFlagsAdd, "$urgent", imap.FlagSeen)
	want.flags(t, umlauts, "umlauts", "\\draft", "\\seen", "$urgent")
	w.sync(t)
	c.settled(t, "both sides changed", f, w, want)

	// A renamed folder: neither program can tell it from one removed and one made, so
	// that who renames it there takes the copy away here.
	f.rename("Old name", "New näme")
	want["New näme"] = want["Old name"]
	delete(want, "Old name")
	if err := os.RemoveAll(filepath.Join(w.mail, w.encode("Old name"))); err != nil {
		t.Fatal(err)
	}
	w.sync(t)
	c.settled(t, "folder renamed", f, w, want)
}
