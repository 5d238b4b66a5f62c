package up

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"waypost/deploy/clifile"
	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
	"waypost/internal/durable"
)

const patience = 90 * time.Second

// trial is one Run.
type trial struct {
	t    *testing.T
	l    layout
	stop context.CancelFunc
	done chan error
	out  output
	logs output
}

// output keeps what is written, and tells of the line "ready".
type output struct {
	mu    sync.Mutex
	b     bytes.Buffer
	ready chan struct{}
	once  sync.Once
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	if o.ready != nil && slices.Contains(strings.Split(o.b.String(), "\n"), "ready") {
		o.once.Do(func() { close(o.ready) })
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// freeOffset finds a shift at which all ports are free. It is above those that
// deploy/clustertest takes, which may run at the same time.
func freeOffset(t *testing.T) int {
	t.Helper()
	for range 50 {
		l := layout{t.TempDir(), 12_010 + 10*rand.IntN(300)}
		if free(l.ports(l.units())) == nil {
			return l.offset
		}
	}
	t.Fatal("no free ports")
	return 0
}

// begin runs a cluster until end, and waits until it is ready.
func begin(t *testing.T, data string, offset int) *trial {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &trial{t: t, l: layout{data, offset}, stop: stop, done: make(chan error, 1)}
	r.out.ready = make(chan struct{})
	go func() {
		r.done <- Run(ctx, Options{Data: data, Offset: offset, Demo: true, Stdout: &r.out, Stderr: &r.logs, LogLevel: "info"})
	}()
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			s := r.logs.String()
			t.Logf("--- the end of the log\n%s", s[max(0, len(s)-6000):])
		}
	})
	select {
	case <-r.out.ready:
	case err := <-r.done:
		t.Fatalf("it ended before it was ready: %v\n%s", err, r.logs.String())
	case <-time.After(patience):
		t.Fatalf("it is not ready; it printed\n%s", r.out.String())
	}
	return r
}

// end stops it as Ctrl-C does.
func (r *trial) end() {
	r.t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		r.t.Fatal("it does not end")
	}
	if err := free(r.l.ports(r.l.units())); err != nil {
		r.t.Errorf("after the end: %v", err)
	}
}

// send sends a message by SMTP.
func (r *trial) send(port int, to, subject string) {
	r.t.Helper()
	conn, err := net.DialTimeout("tcp", r.l.addr(port), 10*time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c, err := smtp.NewClient(conn, "127.0.0.1")
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Mail("a@example.org"), c.Rcpt(to)); err != nil {
		r.t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = io.WriteString(w, message(subject))
	if err := errors.Join(err, w.Close(), c.Quit()); err != nil {
		r.t.Fatal(err)
	}
}

func message(subject string) string {
	return "Subject: " + subject + "\r\n\r\nthe text of " + subject + "\r\n"
}

// mailbox is INBOX as IMAP shows it: UIDVALIDITY, and UID and text of each message.
func (r *trial) mailbox(port int, user string) string {
	r.t.Helper()
	conn, err := net.DialTimeout("tcp", r.l.addr(port), 10*time.Second)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := imapclient.New(conn, nil)
	defer c.Close()
	if err := c.Login(user, demoPassword).Wait(); err != nil {
		r.t.Fatal(err)
	}
	sel, err := c.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil {
		r.t.Fatal(err)
	}
	out := fmt.Sprintf("validity %d\n", sel.UIDValidity)
	if sel.NumMessages == 0 {
		return out
	}
	var all imap.SeqSet
	all.AddRange(1, 0)
	whole := &imap.FetchItemBodySection{Peek: true}
	msgs, err := c.Fetch(all, &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{whole}}).Collect()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range msgs {
		body := string(m.FindBodySection(whole))
		i := strings.Index(body, "Subject: ")
		out += fmt.Sprintf("uid %d %q\n", m.UID, body[max(i, 0):])
	}
	return out
}

func (r *trial) admin() *admin.Client {
	r.t.Helper()
	f, err := clifile.Read(r.l.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	id, err := cluster.LoadIdentity(f.CA, f.Cert, f.Key)
	if err != nil {
		r.t.Fatal(err)
	}
	return admin.NewClient(f.Admin, id)
}

// user asks until the director and the user's home have answered: on a busy
// machine either may be late.
func (r *trial) user(name string) admin.User {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a := r.admin()
	defer a.Close()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		u, err := a.User(ctx, director.User(name))
		if err == nil && u.UsedBytes != nil {
			return u
		}
		if ctx.Err() != nil {
			r.t.Fatalf("user %s: %+v, %v", name, u, err)
		}
		<-again.C
	}
}

