package clustertest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"waypost/director"
	"waypost/director/admin"
)

const tracedMessages = 1000

// TestSystemCalls counts what a backend asks the system about files of messages:
// nothing, for all that their names and the index tell.
func TestSystemCalls(t *testing.T) {
	need(t, "strace")
	c := newCluster(t)
	c.withUsers(0)
	const name = "ann@example.test"
	path := filepath.Join(t.TempDir(), "Maildir")
	plantMessages(t, path)
	c.imports(t, fmt.Sprintf(`{"user":%q,"password_hash":%q,"home":"b1","maildir":{"path":%q}}`, name, passwordHash, path), admin.ImportCreated)
	w := &wayposts{turns: &turns{t: t}, c: c, user: name, live: c.liveTree(t, name)}

	cheap := func() {
		pop3 := w.dial(1110, "USER "+w.user, "PASS "+password)
		pop3.ok("STAT")
		if n := len(pop3.list("LIST")); n != tracedMessages {
			t.Errorf("LIST has %d messages", n)
		}
		pop3.list("UIDL")
		pop3.close()
		imap := w.imap()
		imap.ok(`LIST "" "*"`)
		imap.ok(`STATUS INBOX (MESSAGES UNSEEN UIDNEXT UIDVALIDITY)`)
		imap.ok(`SELECT INBOX`)
		if n := len(imap.ok(`FETCH 1:* (UID FLAGS RFC822.SIZE)`)); n != tracedMessages {
			t.Errorf("FETCH has %d messages", n)
		}
		imap.ok(`UID SEARCH UNSEEN LARGER 10`)
		imap.close()
		w.usage()
	}
	known := func() {
		imap := w.imap()
		imap.ok(`SELECT INBOX`)
		if n := len(imap.ok(`FETCH 1:* (UID FLAGS RFC822.SIZE ENVELOPE BODYSTRUCTURE)`)); n < tracedMessages {
			t.Errorf("FETCH has %d messages", n)
		}
		imap.close()
	}
	change := func() {
		imap := w.imap()
		imap.ok(`SELECT INBOX`)
		imap.ok(`STORE 1:100 +FLAGS.SILENT (\Flagged $Work)`)
		imap.ok(`STORE 900:910 +FLAGS.SILENT (\Seen)`)
		imap.close()
	}
	atMost := func(limit int, what string, work func()) {
		t.Helper()
		if most, line, total := perMessage(w.trace(work)); most > limit {
			t.Errorf("%s: a message's file was asked for %d times, want at most %d (%d in all): %s", what, most, limit, total, line)
		} else {
			t.Logf("%s: %d calls about files of messages", what, total)
		}
	}
	w.restart()
	atMost(0, "a cold mailbox", cheap)
	atMost(0, "a warm mailbox", cheap)
	atMost(0, "flags that change", change)
	atMost(1, "envelopes for the first time", known)
	atMost(0, "envelopes again", known)
	w.restart()
	atMost(0, "envelopes after a restart", known)
	w.stop()
	w.withoutIndex()
	w.begin()
	atMost(0, "a cold mailbox without an index", cheap)
	atMost(1, "envelopes without an index", known)
}

// plantMessages makes a Maildir as another server leaves it, with sizes in the
// names and some messages that nobody has seen yet.
func plantMessages(t *testing.T, path string) {
	t.Helper()
	for _, dir := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(path, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range tracedMessages {
		text := fmt.Sprintf("From: a@example.org\nTo: b@example.test\nSubject: message %d\nDate: Mon, 02 Jun 2025 10:00:00 +0000\n\n%s\n", i, strings.Repeat("x", i%70))
		base := fmt.Sprintf("%d.M%dP7.host,S=%d,W=%d", 1_600_000_000+i, i, len(text), len(text)+strings.Count(text, "\n"))
		file := filepath.Join("cur", base+":2,"+[]string{"", "S", "FS"}[i%3])
		if i%100 == 99 {
			file = filepath.Join("new", base)
		}
		put(t, path, file, text, 0o600)
	}
}

func (w *wayposts) stop() {
	w.c.procs["b1"].signal(syscall.SIGTERM)
	w.c.procs["b1"].waitEnd(patience)
}

func (w *wayposts) begin() {
	w.t.Helper()
	w.c.procs["b1"].start(w.t)
	w.c.procs["b1"].waitReady(w.t)
}

func (w *wayposts) restart() {
	w.t.Helper()
	w.stop()
	w.begin()
}

// withoutIndex removes the derived files of the user's folders.
func (w *wayposts) withoutIndex() {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.live, "Maildir", "waypost-index*"))
	if err != nil || len(files) == 0 {
		w.t.Fatalf("no index: %v", err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			w.t.Fatal(err)
		}
	}
}

// usage asks for the quota as operators do.
func (w *wayposts) usage() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	u, err := w.c.admin.User(ctx, director.User(w.user))
	if err != nil || u.UsedMessages == nil || *u.UsedMessages != tracedMessages {
		w.t.Errorf("usage: %+v, %v", u, err)
	}
}

// trace gives the calls that name files which the home makes during work.
func (w *wayposts) trace(work func()) []string {
	w.t.Helper()
	path, err := lookTool("strace")
	if err != nil {
		w.t.Fatal(err)
	}
	p := w.c.procs["b1"]
	p.mu.Lock()
	pid := p.cmd.Process.Pid
	p.mu.Unlock()
	out := filepath.Join(w.t.TempDir(), "calls")
	cmd := exec.Command(path, "-f", "-y", "-o", out, "-e", "trace=open,openat,openat2,stat,lstat,newfstatat,statx,access,faccessat,faccessat2,readlink,readlinkat", "-e", "signal=none", "-p", fmt.Sprint(pid))
	errs, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	lines := bufio.NewScanner(errs)
	if !lines.Scan() || !strings.Contains(lines.Text(), "attached") {
		_ = cmd.Wait()
		w.t.Fatalf("strace cannot attach: %s", lines.Text())
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
		}
	}()
	work()
	_ = cmd.Process.Signal(syscall.SIGINT) // it detaches
	<-drained
	_ = cmd.Wait() // by the signal
	b, err := os.ReadFile(out)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(b) == 0 {
		w.t.Error("strace saw nothing at all")
	}
	return strings.Split(string(b), "\n")
}

// messageFile finds a message's name in a call: behind its folder, or behind
// the descriptor of its folder.
var messageFile = regexp.MustCompile(`/(?:cur|new)(?:/|>, ")([^"/>:]+)`)

// perMessage counts the calls about each message's file, and gives the greatest
// count with one of its calls, and the sum.
func perMessage(calls []string) (most int, line string, total int) {
	n := map[string]int{}
	for _, call := range calls {
		m := messageFile.FindStringSubmatch(call)
		if m == nil || strings.Contains(call, "resumed>") {
			continue
		}
		total++
		n[m[1]]++
		if n[m[1]] > most {
			most, line = n[m[1]], call
		}
	}
	return most, line, total
}
