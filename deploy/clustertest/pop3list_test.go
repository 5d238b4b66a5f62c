package clustertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"waypost/deploy/cli"
	"waypost/director"
	"waypost/internal/popclient"
	"waypost/internal/testmail"
)

// TestPOP3List: the same messages in a Dovecot and in a cluster of our own give
// the same list, from headers there and from the index here, by the command too.
func TestPOP3List(t *testing.T) {
	beside(t)
	need(t, "dovecot")
	msgs, real, err := testmail.Load(t.TempDir(), 150)
	if err != nil {
		t.Fatal(err)
	}
	const user = "u0@example.test"
	d := startDovecot(t, map[string]string{user: password}, false)
	intoDovecot(t, d, user, msgs)
	c := newCluster(t)
	u := c.withUsers(1)[0]
	for _, m := range msgs {
		if err := send(c.addr(2525), "sender@example.org", []string{user}, m.Body); err != nil {
			t.Fatal(m.Name, err)
		}
	}
	cache := t.TempDir()
	theirs := popclient.Options{Addr: d.pop3, Cache: cache, Whole: true}
	want, how := maildrop(t, theirs)
	if how.Extended() || how.Read != len(msgs) || len(want) != len(msgs) {
		t.Errorf("dovecot: extended %v, read %d, got %d of %d", how.Extended(), how.Read, len(want), len(msgs))
	}
	if _, how = maildrop(t, theirs); how.Read != 0 {
		t.Errorf("dovecot: read %d again", how.Read)
	}
	ours := popclient.Options{Addr: c.addr(1110), Cache: cache}
	got, how := maildrop(t, ours)
	if !how.Extended() || how.Read != 0 {
		t.Errorf("ours: extended %v, read %d", how.Extended(), how.Read)
	}
	same(t, want, got, msgs)
	ours.Scan, ours.Whole = true, true
	scanned, _ := maildrop(t, ours)
	same(t, want, scanned, msgs)
	for i := range scanned {
		if scanned[i].UIDL != got[i].UIDL || scanned[i].Size != got[i].Size {
			t.Errorf("%s: %+v and %+v", msgs[i].Name, scanned[i], got[i])
		}
	}
	t.Logf("%d messages, from the corpus: %v", len(got), real)
	byCommand(t, want, "--pop3", d.pop3, "--insecure-plain", "--complete", "--cache", cache)
	byCommand(t, want, "--pop3", hostPort("localhost", 1995+c.offset), "--ca", c.ca, "--no-cache")
	byCommand(t, want, "--pop3", hostPort("localhost", 1110+c.offset), "--starttls", "--ca", c.ca, "--no-cache", "--scan")
	c.deletion(t, u, len(msgs))
	c.dyingClient(t, u)
	c.vanishedClient(t, u)
	c.capabilities(t, u)
}

