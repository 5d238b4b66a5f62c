package clustertest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"waypost/director"
)

// dovecot is Debian's Dovecot with the mailboxes of some users, in a folder of
// the test's.
type dovecot struct {
	dir              string
	imap, pop3, lmtp string
}

// dovecotConf is its configuration; %[n] as startDovecot gives them.
const dovecotConf = `
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
%[2]s
auth_failure_delay = 0
default_internal_user = %[3]s
default_internal_group = %[4]s
default_login_user = %[5]s
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:~/Maildir
recipient_delimiter = +
lmtp_save_to_detail_mailbox = yes
lda_mailbox_autocreate = yes
protocol lmtp {
  postmaster_address = postmaster@example.test
}
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  chroot =
  inet_listener imap {
    port = %[8]d
  }
  inet_listener imaps {
    port = 0
  }
}
service pop3-login {
  chroot =
  inet_listener pop3 {
    port = %[9]d
  }
  inet_listener pop3s {
    port = 0
  }
}
service lmtp {
  chroot =
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[10]d
  }
}
passdb {
  driver = passwd-file
  master = yes
  args = %[1]s/masters
}
passdb {
  driver = passwd-file
  args = %[1]s/users
}
userdb {
  driver = passwd-file
  args = %[1]s/users
  override_fields = uid=%[6]s gid=%[7]s home=%[1]s/mail/%%u
}
`

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// startDovecot runs it, as root or not, until the test ends. passwords are
// those of its users; the master user is boss. trusted: it believes what is
// said of clients' addresses from this machine.
func startDovecot(t *testing.T, passwords map[string]string, trusted bool) *dovecot {
	t.Helper()
	// Its sockets are here: their paths must be short.
	dir, err := os.MkdirTemp("/tmp", "wp-dovecot-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	internal, group, logins, uid, gid := "dovecot", "dovecot", "dovenull", "65534", "65534"
	if os.Getuid() != 0 {
		g, err := user.LookupGroupId(me.Gid)
		if err != nil {
			t.Fatal(err)
		}
		internal, group, logins, uid, gid = me.Username, g.Name, me.Username, me.Uid, me.Gid
	}
	trust := ""
	if trusted {
		trust = "login_trusted_networks = 127.0.0.0/8"
	}
	ports := [3]int{freePort(t), freePort(t), freePort(t)}
	d := &dovecot{dir: dir, imap: hostPort("127.0.0.1", ports[0]), pop3: hostPort("127.0.0.1", ports[1]), lmtp: hostPort("127.0.0.1", ports[2])}
	conf := put(t, dir, "conf", fmt.Sprintf(dovecotConf, dir, trust, internal, group, logins, uid, gid, ports[0], ports[1], ports[2]), 0o644)
	users := ""
	for u, p := range passwords {
		users += u + ":{PLAIN}" + p + "::::::\n"
	}
	put(t, dir, "users", users, 0o644)
	put(t, dir, "masters", "boss:{PLAIN}master\n", 0o644)
	for _, err := range []error{os.Mkdir(filepath.Join(dir, "mail"), 0o777), os.Chmod(filepath.Join(dir, "mail"), 0o777), os.Chmod(dir, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d.run(t, conf)
	return d
}

func (d *dovecot) run(t *testing.T, conf string) {
	t.Helper()
	path, err := lookTool("dovecot")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command(path, "-F", "-c", conf)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // its children end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dovecot said: %s\n%s", said.String(), d.log())
		}
	})
	for _, addr := range []string{d.imap, d.pop3, d.lmtp} {
		eventually(t, "dovecot listens", patience, func() error {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
}

func (d *dovecot) log() string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(b)
}

// logs waits for a line of Dovecot's log that has all of these words.
func (d *dovecot) logs(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("dovecot logs %q", words), patience, func() error {
	lines:
		for line := range strings.Lines(d.log()) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return nil
		}
		return fmt.Errorf("no such line in\n%s", d.log())
	})
}

// settings are its record in the directory.
func (d *dovecot) settings() director.Dovecot {
	return director.Dovecot{IMAP: d.imap, POP3: d.pop3, LMTP: d.lmtp, TLS: "none"}
}
