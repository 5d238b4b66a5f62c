package maildir

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/backend/mailbox"
)

const dovecotConf = `
base_dir = %[1]s/run
state_dir = %[1]s/run
log_path = /dev/stderr
mail_location = maildir:%[2]s
ssl = no
protocols =
first_valid_uid = 1
namespace inbox {
  inbox = yes
  separator = /
}
`

// dovecot runs Dovecot's own tools on the tree of a closed mailbox.
type dovecot struct {
	s    *setup
	conf string
}

func newDovecot(s *setup) *dovecot {
	s.t.Helper()
	if _, err := exec.LookPath("doveadm"); err != nil {
		s.t.Skip("doveadm is not installed")
	}
	must(s.t, os.MkdirAll(filepath.Join(s.root, "run"), 0o700))
	d := &dovecot{s: s, conf: filepath.Join(s.root, "dovecot.conf")}
	must(s.t, os.WriteFile(d.conf, fmt.Appendf(nil, dovecotConf, s.root, s.path()), 0o644))
	return d
}

// unprivileged gives the tree to nobody where the test runs as root: Dovecot
// touches no mail as root.
func (d *dovecot) unprivileged() *syscall.SysProcAttr {
	if os.Getuid() != 0 {
		return nil
	}
	const nobody = 65534
	base := filepath.Dir(d.s.root)
	must(d.s.t, os.Chmod(filepath.Dir(base), 0o755)) // of TempDir
	must(d.s.t, filepath.WalkDir(base, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, nobody, nobody)
	}))
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

func (d *dovecot) adm(stdin string, args ...string) string {
	t := d.s.t
	t.Helper()
	cmd := exec.Command("doveadm", append([]string{"-c", d.conf}, args...)...)
	cmd.Env = append(os.Environ(), "USER=u", "HOME="+d.s.root)
	cmd.SysProcAttr = d.unprivileged()
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "Error:") || strings.Contains(string(out), "Warning:") {
		t.Fatalf("doveadm %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// folders are those that there are, by their names in the tree.
func (d *dovecot) folders() []string {
	d.s.t.Helper()
	all := []string{mailbox.Inbox}
	entries, err := os.ReadDir(d.s.path())
	must(d.s.t, err)
	for _, e := range entries {
		if folder, ok := folderOf(e.Name()); ok && e.IsDir() {
			all = append(all, folder)
		}
	}
	return all
}

// seen gives what Dovecot sees, a line per message and one per folder.
func (d *dovecot) seen() []string {
	d.s.t.Helper()
	var lines []string
	for line := range strings.Lines(d.adm("", "-f", "tab", "fetch", "mailbox uid guid flags size.physical size.virtual date.received", "all")) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if f[0] == "mailbox" {
			continue
		}
		flags := strings.Fields(f[3])
		flags = slices.DeleteFunc(flags, func(s string) bool { return s == `\Recent` })
		slices.Sort(flags)
		f[3] = strings.Join(flags, " ")
		// To Dovecot the sizes in the name are part of the GUID.
		f[2], _, _ = strings.Cut(f[2], ",")
		lines = append(lines, strings.Join(f, "|"))
	}
	for line := range strings.Lines(d.adm("", append([]string{"-f", "tab", "mailbox", "status", "messages uidnext uidvalidity unseen"}, d.folders()...)...)) {
		if !strings.HasPrefix(line, "mailbox\t") {
			lines = append(lines, strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "|"))
		}
	}
	slices.Sort(lines)
	return lines
}

