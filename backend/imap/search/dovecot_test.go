package search

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/backend/mailbox"
)

// dovecot is Debian's IMAP program on a Maildir, for one session over a pipe.
type dovecot struct {
	t *testing.T
	w io.WriteCloser
	r *bufio.Reader
	n int
}

const dovecotConf = `
base_dir = %[1]s/run
state_dir = %[1]s/run
log_path = /dev/stderr
mail_location = maildir:%[1]s/Maildir
ssl = no
protocols =
first_valid_uid = 1
mail_max_userip_connections = 0
namespace inbox {
  inbox = yes
  separator = /
}
`

// startDovecot serves the messages of f.
func startDovecot(t *testing.T, f *folder) *dovecot {
	t.Helper()
	path, err := exec.LookPath("doveadm")
	if err != nil {
		t.Skip("dovecot is not installed (Debian: dovecot-imapd)")
	}
	dir, err := os.MkdirTemp("/tmp", "wp-search-") // short, and open to whose mail it is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	fill(t, dir, f)
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, dovecotConf, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", conf, "exec", "imap")
	cmd.Env = []string{"USER=ann", "HOME=" + dir, "TZ=UTC", "PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	d := &dovecot{t: t}
	out, err := cmd.StdoutPipe()
	if err == nil {
		d.w, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() }) // then reading ends
	t.Cleanup(func() {
		d.w.Close()
		_ = cmd.Wait() // how it ended shows in what it said
		kill.Stop()
		if t.Failed() {
			t.Logf("dovecot said: %s", said.String())
		}
	})
	d.r = bufio.NewReader(out)
	d.line()
	d.give("SELECT INBOX")
	d.inOrder(f)
	return d
}

const nobody = 65534

// fill writes a Maildir.
func fill(t *testing.T, dir string, f *folder) {
	t.Helper()
	for _, sub := range []string{"run", "Maildir/cur", "Maildir/new", "Maildir/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range f.bodies {
		letters := ""
		for _, l := range []struct {
			letter string
			flag   mailbox.System
		}{{"D", mailbox.Draft}, {"F", mailbox.Flagged}, {"R", mailbox.Answered}, {"S", mailbox.Seen}, {"T", mailbox.Deleted}} {
			if f.list[i].Flags.Has(l.flag) {
				letters += l.letter
			}
		}
		if len(f.list[i].Flags.Keywords) > 0 {
			letters += "a"
		}
		name := filepath.Join(dir, "Maildir/cur", fmt.Sprintf("%d.M%dP1.test:2,%s", 1700000000+i, i, letters))
		if err := os.WriteFile(name, bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, f.dates[i], f.dates[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "Maildir/dovecot-keywords"), []byte("0 $Work\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		return
	}
	if out, err := exec.Command("chown", "-R", strconv.Itoa(nobody), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// inOrder checks that messages have the numbers that they have in f.
func (d *dovecot) inOrder(f *folder) {
	d.t.Helper()
	lines := d.give("FETCH 1:* (INTERNALDATE)")
	if len(lines) != len(f.list) {
		d.t.Fatalf("%d messages of %d", len(lines), len(f.list))
	}
	for i, line := range lines {
		if want := f.dates[i].Format(`"02-Jan-2006 15:04:05 -0700"`); !strings.Contains(line, want) {
			d.t.Fatalf("message %d: %s, want %s", i+1, line, want)
		}
	}
}

func (d *dovecot) line() string {
	d.t.Helper()
	text, err := d.r.ReadString('\n')
	if err != nil {
		d.t.Fatalf("dovecot is gone: %v after %q", err, text)
	}
	return strings.TrimRight(text, "\r\n")
}

// give sends a command and gives its untagged answers.
func (d *dovecot) give(command string) (lines []string) {
	d.t.Helper()
	d.n++
	tag := fmt.Sprintf("t%d ", d.n)
	fmt.Fprintf(d.w, "%s%s\r\n", tag, command)
	for {
		line := d.line()
		switch {
		case strings.HasPrefix(line, tag+"OK"):
			return lines
		case strings.HasPrefix(line, tag):
			d.t.Fatalf("%s: %s", command, line)
		case strings.HasPrefix(line, "* OK"): // how far it is
		default:
			lines = append(lines, line)
		}
	}
}
