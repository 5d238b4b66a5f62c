package imap

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/maildir"
	"waypost/director"
	"waypost/internal/vfs"
)

// BenchmarkMaildir measures commands on a Maildir whose index has all messages. cpu-ns/msg is
// the process's time in user and kernel mode for each message of the folder, the client's
// share and the collection of garbage included; cpu-us/op that of the whole command.
func BenchmarkMaildir(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchMaildir(b, n) })
	}
}

func benchMaildir(b *testing.B, n int) {
	w := newWarm(b, n)
	c := w.dial(b)
	c.run("SELECT INBOX")
	c.run("FETCH 1:* (BODYSTRUCTURE)")
	for _, command := range []string{
		"FETCH 1:* (FLAGS)", "FETCH 1:* (ENVELOPE)", "FETCH 1:* (BODYSTRUCTURE)", "FETCH 1:* (PREVIEW)", "FETCH 1:* (INTERNALDATE)",
		"FETCH 1:* (FLAGS UID RFC822.SIZE INTERNALDATE BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC SUBJECT MESSAGE-ID REFERENCES)])",
		"SEARCH SUBJECT giraffe", "SEARCH FROM ann7@", "SEARCH SINCE 1-Feb-2025", "SEARCH SENTSINCE 1-Feb-2025", "SORT (DATE) UTF-8 ALL", "SORT (SUBJECT) UTF-8 ALL",
		"SORT (ARRIVAL) UTF-8 ALL", "SORT (FROM) UTF-8 ALL", "THREAD REFERENCES UTF-8 ALL", "THREAD ORDEREDSUBJECT UTF-8 ALL", "SELECT INBOX",
	} {
		b.Run(strings.NewReplacer(" ", "_", "/", "_").Replace(command), func(b *testing.B) {
			measure(b, n, func() { c.run(command) })
		})
	}
	b.Run("session", func(b *testing.B) {
		measure(b, n, func() {
			c := w.dial(b)
			c.run("SELECT INBOX")
			c.run("LOGOUT")
			c.w.Close()
			<-c.done
		})
	})
}

func measure(b *testing.B, n int, do func()) {
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		do()
	}
	spent := float64(cpuTime(b) - before)
	b.ReportMetric(spent/float64(b.N)/float64(n), "cpu-ns/msg")
	b.ReportMetric(spent/float64(b.N)/1e3, "cpu-us/op")
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// warm is a server on a Maildir.
type warm struct {
	a   *maildir.Account
	srv *Server
	box mailbox.Box
}

// soleGuard is the lock of a user that nobody moves.
type soleGuard struct{ mu sync.Mutex }

func (g *soleGuard) Enter(director.Epoch) (func(), error) {
	g.mu.Lock()
	return g.mu.Unlock, nil
}

func newWarm(b *testing.B, n int) *warm {
	base := b.TempDir()
	root := filepath.Join(base, "user")
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(base, "incoming"), 0o700))
	must(maildir.Create(vfs.OS, root))
	for i := range n {
		text := madeLetter(i)
		file := filepath.Join(root, "Maildir", "cur", fmt.Sprintf("%d.M1P1Q%d.bench,S=%d,W=%d:2,S", 1700000000+i, i, len(text), len(text)+strings.Count(text, "\n")))
		must(os.WriteFile(file, []byte(text), 0o600))
		at := time.Unix(int64(1700000000+i*7919%100000*601), 0)
		must(os.Chtimes(file, at, at))
	}
	j, err := journal.Open(journal.Options{FS: vfs.OS, Dir: filepath.Join(base, "journal"), Sync: base})
	must(err)
	must(j.Replay(func(journal.Record) error { return nil }))
	must(j.Start())
	log := slog.New(slog.DiscardHandler)
	a, err := maildir.Open(maildir.Options{
		FS: vfs.OS, Journal: j, User: ann, Root: root, Guard: &soleGuard{}, Limit: func() mailbox.Limit { return mailbox.Limit{} },
		Log: log, Now: time.Now, Host: "bench",
	})
	must(err)
	b.Cleanup(func() {
		_ = a.Close()
		_ = j.Close()
	})
	w := &warm{a: a, srv: New(Options{Log: log, Metrics: prometheus.NewRegistry()})}
	w.box = a.Box(ann, 1, nil)
	return w
}

// madeLetter is message i: of a conversation of about four.
func madeLetter(i int) string {
	words := []string{"report", "meeting", "giraffe", "invoice", "trip", "garden", "release", "plan", "question", "music"}
	topic := i / 4
	subject := fmt.Sprintf("%s about the %s %d", words[topic%10], words[topic/10%10], topic)
	refs := ""
	if i%4 > 0 {
		subject = "Re: " + subject
		refs = fmt.Sprintf("In-Reply-To: <m%d@mail.example.test>\nReferences:", i-1)
		for k := i - i%4; k < i; k++ {
			refs += fmt.Sprintf(" <m%d@mail.example.test>", k)
		}
		refs += "\n"
	}
	date := time.Unix(int64(1700000000+i*3571%100000*601), 0).UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700")
	return fmt.Sprintf("Return-Path: <ann%d@example.test>\nReceived: from a by b with ESMTP id %d; %s\nDate: %s\nFrom: Ann Number %d <ann%d@example.test>\n"+
		"To: Bob <bob@example.test>\nCc: \"Carol, of the %s\" <carol@example.test>\nSubject: %s\nMessage-ID: <m%d@mail.example.test>\n%sMIME-Version: 1.0\n"+
		"Content-Type: text/plain; charset=utf-8\nUser-Agent: bench\n\nDear Bob,\n\nthis is letter %d.\n%s\n", i%100, i, date, date, i%100, i%100, words[i%10], subject, i, refs, i,
		strings.Repeat("A line of text that says next to nothing, as most do.\n", 4))
}

// quick is a client that does not look at what it reads.
type quick struct {
	b    *testing.B
	w    io.WriteCloser
	r    *bufio.Reader
	n    int
	done <-chan error
}

func (w *warm) dial(b *testing.B) *quick {
	client, server := loopback(b)
	done := make(chan error, 1)
	box := w.a.Box(ann, 1, nil)
	go func() {
		defer server.Close()
		err := w.srv.Serve(context.Background(), server, Session{Box: box, Client: "192.0.2.1:1", ID: "s"})
		box.Close()
		done <- err
	}()
	c := &quick{b: b, w: client, r: bufio.NewReaderSize(client, 256<<10), done: done}
	if _, err := c.r.ReadSlice('\n'); err != nil {
		b.Fatal(err)
	}
	return c
}

// run wants an OK.
func (c *quick) run(command string) {
	c.n++
	tag := fmt.Appendf(nil, "q%d ", c.n)
	if _, err := fmt.Fprintf(c.w, "%s%s\r\n", tag, command); err != nil {
		c.b.Fatal(err)
	}
	for {
		line, err := c.r.ReadSlice('\n')
		for err == bufio.ErrBufferFull {
			_, err = c.r.ReadSlice('\n')
		}
		if err != nil {
			c.b.Fatal(err)
		}
		if bytes.HasPrefix(line, tag) {
			if !bytes.HasPrefix(line[len(tag):], []byte("OK")) {
				c.b.Fatalf("%s: %s", command, line)
			}
			return
		}
	}
}