// seen gives the same as we see it.
func (s *setup) seen() []string {
	s.t.Helper()
	list, err := s.b.Folders()
	must(s.t, err)
	var lines []string
	for _, info := range list {
		if info.NoSelect {
			continue
		}
		f := s.folder(info.Name)
		snap := s.snapshot(f)
		for _, m := range snap.Messages.All() {
			date, err := f.InternalDate(m.UID)
			must(s.t, err)
			guid, _, _ := strings.Cut(m.GUID, ",") // of a copy that Dovecot made
			lines = append(lines, fmt.Sprintf("%s|%d|%s|%s|%d|%d|%s", info.Name, m.UID, guid, flagText(m.Flags),
				m.Size, m.WireSize, date.Format("2006-01-02 15:04:05")))
		}
		lines = append(lines, fmt.Sprintf("%s|%d|%d|%d|%d", info.Name, snap.Messages.Len(), snap.UIDNext, snap.UIDValidity, snap.Unseen))
	}
	slices.Sort(lines)
	return lines
}

func flagText(f mailbox.Flags) string {
	all := slices.Clone(f.Keywords)
	for flag, text := range map[mailbox.System]string{
		mailbox.Seen: `\Seen`, mailbox.Answered: `\Answered`, mailbox.Flagged: `\Flagged`,
		mailbox.Deleted: `\Deleted`, mailbox.Draft: `\Draft`,
	} {
		if f.Has(flag) {
			all = append(all, text)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestDovecot has Dovecot take our tree over, change it, and us take it back.
func TestDovecot(t *testing.T) {
	s := newSetup(t, nil)
	d := newDovecot(s)
	for _, f := range []string{"Entwürfe", "R&D/Some Thing", "Trash"} {
		must(t, s.b.CreateFolder(f, ""))
	}
	must(t, s.b.Subscribe("R&D/Some Thing", true))
	for i := range 5 {
		s.deliver(fmt.Sprint(i), text(i), "")
	}
	m := s.stage("A: b\r\n\r\nx\r\n")
	_, err := appendOne(s.b, "Entwürfe", m, mailbox.Flags{System: mailbox.Draft | mailbox.Seen, Keywords: []string{"$Work", "b"}}, time.Unix(1e9, 0))
	must(t, err)
	m.Discard()
	inbox := s.folder("INBOX")
	s.snapshot(inbox)
	_, err = inbox.Move([]mailbox.UID{2}, "R&D/Some Thing")
	must(t, err)
	_, err = inbox.Copy([]mailbox.UID{3}, "Trash")
	must(t, err)
	_, err = inbox.Expunge([]mailbox.UID{4})
	must(t, err)

	ours := s.seen()
	s.b.Close()
	must(t, s.a.Close())
	sameList(t, "Dovecot sees", d.seen(), ours...)
	same(t, "subscribed", d.adm("", "mailbox", "list", "-s"), "R&D/Some Thing\n")

	d.adm("Subject: from Dovecot\n\nhello\n", "save")
	d.adm("", "flags", "add", `\Flagged $Junk`, "mailbox", "INBOX", "uid", "1")
	d.adm("", "mailbox", "create", "-s", "Von Dovecot/Ünder")
	d.adm("", "move", "Von Dovecot/Ünder", "mailbox", "INBOX", "uid", "3")
	d.adm("", "copy", "Trash", "mailbox", "INBOX", "uid", "5")
	d.adm("", "expunge", "mailbox", "Entwürfe", "all")
	d.adm("", "mailbox", "rename", "R&D", "Research")
	theirs := d.seen()
	// Without its quota plugin Dovecot keeps no log.
	must(t, os.Remove(s.path(quotaName)))
	s.open()
	sameList(t, "we see", s.seen(), theirs...)
	list, err := s.b.Subscriptions()
	must(t, err)
	if !slices.Contains(list, "Von Dovecot/Ünder") {
		t.Errorf("subscriptions %q", list)
	}
	s.deliver("new", text(9), "Von Dovecot/Ünder")
	_, err = s.folder("Trash").Expunge([]mailbox.UID{1})
	must(t, err)
	s.quotaIsExact()
	ours = s.seen()
	s.b.Close()
	must(t, s.a.Close())
	sameList(t, "Dovecot sees again", d.seen(), ours...)
}
