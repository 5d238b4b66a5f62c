package clustertest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// turns is Debian's Dovecot without a server: its IMAP and POP3 programs, each
// for one session over a pipe, on the tree at home.
type turns struct {
	t         *testing.T
	dir, home string
	uidl      string       // its pop3_uidl_format; empty: its default
	said      bytes.Buffer // by the session under way, and the ones before
}

// layoutConf is its configuration; %[1]s is dir, %[2]s home.
const layoutConf = `
base_dir = %[1]s/run
state_dir = %[1]s/run
log_path = /dev/stderr
mail_location = maildir:%[2]s/Maildir
ssl = no
protocols =
first_valid_uid = 1
mail_plugins = quota
plugin {
  quota = maildir:User quota
  quota_rule = *:storage=100M
}
namespace inbox {
  inbox = yes
  separator = /
}
`

// mailUID is whose the tree is while Dovecot works on it: it touches no mail as root.
func mailUID() int {
	if os.Getuid() == 0 {
		return 65534
	}
	return os.Getuid()
}

func newTurns(t *testing.T) *turns {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "wp-layout-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
	})
	d := &turns{t: t, dir: dir, home: filepath.Join(dir, "mail", "ann")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("dovecot said:\n%s", d.said.String())
		}
	})
	for _, err := range []error{os.MkdirAll(d.home, 0o755), os.Mkdir(filepath.Join(dir, "run"), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	d.own(dir, mailUID())
	return d
}

// own gives all below dir to uid.
func (d *turns) own(dir string, uid int) {
	d.t.Helper()
	if os.Getuid() != 0 {
		return
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, -1)
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *turns) rename(from, to string, uid int) {
	d.t.Helper()
	if err := os.Rename(from, to); err != nil {
		d.t.Fatal(err)
	}
	d.own(to, uid)
}

func (d *turns) doveadm(args ...string) *exec.Cmd {
	d.t.Helper()
	path, err := lookTool("doveadm")
	if err != nil {
		d.t.Fatal(err)
	}
	text := fmt.Sprintf(layoutConf, d.dir, d.home)
	if d.uidl != "" {
		text += "pop3_uidl_format = " + d.uidl + "\n"
	}
	conf := put(d.t, d.dir, "conf", text, 0o644)
	cmd := exec.Command(path, append([]string{"-c", conf}, args...)...)
	cmd.Env = []string{"USER=ann", "HOME=" + d.home, "PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
	cmd.Dir = d.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(mailUID()), Gid: uint32(mailUID())}
	}
	return cmd
}

// session starts one of Dovecot's programs.
func (d *turns) session(protocol string) *talk {
	d.t.Helper()
	cmd := d.doveadm("exec", protocol)
	in, err := cmd.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	cmd.Stderr = &d.said
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }) // then reading ends
	k := &talk{t: d.t, w: in, r: bufio.NewReader(out), pop3: protocol == "pop3", end: func() {
		in.Close()
		_ = cmd.Wait() // how it ended shows in what it said
		kill.Stop()
	}}
	if !k.pop3 { // which greets nobody who is logged in
		k.line()
	}
	return k
}

// asDovecot works on the tree by Dovecot's IMAP.
func (d *turns) asDovecot(work func(imap *talk)) {
	d.t.Helper()
	imap := d.session("imap")
	work(imap)
	imap.close()
}

func (d *turns) seenByDovecot() (view []string) {
	d.t.Helper()
	d.asDovecot(func(imap *talk) { view = viewIMAP(imap) })
	pop3 := d.session("pop3") // after IMAP has given all messages their UIDs
	defer pop3.close()
	return append(view, viewPOP3(pop3)...)
}

// exactQuota: what is in maildirsize is what Dovecot counts.
func (d *turns) exactQuota() {
	d.t.Helper()
	logged := d.quota()
	if out, err := d.doveadm("quota", "recalc").CombinedOutput(); err != nil {
		d.t.Fatalf("doveadm quota recalc: %v: %s", err, out)
	}
	if counted := d.quota(); counted != logged {
		d.t.Errorf("the quota log says %q, Dovecot counts %q", logged, counted)
	}
}

