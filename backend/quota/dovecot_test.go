package quota

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const dovecotConf = `
base_dir = %[1]s/run
state_dir = %[1]s/run
log_path = /dev/stderr
mail_location = maildir:%[1]s/mail
ssl = no
protocols =
mail_plugins = quota
first_valid_uid = 1
plugin {
  quota = maildir:User quota
  quota_rule = *:bytes=1000000000:messages=500
}
`

// unprivileged gives the mailbox to nobody and runs Dovecot as that where the
// test runs as root, as whom Dovecot touches no mail.
func unprivileged(t *testing.T, home string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	const nobody = 65534
	if err := os.Chmod(filepath.Dir(home), 0o755); err != nil { // of t.TempDir
		t.Fatal(err)
	}
	err := filepath.WalkDir(home, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// TestDovecot has Dovecot read and append to our log, and us to its.
func TestDovecot(t *testing.T) {
	if _, err := exec.LookPath("doveadm"); err != nil {
		t.Skip("doveadm is not installed")
	}
	home := t.TempDir()
	for _, dir := range []string{"run", "mail/cur", "mail/new", "mail/tmp"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(home, "dovecot.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, dovecotConf, home), 0o644); err != nil {
		t.Fatal(err)
	}
	doveadm := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.Command("doveadm", append([]string{"-c", conf}, args...)...)
		cmd.Env = append(os.Environ(), "USER=ann", "HOME="+home)
		cmd.SysProcAttr = unprivileged(t, home)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("doveadm %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	dovecotSees := func(bytes, messages int64) {
		t.Helper()
		out := doveadm("", "-f", "flow", "quota", "get")
		kib := (bytes + 1023) / 1024 // Dovecot rounds up
		for _, want := range []string{fmt.Sprintf("Type=STORAGE Value=%d ", kib), fmt.Sprintf("Type=MESSAGE Value=%d ", messages)} {
			if !strings.Contains(out, want) {
				t.Errorf("doveadm does not say %q:\n%s\nof %q", want, out, read(t, filepath.Join(home, "mail/maildirsize")))
			}
		}
	}

	l := openLog(t, filepath.Join(home, "mail/maildirsize"), Limit{1_000_000_000, 500})
	// Not what is in the mailbox, which is empty: so a recount would show.
	if _, err := l.Recount(func() (Usage, error) { return Usage{5 << 20, 7}, nil }); err != nil {
		t.Fatal(err)
	}
	dovecotSees(5<<20, 7)
	for range 1000 { // past several coalescings
		add(t, l, 1024, 0)
	}
	add(t, l, -1024, -1)
	dovecotSees(5<<20+999<<10, 6)

	before := read(t, filepath.Join(home, "mail/maildirsize"))
	doveadm("Subject: hello\n\nworld\n", "save")
	after := read(t, filepath.Join(home, "mail/maildirsize"))
	if !strings.HasPrefix(after, before) || strings.Count(after, "\n") != strings.Count(before, "\n")+1 {
		t.Fatalf("Dovecot did not append one line:\n%q\nbecame\n%q", before, after)
	}
	u, err := l.Usage()
	if err != nil || u.Messages != 7 || u.Bytes <= 5<<20+999<<10 {
		t.Fatalf("after Dovecot's delivery: %+v %v", u, err)
	}
	add(t, l, 1<<10, 1)
	dovecotSees(u.Bytes+1024, 8)
}