// intoDovecot puts messages into a Maildir of Dovecot's, in their order.
func intoDovecot(t *testing.T, d *dovecot, user string, msgs []testmail.Message) {
	t.Helper()
	root := filepath.Join(d.dir, "mail", user, "Maildir")
	for _, sub := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range msgs {
		put(t, root, fmt.Sprintf("new/%d.M%06dP1.here", 1700000000+i, i), strings.ReplaceAll(string(m.Body), "\r\n", "\n"), 0o666)
	}
	err := filepath.WalkDir(filepath.Dir(root), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = os.Chmod(path, 0o777)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func maildrop(t *testing.T, o popclient.Options) ([]popclient.Entry, *popclient.Client) {
	t.Helper()
	o.User, o.Password, o.Security = "u0@example.test", password, popclient.Plain
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := popclient.Dial(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	var all []popclient.Entry
	for e, err := range c.List(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return all, c
}

// same compares what does not depend on the server: the header's and the parts'.
func same(t *testing.T, want, got []popclient.Entry, msgs []testmail.Message) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%d and %d messages", len(want), len(got))
	}
	for i, w := range want {
		if g := got[i]; g.Number != w.Number || g.From != w.From || g.Subject != w.Subject || !g.Date.Equal(w.Date) || g.Attachment != w.Attachment || g.UIDL == "" {
			t.Errorf("%s: there %+v\nhere %+v", msgs[i].Name, w, g)
		}
	}
}

// byCommand is waypost mailbox list.
func byCommand(t *testing.T, want []popclient.Entry, args ...string) {
	t.Helper()
	var out, complaints bytes.Buffer
	args = append([]string{"mailbox", "list", "--user", "u0@example.test", "--json"}, args...)
	if code := cli.Main(args, strings.NewReader(password+"\n"), &out, &complaints); code != 0 {
		t.Fatalf("%v: exit code %d, %s", args, code, complaints.String())
	}
	var got []popclient.Entry
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != len(want) {
		t.Fatalf("%v: %v, %d entries of %d", args, err, len(got), len(want))
	}
	for i := range got {
		if got[i].Subject != want[i].Subject || !got[i].Date.Equal(want[i].Date) {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
}

// deletion: what QUIT removes is gone from the quota and for an open IMAP session
// when QUIT is answered.
func (c *testCluster) deletion(t *testing.T, u director.User, n int) {
	t.Helper()
	watch, err := dialIMAP(c.addr(1144), u)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if _, err := watch.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	before, err := c.admin.User(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	p, err := dialPOP3(c.addr(1111), u)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"DELE 1", "DELE 2", "QUIT"} {
		if _, err := p.cmd(line); err != nil {
			t.Fatal(line, err)
		}
	}
	after, err := c.admin.User(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if *after.UsedMessages != *before.UsedMessages-2 || *after.UsedBytes >= *before.UsedBytes {
		t.Errorf("quota: %d messages, %d bytes, before %d, %d", *after.UsedMessages, *after.UsedBytes, *before.UsedMessages, *before.UsedBytes)
	}
	if err := watch.Noop().Wait(); err != nil {
		t.Fatal(err)
	}
	if got := watch.Mailbox().NumMessages; int(got) != n-2 {
		t.Errorf("IMAP sees %d messages, want %d", got, n-2)
	}
}

// dyingClient: the maildrop's lock goes with the connection, without a QUIT, and
// what was marked stays.
func (c *testCluster) dyingClient(t *testing.T, u director.User) {
	t.Helper()
	for i := range 3 {
		conn, err := net.DialTimeout("tcp", c.addr(1110), patience)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "USER %s\r\nPASS %s\r\nDELE 1\r\n", u, password)
		for got := ""; !strings.Contains(got, "deleted"); {
			b := make([]byte, 500)
			k, err := conn.Read(b)
			if err != nil {
				t.Fatal(got, err)
			}
			got += string(b[:k])
		}
		if i == 0 { // meanwhile nobody else gets in, at the other proxy neither
			if p, err := dialPOP3(c.addr(1111), u); err == nil {
				p.quit()
				t.Error("two sessions have the maildrop")
			} else if !strings.Contains(err.Error(), "[IN-USE]") {
				t.Error(err)
			}
		}
		_ = conn.(*net.TCPConn).SetLinger(0) // a reset: the client has died
		conn.Close()
		// At once: no retry is needed.
		p, err := dialPOP3(c.addr(1111), u)
		if err != nil {
			t.Fatal("the lock was left behind: ", err)
		}
		if _, err := p.cmd("LIST 1"); err != nil {
			t.Error("removed without QUIT: ", err)
		}
		p.quit()
	}
}

// vanishedClient: a client that is gone without a word, as one whose network ended, does not keep
// the maildrop for longer than a minute.
func (c *testCluster) vanishedClient(t *testing.T, u director.User) {
	t.Helper()
	p, err := dialPOP3(c.addr(1110), u)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var refused error
	if err := raw.Control(func(fd uintptr) {
		// What came has its ACK, lest it comes again and finds nobody.
		refused = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1), unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1))
	}); err != nil {
		t.Fatal(err)
	}
	if errors.Is(refused, os.ErrPermission) {
		t.Log("root alone can let a connection vanish")
		p.quit()
		return
	}
	if refused != nil {
		t.Fatal(refused)
	}
	p.c.Close() // nothing is sent
	eventually(t, "the maildrop is free", time.Minute, func() error {
		p, err := dialPOP3(c.addr(1111), u)
		if err == nil {
			p.quit()
		}
		return err
	})
}

// capabilities are the same before the login and after it.
func (c *testCluster) capabilities(t *testing.T, u director.User) {
	t.Helper()
	var lists [2][]string
	conn, err := net.DialTimeout("tcp", c.addr(1110), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "CAPA\r\nUTF8\r\nUSER %s\r\nPASS %s\r\nCAPA\r\nQUIT\r\n", u, password)
	var all bytes.Buffer
	if _, err := all.ReadFrom(conn); err != nil {
		t.Fatal(err)
	}
	for i, part := range strings.SplitN(all.String(), "\r\nTOP\r\n", 3)[1:] {
		text, _, _ := strings.Cut(part, "\r\n.\r\n")
		lists[i] = strings.Split(text, "\r\n")
	}
	if len(lists[0]) < 8 || !reflect.DeepEqual(lists[0], lists[1]) {
		t.Errorf("before the login %q\nafter it %q", lists[0], lists[1])
	}
}