// quota sums up the quota log.
func (d *turns) quota() string {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.home, "Maildir", "maildirsize"))
	if err != nil {
		d.t.Fatal(err)
	}
	var bytes, messages int64
	limit, rest, _ := strings.Cut(string(b), "\n")
	for line := range strings.Lines(rest) {
		var x, y int64
		if _, err := fmt.Sscan(line, &x, &y); err != nil {
			d.t.Fatalf("maildirsize: %q", b)
		}
		bytes, messages = bytes+x, messages+y
	}
	return fmt.Sprint(limit, " ", bytes, " ", messages)
}

// treeOf lists names, times and sizes of a tree, dovecot's indexes excepted.
func treeOf(t *testing.T, root string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		lines = append(lines, fmt.Sprint(path, " ", info.Mode(), " ", info.Size(), " ", info.ModTime().UnixNano(), " ", st.Ino, " ", st.Nlink))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func sameView(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	var differ []string
	for _, line := range got {
		if !slices.Contains(want, line) {
			differ = append(differ, "+ "+line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			differ = append(differ, "- "+line)
		}
	}
	t.Errorf("%s: got +, want -:\n%s", what, strings.Join(differ, "\n"))
}

// talk is a session of IMAP or POP3.
type talk struct {
	t    *testing.T
	w    io.Writer
	r    *bufio.Reader
	pop3 bool
	end  func()
	n    int
}

func (w *wayposts) dial(port int, login ...string) *talk {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.c.addr(port))
	if err != nil {
		w.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience)) // a socket's cannot fail
	k := &talk{t: w.t, w: conn, r: bufio.NewReader(conn), pop3: port == 1110, end: func() { conn.Close() }}
	k.line()
	for _, l := range login {
		k.ok("%s", l)
	}
	return k
}

func (k *talk) line() string {
	k.t.Helper()
	text, err := k.r.ReadString('\n')
	if err != nil {
		k.t.Fatalf("the other side is gone: %v after %q", err, text)
	}
	return strings.TrimRight(text, "\r\n")
}

// ok gives a command and its answer's lines; anything but success is fatal.
func (k *talk) ok(format string, a ...any) []string {
	k.t.Helper()
	return k.give(fmt.Sprintf(format, a...), "")
}

var literal = regexp.MustCompile(`\{(\d+)\}$`)

// give sends a command, and more when it is asked for.
func (k *talk) give(command, more string) (lines []string) {
	k.t.Helper()
	k.n++
	tag := fmt.Sprintf("t%d ", k.n)
	if k.pop3 {
		tag = ""
	}
	fmt.Fprintf(k.w, "%s%s\r\n", tag, command)
	for {
		line := k.line()
		for !k.pop3 && literal.MatchString(line) {
			size, _ := strconv.Atoi(literal.FindStringSubmatch(line)[1])
			b := make([]byte, size)
			if _, err := io.ReadFull(k.r, b); err != nil {
				k.t.Fatal(err)
			}
			line = literal.ReplaceAllString(line, "") + strconv.Quote(string(b)) + k.line()
		}
		switch {
		case k.pop3 && strings.HasPrefix(line, "+OK"):
			return []string{line}
		case k.pop3 || strings.HasPrefix(line, tag) && !strings.HasPrefix(line, tag+"OK"):
			k.t.Fatalf("%s: %s", command, line)
		case strings.HasPrefix(line, tag):
			return lines
		case strings.HasPrefix(line, "+"):
			fmt.Fprintf(k.w, "%s\r\n", more)
		default:
			lines = append(lines, line)
		}
	}
}

// list is a POP3 command whose answer ends in a dot.
func (k *talk) list(command string) (lines []string) {
	k.t.Helper()
	k.ok("%s", command)
	for line := k.line(); line != "."; line = k.line() {
		lines = append(lines, line)
	}
	return lines
}

// add is APPEND.
func (k *talk) add(folder, flags, date, text string) {
	k.t.Helper()
	text = strings.ReplaceAll(text, "\n", "\r\n")
	k.give(fmt.Sprintf("APPEND %q (%s) %q {%d}", folder, flags, date, len(text)), text)
}

func (k *talk) count(folder string) int {
	k.t.Helper()
	for _, line := range k.ok("STATUS %q (MESSAGES)", folder) {
		if m := statusMessages.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[1])
			return n
		}
	}
	k.t.Fatalf("STATUS of %s tells no number", folder)
	return 0
}

func (k *talk) close() {
	k.t.Helper()
	if k.pop3 {
		k.ok("QUIT")
	} else {
		k.ok("LOGOUT")
	}
	k.end()
}
