// Package dovecot starts the Dovecot that is installed (2.3, as Debian has it)
// for a measurement: with a configuration of its own in a folder of the
// caller's, LMTP on a Unix socket, IMAP on a loopback port, and Maildirs.
//
// It owns the folder that Start is given while the server runs, and uses
// nothing of an installed Dovecot's configuration or mail. Dovecot ends with
// the program that started it.
package dovecot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"waypost/internal/bench"
)

// Options of Start.
type Options struct {
	// Fsync is mail_fsync: "always" or "optimized".
	Fsync string
	// QuotaBackend is "maildir", which costs less here and is the default, or
	// "count", which Dovecot's documentation recommends.
	QuotaBackend string
	// Processes of LMTP are kept ready; 0 is 50.
	Processes int
}

// ErrMissing: Dovecot, or its part for what is wanted, is not installed.
var ErrMissing = errors.New("dovecot is not installed (Debian: dovecot-core dovecot-imapd dovecot-lmtpd dovecot-sieve)")

const (
	password = "bench"
	// maxDir leaves room for the names of Dovecot's sockets: an address has 107
	// bytes (unix(7)).
	maxDir     = 70
	sendersOwn = "sender@example.org"
)

// Find gives the path of the server.
func Find() (string, error) {
	for _, p := range []string{"dovecot", "/usr/sbin/dovecot"} {
		if path, err := exec.LookPath(p); err == nil {
			return path, nil
		}
	}
	return "", ErrMissing
}

// HasSieve tells whether Pigeonhole is there.
func HasSieve() bool {
	m, err := filepath.Glob("/usr/lib/dovecot/modules/lib*_sieve_plugin.so")
	return err == nil && len(m) > 0
}

// HasPOP3 tells whether its POP3 server is there.
func HasPOP3() bool {
	_, err := os.Stat("/usr/lib/dovecot/pop3")
	return err == nil
}

// Peer is Dovecot as a suite's peer.
func Peer(o Options) bench.Peer {
	return bench.Peer{Name: "dovecot", Mode: "fsync=" + o.Fsync, Start: func(ctx context.Context, dir string, s bench.Setup) (*bench.Server, error) {
		return Start(ctx, dir, s, o)
	}}
}

// userName is the address of user number i.
func userName(i int) string { return "u" + strconv.Itoa(i) + "@example.test" }

// Start runs Dovecot in dir, which must be fresh, and returns when it serves.
func Start(ctx context.Context, dir string, s bench.Setup, o Options) (*bench.Server, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	if s.Sieve && !HasSieve() {
		return nil, fmt.Errorf("%w: its Sieve is missing", ErrMissing)
	}
	if s.Access && !HasPOP3() {
		return nil, fmt.Errorf("%w: its POP3 is missing (Debian: dovecot-pop3d)", ErrMissing)
	}
	conf, err := configure(dir, s, o)
	if err != nil {
		return nil, err
	}
	if err := makeMail(conf, s); err != nil {
		return nil, err
	}
	file := filepath.Join(conf.dir, "dovecot.conf")
	if err := os.WriteFile(file, []byte(conf.render()), 0o644); err != nil {
		return nil, err
	}
	run := &instance{path: path, file: file, settings: conf}
	if err := run.start(ctx); err != nil {
		return nil, err
	}
	srv := &bench.Server{
		Target: bench.Target{Network: "unix", Addr: conf.lmtpSocket(), From: sendersOwn},
		PID:    run.process.PID(), Mail: filepath.Join(conf.dir, "mail"),
		IMAP: loopback(conf.imapPort), User: userName(0), Password: password,
		Fill: func(n int) error { return conf.fill(userName(0), n) }, Stop: run.stop, Log: run.log,
	}
	if s.Access {
		srv.Access = run.access()
	}
	for i := range s.Users {
		srv.Target.To = append(srv.Target.To, bench.Recipient{Address: userName(i)})
	}
	return srv, nil
}

func configure(dir string, s bench.Setup, o Options) (settings, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return settings{}, err
	}
	if strings.ContainsAny(abs, " \t\n%{}#\"'") {
		return settings{}, fmt.Errorf("folder %q: its name must be plain for Dovecot's configuration", abs)
	}
	if len(abs) > maxDir {
		return settings{}, fmt.Errorf("folder %s: its name is too long for sockets below it", abs)
	}
	port, err := freePort()
	if err != nil {
		return settings{}, err
	}
	pop3, err := freePort()
	if err != nil {
		return settings{}, err
	}
	c := settings{dir: abs, internal: "dovecot", group: "dovecot", logins: "dovenull", uid: "65534", gid: "65534",
		imapPort: port, pop3Port: pop3, access: s.Access, fsync: o.Fsync, lmtpProcesses: o.Processes, sieve: s.Sieve, quota: s.Quota,
		quotaBackend: o.QuotaBackend, password: password}
	if c.fsync != "always" && c.fsync != "optimized" {
		return settings{}, fmt.Errorf("mail_fsync %q: want always or optimized", c.fsync)
	}
	if c.lmtpProcesses <= 0 {
		c.lmtpProcesses = 50
	}
	if c.quotaBackend == "" {
		c.quotaBackend = "maildir"
	}
	if os.Getuid() == 0 {
		return c, nil
	}
	me, err := user.Current()
	if err != nil {
		return settings{}, err
	}
	g, err := user.LookupGroupId(me.Gid)
	if err != nil {
		return settings{}, err
	}
	c.internal, c.group, c.logins, c.uid, c.gid = me.Username, g.Name, me.Username, me.Uid, me.Gid
	return c, nil
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// makeMail makes the homes, with the users' scripts, and gives them to the owner
// of all mail.
func makeMail(c settings, s bench.Setup) error {
	mail := filepath.Join(c.dir, "mail")
	for i := range s.Users {
		home := filepath.Join(mail, userName(i))
		if err := os.MkdirAll(filepath.Join(home, "sieve"), 0o700); err != nil {
			return err
		}
		if !s.Sieve {
			continue
		}
		if err := os.WriteFile(filepath.Join(home, "sieve", "main.sieve"), []byte(bench.Script), 0o600); err != nil {
			return err
		}
		if err := os.Symlink("sieve/main.sieve", filepath.Join(home, ".dovecot.sieve")); err != nil {
			return err
		}
	}
	if os.Getuid() != 0 {
		return nil
	}
	if err := reachable(c.dir); err != nil {
		return err
	}
	return c.own(mail)
}

// own gives all below dir to the owner of all mail.
func (c settings) own(dir string) error {
	if os.Getuid() != 0 {
		return nil
	}
	uid, err := strconv.Atoi(c.uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(c.gid)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// reachable says whether an unprivileged user gets to dir at all.
func reachable(dir string) error {
	for p := dir; ; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("%s is closed to other users, and Dovecot does not touch mail as root: choose another folder", p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}
