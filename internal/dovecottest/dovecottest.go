// Package dovecottest gives tests Debian's Dovecot to compare with: its programs for one session,
// without login and master, on a home of their own. A test is skipped where Dovecot is not
// installed. Nothing survives the test. Only tests import it.
package dovecottest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const conf = `
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
plugin {
  sieve = file:%[1]s/scripts;active=%[1]s/.dovecot.sieve
}
`

const (
	// nobody has the home where the test runs as root: Dovecot touches no mail as root.
	nobody = 65534
	// patience ends a program that hangs, and then who reads of it.
	patience = 3 * time.Minute
)

// Home is a user's home, with an empty Maildir.
type Home struct {
	t   testing.TB
	Dir string
}

// New makes one, for a program of /usr/lib/dovecot: "imap", "pop3" or "managesieve".
func New(t testing.TB, program string) *Home {
	t.Helper()
	if _, err := os.Stat("/usr/lib/dovecot/" + program); err != nil {
		t.Skipf("dovecot is not installed (Debian: dovecot-%sd)", program)
	}
	dir, err := os.MkdirTemp("/tmp", "wp-dovecot-") // short, and open to whose home it is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &Home{t, dir}
	for _, sub := range []string{"run", "Maildir/cur", "Maildir/new", "Maildir/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.Write("conf", fmt.Appendf(nil, conf, dir))
	return h
}

// Write writes a file of the home, and gives its path.
func (h *Home) Write(name string, data []byte) string {
	h.t.Helper()
	path := filepath.Join(h.Dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// Begin begins a session of the program, and gives the client's end of its connection. It is
// over when that is closed; wait waits until the program has ended.
func (h *Home) Begin(program string) (client net.Conn, wait func()) {
	t := h.t
	t.Helper()
	cmd := exec.Command("doveadm", "-c", filepath.Join(h.Dir, "conf"), "exec", program)
	cmd.Env = []string{"USER=ann", "HOME=" + h.Dir, "TZ=UTC", "PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
	cmd.Dir = h.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		if err := h.giveAway(); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := os.NewFile(uintptr(ends[0]), "client"), os.NewFile(uintptr(ends[1]), "dovecot")
	defer near.Close()
	defer far.Close()
	if client, err = net.FileConn(near); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended shows in what it said
		close(ended)
	}()
	wait = func() {
		<-ended
		kill.Stop()
	}
	t.Cleanup(func() {
		client.Close()
		wait()
		if t.Failed() {
			t.Logf("dovecot said: %s", said.String())
		}
	})
	return client, wait
}

func (h *Home) giveAway() error {
	return filepath.WalkDir(h.Dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	})
}
