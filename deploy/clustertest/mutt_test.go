package clustertest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/sys/unix"
)

var subjectLine = regexp.MustCompile(`(?m)^Subject: (.*)$`)

// mutt reads a mailbox without anybody at the keys, sends the list of subjects by
// the submission port, and changes flags.
func (c *clients) mutt(t *testing.T, f *far) {
	home := filepath.Join(c.dir, "mutt")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	f.create("Archive")
	f.create("Sent")
	want := holdings{"INBOX": nil, "Archive": nil, "Sent": nil}
	var subjects []string
	for _, s := range []string{"mutt-flag", "mutt-delete", "mutt-save", "mutt-read", "mutt-unread", "mutt-keep"} {
		flags := []imap.Flag{"$kept"}
		if s == "mutt-unread" {
			flags = append(flags, imap.FlagSeen)
		}
		f.append("INBOX", letter(s), flags...)
		want.add("INBOX", letter(s), "$kept")
		subjects = append(subjects, s)
	}
	list := filepath.Join(home, "list")
	rc := fmt.Sprintf(`set folder="imaps://localhost:%d/" spoolfile="+INBOX" record="+Sent" postponed="" mbox_type=Maildir
set imap_user="%s" imap_pass="%s" ssl_ca_certificates_file="%s" certificate_file="%s/certificates"
set smtp_url="smtp://%s@localhost:%d/" smtp_pass="%[3]s" ssl_starttls=yes ssl_force_tls=yes
set from="%[2]s" use_from=yes copy=yes tmpdir="%[5]s" charset=utf-8
set delete=yes quit=yes move=no confirmappend=no confirmcreate=no wait_key=no mark_old=no beep=no sleep_time=0 resolve=no
unset header_cache prompt_after pipe_split
set pipe_decode=yes
unignore *
`, 1993+c.offset, f.u, password, c.ca, home, strings.Replace(string(f.u), "@", "%40", 1), 1587+c.offset)
	batch := put(t, home, "batchrc", rc, 0o600)
	work := put(t, home, "workrc", rc+`push "<tag-pattern>~A<enter><tag-prefix><pipe-message>grep Subject: >`+list+
		`<enter><untag-pattern>~A<enter><search>~s mutt-flag<enter><flag-message><search>~s mutt-delete<enter><delete-message>`+
		`<search>~s mutt-save<enter><save-message>+Archive<enter><search>~s mutt-read<enter><clear-flag>N`+
		`<search>~s mutt-unread<enter><set-flag>N<quit>"`+"\n", 0o600)
	inTerminal(t, home, "mutt", "-n", "-F", work)

	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range subjectLine.FindAllStringSubmatch(string(b), -1) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, subjects) {
		t.Errorf("mutt lists %q, want %q", got, subjects)
	}
	want.flags(t, "INBOX", "mutt-flag", "$kept", "\\flagged")
	want.removes(t, "INBOX", "mutt-delete")
	want.add("Archive", want.removes(t, "INBOX", "mutt-save"), "$kept")
	want.flags(t, "INBOX", "mutt-read", "$kept", "\\seen")
	found := f.holdings()
	equal(t, "mutt", found, want)
	before := f.folders()
	f.move()
	idle := put(t, home, "idlerc", rc+"push <quit>\n", 0o600)
	inTerminal(t, home, "mutt", "-n", "-F", idle)
	if now := f.folders(); !reflect.DeepEqual(now, before) {
		t.Errorf("mutt that did nothing has changed the mailbox:\n%v\nwas\n%v", now, before)
	}

	must(t, home, "mutt", "-n", "-F", batch, "-s", "the list", "-i", list, "--", string(f.u))
	eventually(t, "the list's arrival", patience, func() error {
		for _, folder := range []string{"Sent", "INBOX"} {
			got, err := c.folder(f.u, folder)
			if err != nil {
				return err
			}
			if n := len(got["the list"]); n != 1 || !strings.Contains(lineEnds.Replace(string(got["the list"][0].body)), "\n\n"+string(b)) {
				return fmt.Errorf("%s has %d of it, or another text", folder, n)
			}
		}
		return nil
	})
}

// inTerminal runs a program that wants a terminal, to its end.
func inTerminal(t *testing.T, home, name string, args ...string) {
	t.Helper()
	master, terminal := newTerminal(t)
	defer master.Close()
	ctx, cancel := context.WithTimeout(t.Context(), toolTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = home, terminal, terminal, terminal
	cmd.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TERM=vt100"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	terminal.Close()
	if err != nil {
		t.Fatal(err)
	}
	shown := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(master) // EIO when the last of the other side is gone
		shown <- b
	}()
	err = cmd.Wait()
	_ = master.SetReadDeadline(time.Now().Add(time.Second))
	if out := <-shown; err != nil {
		t.Fatalf("%s: %v; it showed:\n%.3000q", name, err, out)
	}
}

func newTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 80})
	}
	if err == nil {
		terminal, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, terminal
}
