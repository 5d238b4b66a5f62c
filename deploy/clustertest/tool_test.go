package clustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// toolTime bounds one run of a foreign program.
const toolTime = 60 * time.Second

// ran is how a program ended.
type ran struct {
	out  string // both streams
	code int
}

// need skips the test where a program is not installed; .ci/run installs all.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := lookTool(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// needPerlTLS skips the test where swaks has no TLS (Debian: libnet-ssleay-perl).
func needPerlTLS(t *testing.T) {
	t.Helper()
	need(t, "perl")
	if r := run(t, t.TempDir(), "perl", "-MNet::SSLeay", "-e", "1"); r.code != 0 {
		t.Skip("libnet-ssleay-perl is not installed: swaks has no TLS")
	}
}

// lookTool finds a program as root's PATH would.
func lookTool(name string) (string, error) {
	p, err := exec.LookPath(name)
	if err != nil {
		return exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	return p, nil
}

// run runs a program to its end, with HOME in a folder of the test's, so that
// nobody's own settings count.
func run(t *testing.T, home, name string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTime)
	defer cancel()
	path, err := lookTool(name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "FETCHMAILHOME=" + home, "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s %s: not done after %s; it said:\n%.2000s", name, strings.Join(args, " "), toolTime, out)
	case err != nil && !errors.As(err, &exit):
		t.Fatalf("%s: %v", name, err)
	}
	return ran{string(out), cmd.ProcessState.ExitCode()}
}

// must is run for a program that is to succeed.
func must(t *testing.T, home, name string, args ...string) string {
	t.Helper()
	r := run(t, home, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %s ended with %d; it said:\n%.3000s", name, strings.Join(args, " "), r.code, r.out)
	}
	return r.out
}

// put writes a file of the test's and gives its path.
func put(t *testing.T, dir, name, text string, perm os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), perm); err != nil {
		t.Fatal(err)
	}
	return path
}

// letter is a message with what mail programs like to spoil: dots at line
// beginnings, spaces at line ends, empty lines, From at a line's beginning,
// long lines and other alphabets.
func letter(subject string) string {
	lines := []string{
		"From: Sender <sender@example.org>",
		"To: Reader <reader@example.test>",
		"Subject: " + subject,
		"Date: Mon, 02 Jun 2025 10:00:00 +0000",
		"Message-ID: <" + strings.ReplaceAll(subject, " ", ".") + "@example.org>",
		"MIME-Version: 1.0",
		"Content-Type: text/plain; charset=utf-8",
		"Content-Transfer-Encoding: 8bit",
		"X-Folded: one",
		"\ttwo",
		"",
		".a dot", "..two dots", ".", "", "", "spaces at the end  ", "From the beginning", "Grüße, привет, 你好",
		strings.Repeat("long ", 180), "the end of " + subject, "",
	}
	return strings.Join(lines, "\r\n")
}

// mailbags is what has been sent, by "user" or "user/folder".
type mailbags map[string][]string

func (m mailbags) add(text string, boxes ...string) {
	for _, b := range boxes {
		m[b] = append(m[b], text)
	}
}

var (
	lineEnds = strings.NewReplacer("\r\n", "\n")
	// tuid is what mbsync puts into its copies.
	tuid = regexp.MustCompile(`(?m)^X-TUID: [^\n]*\n`)
)

// canon is a message without trace headers and line ends, which programs store
// as they like.
func canon(b []byte) string {
	b = plain(b)
	for bytes.HasPrefix(b, []byte("Delivered-To: ")) { // Dovecot's
		_, b = cutField(b)
		b = plain(b)
	}
	return tuid.ReplaceAllString(lineEnds.Replace(string(b)), "")
}

// same compares what was read with what was sent, in any order.
func (m mailbags) same(t *testing.T, how, box string, got [][]byte) {
	t.Helper()
	var have, want []string
	for _, b := range got {
		have = append(have, canon(b))
	}
	for _, s := range m[box] {
		want = append(want, lineEnds.Replace(s))
	}
	slices.Sort(have)
	slices.Sort(want)
	if len(have) != len(want) {
		t.Errorf("%s: %s has %d messages, %d were sent", how, box, len(have), len(want))
	}
	for i := range min(len(have), len(want)) {
		if have[i] != want[i] {
			t.Errorf("%s: %s: a message differs:\ngot  %.500q\nwant %.500q", how, box, have[i], want[i])
			return
		}
	}
}

// user makes a user at a home of the test's choice.
func (c *testCluster) user(t *testing.T, name string, home director.BackendID) director.User {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	eventually(t, "user "+name, patience, func() error {
		_, err := c.admin.CreateUser(ctx, admin.CreateUser{User: name, PasswordHash: passwordHash, Home: home})
		if errors.Is(err, director.ErrExists) {
			return nil
		}
		return err
	})
	return director.User(name)
}

// filesIn gives the contents of all files of a folder, by name.
func filesIn(t *testing.T, dir string) [][]byte {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for _, e := range es {
		if e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// bodies are those of a mailbox as IMAP shows them.
func (c *testCluster) bodies(t *testing.T, u director.User, folder string) [][]byte {
	t.Helper()
	s, err := readIMAP(c.addr(1143), u, folder, true)
	if err != nil {
		t.Fatalf("%s of %s: %v", folder, u, err)
	}
	var out [][]byte
	for _, m := range s.msgs {
		out = append(out, bytes.Clone(m.body))
	}
	return out
}

func hostPort(host string, port int) string { return fmt.Sprintf("%s:%d", host, port) }