// TestUpInProcess: the cluster of `waypost up` starts, says what listens where,
// takes and gives mail, moves a user, stops, and is the same when it starts again.
func TestUpInProcess(t *testing.T) {
	data, offset := filepath.Join(t.TempDir(), "new", "data"), freeOffset(t)
	r := begin(t, data, offset)
	for _, u := range r.l.units() {
		for _, s := range u.Serves {
			if !strings.Contains(r.out.String(), s.Addr) {
				t.Errorf("it does not say that %s listens at %s", u.Peer, s.Addr)
			}
			c, err := net.DialTimeout("tcp", s.Addr, 10*time.Second)
			if err != nil {
				t.Errorf("%s of %s: %v", s.What, u.Peer, err)
				continue
			}
			c.Close()
		}
	}
	for _, u := range demoUsers {
		if !strings.Contains(r.out.String(), u) {
			t.Errorf("it does not say how %s logs in", u)
		}
		r.send(portSMTP1, u, "first for "+u)
	}
	alice, bob := demoUsers[0], demoUsers[1]
	r.send(portSMTP2, alice, "second for "+alice)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a := r.admin()
	before := r.user(alice)
	to := director.BackendID("b1")
	if before.Home == to {
		to = "b2"
	}
	if _, err := a.CreateMove(ctx, alice, to); err != nil {
		t.Fatal(err)
	}
	if m, err := a.WatchMove(ctx, director.User(alice), func(admin.Move) {}); err != nil || m.Phase != director.PhaseDone {
		t.Fatalf("move: %+v, %v", m, err)
	}
	before = r.user(alice)
	was := []string{r.mailbox(portIMAP1, alice), r.mailbox(portIMAP2, bob)}
	if strings.Count(was[0], "uid ") != 2 || !strings.Contains(was[0], fmt.Sprintf("%q", message("second for "+alice))) || strings.Count(was[1], "uid ") != 1 {
		t.Fatalf("mailboxes: %q", was)
	}
	secondRun(t, data)
	r.end()
	if !strings.Contains(r.out.String(), "stopping") {
		t.Error("it does not say that it stops")
	}

	r = begin(t, data, offset)
	if now := []string{r.mailbox(portIMAP2, alice), r.mailbox(portIMAP1, bob)}; !slices.Equal(now, was) {
		t.Errorf("after a restart the mailboxes are\n%q\nand were\n%q", now, was)
	}
	if after := r.user(alice); after.Home != before.Home || after.Epoch != before.Epoch || *after.UsedBytes != *before.UsedBytes {
		t.Errorf("after a restart: %+v, was %+v", after, before)
	}
	r.send(portSMTP1, alice, "third for "+alice)
	if now := r.mailbox(portIMAP1, alice); !strings.HasPrefix(now, was[0]) || strings.Count(now, "uid ") != 3 {
		t.Errorf("after one message more: %q, was %q", now, was[0])
	}
	r.end()
}

// refused runs up where it cannot run, and checks that it says so in one line
// that has these words, and is not ready.
func refused(t *testing.T, what string, o Options, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, logs output
	o.Stdout, o.Stderr = &out, &logs
	err := Run(ctx, o)
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v, want one line", what, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
	if out.String() != "" {
		t.Errorf("%s: it printed %q", what, out.String())
	}
}

// secondRun: a folder that runs is left alone.
func secondRun(t *testing.T, data string) {
	t.Helper()
	refused(t, "the folder of a running cluster", Options{Data: data, Offset: freeOffset(t)}, data, "stop the other process")
}

func TestUpRefusals(t *testing.T) {
	offset := freeOffset(t)
	l := layout{t.TempDir(), offset}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	t.Run("ports taken", func(t *testing.T) {
		for _, port := range []int{portIMAP1, portEtcd, portMetrics} {
			ln, err := net.Listen("tcp", l.addr(port))
			if err != nil {
				t.Fatal(err)
			}
			data := filepath.Join(t.TempDir(), "data")
			refused(t, "a taken port", Options{Data: data, Offset: offset}, l.addr(port), "--offset")
			ln.Close()
		}
	})
	t.Run("a file for a folder", func(t *testing.T) {
		refused(t, "a file", Options{Data: file, Offset: offset}, file, "--data")
		refused(t, "a folder below a file", Options{Data: filepath.Join(file, "data"), Offset: offset}, file, "--data")
	})
	t.Run("not writable", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			t.Log("root may write everywhere: only the folder below a file was tried")
			return
		}
		refused(t, "a folder that is not ours to write", Options{Data: dir, Offset: offset}, dir, "--data")
		refused(t, "a folder below one", Options{Data: filepath.Join(dir, "data"), Offset: offset}, dir, "--data")
	})
	t.Run("data of another version", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "VERSION"), []byte("99\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, "another version", Options{Data: dir, Offset: offset}, dir, "99", layoutVersion, "--data")
	})
	t.Run("somebody's files", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, "a folder with other things", Options{Data: dir, Offset: offset}, dir, "thesis.txt", "--data")
		es, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			if e.Name() != "thesis.txt" && e.Name() != durable.LockName {
				t.Errorf("it left %s there", e.Name())
			}
		}
	})
}
