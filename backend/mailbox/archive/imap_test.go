package archive_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/imap"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/archive"
	"waypost/backend/mailbox/memory"
	"waypost/backend/mailbox/mount"
	"waypost/director"
	"waypost/internal/vfs"
)

const user = director.User("ann@example.test")

// client speaks to the engine.
type client struct {
	t  *testing.T
	nc net.Conn
	br *bufio.Reader
	n  int
}

// cmd sends a command and gives all it is answered, line by line, without the tag.
func (c *client) cmd(command string) string {
	c.t.Helper()
	c.n++
	tag := fmt.Sprintf("t%d ", c.n)
	if _, err := io.WriteString(c.nc, tag+command+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
	var out strings.Builder
	for {
		line, err := c.br.ReadString('\n')
		if err != nil {
			c.t.Fatalf("%v behind %q", err, out.String())
		}
		if rest, ok := strings.CutPrefix(line, tag); ok {
			return out.String() + rest
		}
		out.WriteString(line)
	}
}

// has wants all of words in the answer.
func (c *client) has(command string, words ...string) {
	c.t.Helper()
	got := c.cmd(command)
	for _, w := range words {
		if !strings.Contains(got, w) {
			c.t.Errorf("%s: no %q in\n%s", command, w, got)
		}
	}
}

// session serves Ann's mailbox with an archive of mboxes by date and a quarantine.
func session(t *testing.T, dir string) *client {
	store := memory.New()
	store.Serve(user, "b1", 1)
	own, err := store.Open(t.Context(), user, "b1", 1)
	if err != nil {
		t.Fatal(err)
	}
	set, err := archive.New(archive.Options{FS: vfs.OS, Log: slog.New(slog.DiscardHandler), Now: time.Now}, []archive.Config{
		{Name: "Archive", Path: dir + "/srv/{domain}/{local}/{year}/{month}.mbox", Format: archive.FormatMboxrd},
		{Name: "Quarantine", Path: dir + "/bad/{user}", Format: archive.FormatMaildir},
	})
	if err != nil {
		t.Fatal(err)
	}
	var mounts []mount.Mount
	for _, x := range set.Open(archive.Owner{User: user, Epoch: 1, Root: dir + "/user", Guard: func(op func() error) error { return op() }, Done: own.Done()}) {
		mounts = append(mounts, mount.Mount{Prefix: x.Name + "/", Kind: mailbox.Personal, Box: x.Box})
	}
	box := mount.New(own, mount.Options{Stage: store.Stage, Log: slog.New(slog.DiscardHandler)}, mounts...)
	srv := imap.New(imap.Options{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- srv.Serve(context.Background(), far, imap.Session{Box: box, Store: store, Client: "192.0.2.1:1", ID: "s"})
	}()
	t.Cleanup(func() {
		nc.Close()
		<-done
		box.Close()
	})
	nc.SetDeadline(time.Now().Add(60 * time.Second))
	c := &client{t: t, nc: nc, br: bufio.NewReader(nc)}
	if greeting, err := c.br.ReadString('\n'); err != nil || !strings.HasPrefix(greeting, "* PREAUTH") {
		t.Fatal(greeting, err)
	}
	return c
}

func file(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Long settled.
	if err := os.Chtimes(path, time.Unix(1.7e9, 0), time.Unix(1.7e9, 0)); err != nil {
		t.Fatal(err)
	}
}

func TestTranscript(t *testing.T) {
	dir := t.TempDir()
	file(t, dir+"/srv/example.test/ann/2024/05.mbox", `From a@example.test Fri May 17 10:00:00 2024
Subject: plan
From: a@example.test

>From here on
walrus

From b@example.test Sat May 18 11:30:00 2024
Subject: reply

no
`)
	file(t, dir+"/srv/example.test/ann/2023/12.mbox", "")
	file(t, dir+"/srv/example.test/bob/2024/05.mbox", "From x Fri May 17 10:00:00 2024\n\nnot Ann's\n")
	file(t, dir+"/bad/ann@example.test/cur/1.M1.h:2,S", "Subject: spam\n\nbuy\n")
	before := times(t, dir+"/srv") + times(t, dir+"/bad")
	c := session(t, dir)
	c.has("NAMESPACE", `* NAMESPACE (("" "/")("Archive/" "/")("Quarantine/" "/")) NIL NIL`)
	list := c.cmd(`LIST "" *`)
	for _, want := range []string{`* LIST (\Noselect \HasChildren) "/" Archive`, `* LIST (\Noselect \HasChildren) "/" Archive/2024`, `* LIST (\HasNoChildren) "/" Archive/2023/12`,
		`* LIST (\HasNoChildren) "/" Archive/2024/05`, `* LIST (\HasNoChildren) "/" Quarantine`} {
		if !strings.Contains(list, want+"\r\n") {
			t.Errorf("no %s in\n%s", want, list)
		}
	}
	c.has(`LIST "" Archive/%`, "Archive/2023\r\n", "Archive/2024\r\n")
	c.has(`SUBSCRIBE Archive/2024/05`, "OK")
	c.has(`LSUB "" *`, `Archive/2024/05`)
	c.has("STATUS Archive/2024/05 (MESSAGES UIDNEXT)", "(MESSAGES 2 UIDNEXT 3)")
	c.has("SELECT Archive/2024", "NO [NONEXISTENT]")
	c.has("SELECT Archive/2024/06", "NO [NONEXISTENT]")
	c.has("SELECT Archive/../05", "NO")
	c.has("SELECT Archive/2024/05", "* 2 EXISTS", "PERMANENTFLAGS ()", "OK [READ-ONLY]")
	c.has("FETCH 1:2 (UID FLAGS INTERNALDATE ENVELOPE)", `UID 1`, `FLAGS ()`, `"17-May-2024 10:00:00 +0000"`, `"plan"`, `"reply"`, "OK")
	c.has("FETCH 1 BODY[TEXT]", "From here on\r\nwalrus\r\n", "OK")
	c.has("FETCH 1 FLAGS", "FLAGS ()")
	c.has("SEARCH TEXT walrus", "* SEARCH 1\r\n")
	c.has("SEARCH SUBJECT reply", "* SEARCH 2\r\n")
	c.has("SORT (REVERSE DATE) UTF-8 ALL", "OK")
	c.has(`STORE 1 +FLAGS (\Seen)`, "NO [NOPERM]")
	c.has("EXPUNGE", "NO [NOPERM]")
	c.has("MOVE 1 INBOX", "NO [NOPERM]")
	c.has("COPY 1 Archive/2023/12", "NO [NOPERM]")
	c.has("COPY 1:2 INBOX", "OK [COPYUID", " 1:2 1:2]")
	c.has("MYRIGHTS Archive/2024/05", "Archive/2024/05 lr\r\n")
	c.has("CREATE Archive/2025", "NO [NOPERM]")
	c.has("DELETE Archive/2024/05", "NO [NOPERM]")
	c.has("RENAME Archive/2024/05 Mine", "NO [NOPERM]")
	c.has("APPEND Archive/2024/05 {1+}\r\nx", "NO [NOPERM]")
	c.has("GETMETADATA Archive/2024/05 /private/comment", "OK")
	c.has(`SETMETADATA Archive/2024/05 (/private/comment "x")`, "NO [NOPERM]")
	c.has("SELECT INBOX", "* 2 EXISTS", "OK [READ-WRITE]")
	c.has("FETCH 1 (INTERNALDATE BODY.PEEK[TEXT])", `"17-May-2024 10:00:00 +0000"`, "From here on")
	c.has("EXAMINE Quarantine", "* 1 EXISTS", "OK")
	c.has("FETCH 1 (FLAGS BODY[])", `\Seen`, "buy")
	c.has("NOOP", "OK")
	if after := times(t, dir+"/srv") + times(t, dir+"/bad"); after != before {
		t.Errorf("the archive was changed:\n%s\n%s", before, after)
	}
}

// times lists a tree with its times.
func times(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			fmt.Fprintln(&b, path, info.Mode(), info.Size(), info.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
