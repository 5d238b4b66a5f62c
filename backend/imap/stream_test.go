package imap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// bigBox is a box whose folders hold one large message, made while it is read.
type bigBox struct {
	mailbox.Box
	size  int64
	reads *int // times that Open was called
}

type bigFolder struct {
	mailbox.Folder
	box *bigBox
}

func (b *bigBox) Folder(name string) (mailbox.Folder, error) {
	f, err := b.Box.Folder(name)
	return &bigFolder{f, b}, err
}

func (f *bigFolder) Snapshot() (mailbox.Snapshot, error) {
	s, err := f.Folder.Snapshot()
	s.UIDNext = 2
	s.Messages = mailbox.NewMessages([]mailbox.Message{{UID: 1, Size: f.box.size, WireSize: f.box.size}})
	return s, err
}

func (f *bigFolder) Open(mailbox.UID) (mailbox.Body, error) {
	*f.box.reads++
	return &bigBody{size: f.box.size}, nil
}

// Meta reads the message as an index does that has it not yet.
func (f *bigFolder) Meta(mailbox.UID) (*mailbox.Meta, error) {
	root, err := mime.Scan(&bigBody{size: f.box.size})
	return &mailbox.Meta{Root: root}, err
}

const (
	bigHead = "Subject: big\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: application/octet-stream\r\n\r\n"
	bigLine = "0123456789012345678901234567890123456789012345678901234567890123456789012345\r\n"
)

type bigBody struct{ size, pos int64 }

func (b *bigBody) WireSize() int64 { return b.size }
func (b *bigBody) Close() error    { return nil }

func (b *bigBody) Seek(to int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		return 0, errors.ErrUnsupported
	}
	b.pos = to
	return to, nil
}

func (b *bigBody) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && b.pos < b.size {
		var c int
		if b.pos < int64(len(bigHead)) {
			c = copy(p[n:], bigHead[b.pos:])
		} else {
			c = copy(p[n:], bigLine[(b.pos-int64(len(bigHead)))%int64(len(bigLine)):])
		}
		c = int(min(int64(c), b.size-b.pos))
		n += c
		b.pos += int64(c)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// literalSize reads a response's first line up to its literal's size.
func literalSize(t *testing.T, br *bufio.Reader) int64 {
	t.Helper()
	l, err := br.ReadString('\n')
	var n int64
	if i := strings.LastIndexByte(l, '{'); err != nil || i < 0 {
		t.Fatalf("%q %v", l, err)
	} else if _, err := fmt.Sscanf(l[i:], "{%d}", &n); err != nil {
		t.Fatalf("%q", l)
	}
	return n
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A large message passes through with some hundred KiB in memory.
func TestLargeMessage(t *testing.T) {
	const size = 200 << 20 // what is allocated does not depend on it
	r := newRig(t, Limits{})
	reads := 0
	b := &bigBox{Box: r.box(1), size: size, reads: &reads}
	c := r.dial(b)
	c.ok("SELECT INBOX")
	for _, item := range []string{"BODY.PEEK[]", "BODY.PEEK[1]"} {
		before := allocated()
		c.nc.SetReadDeadline(time.Now().Add(timeout))
		c.send("x FETCH 1 %s\r\n", item)
		n := literalSize(t, c.br)
		want := int64(size)
		if item == "BODY.PEEK[1]" {
			want -= int64(len(bigHead))
		}
		if _, err := io.CopyN(io.Discard, c.br, n); err != nil || n != want {
			t.Fatalf("%s: %d bytes, want %d, %v", item, n, want, err)
		}
		c.until("x")
		if grown := allocated() - before; grown > 2<<20 {
			t.Errorf("%s: %d bytes allocated", item, grown)
		}
	}
	before := allocated()
	if got := c.ok("FETCH 1 (BODYSTRUCTURE ENVELOPE BODY.PEEK[HEADER.FIELDS (Subject)] BODY.PEEK[1]<150000000.5>)"); len(got) != 1 {
		t.Errorf("%q", got)
	}
	if grown := allocated() - before; grown > 2<<20 {
		t.Errorf("structure: %d bytes allocated", grown)
	}
	if reads != 1 {
		t.Errorf("the message was opened %d times", reads)
	}
}

// discardStore counts what is staged.
type discardStore struct {
	mailbox.Store
	n int64
}

func (d *discardStore) Stage(_ context.Context, _ string, r io.Reader, _ int64) (mailbox.Staged, error) {
	n, err := io.Copy(io.Discard, r)
	d.n = n
	return nil, errors.Join(err, mailbox.ErrOverQuota)
}

func TestLargeAppend(t *testing.T) {
	const size = 200 << 20
	r := newRig(t, Limits{})
	store := &discardStore{Store: r.store}
	nc, done := r.serve(t.Context(), Session{Box: r.box(1), Store: store})
	c := newRaw(t, nc, done)
	c.line()
	before := allocated()
	c.send("a APPEND INBOX {%d}\r\n", size)
	c.line()
	buf := make([]byte, 64<<10)
	for range size / len(buf) {
		if _, err := nc.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	c.send("\r\n")
	if _, st := c.until("a"); !strings.HasPrefix(st, "NO [OVERQUOTA]") || store.n != size {
		t.Errorf("%q, %d bytes", st, store.n)
	}
	if grown := allocated() - before; grown > 2<<20 {
		t.Errorf("%d bytes allocated", grown)
	}
}

// A FETCH that has begun when the mailbox moves is finished; then comes the BYE.
func TestByeDuringFetch(t *testing.T) {
	const size = 64 << 20
	r := newRig(t, Limits{})
	reads := 0
	c := r.dial(&bigBox{Box: r.box(1), size: size, reads: &reads})
	c.ok("SELECT INBOX")
	c.send("x FETCH 1 BODY.PEEK[]\r\ny NOOP\r\n")
	n := literalSize(t, c.br)
	if _, err := io.CopyN(io.Discard, c.br, 1<<20); err != nil {
		t.Fatal(err)
	}
	r.store.Freeze(ann)
	if _, err := io.CopyN(io.Discard, c.br, n-1<<20); err != nil {
		t.Fatal(err)
	}
	if _, st := c.until("x"); !strings.HasPrefix(st, "OK") {
		t.Errorf("%q", st)
	}
	c.bye("moving") // and y is not answered
}

// A client that takes nothing is cut off.
func TestSlowClient(t *testing.T) {
	r := newRig(t, Limits{Write: 50 * time.Millisecond})
	reads := 0
	c := r.dial(&bigBox{Box: r.box(1), size: 1 << 30, reads: &reads})
	c.ok("SELECT INBOX")
	c.send("x FETCH 1 BODY.PEEK[]\r\n")
	if err := c.ended(); err != nil {
		t.Error(err)
	}
	// And one whose command does not end when it must.
	r = newRig(t, Limits{Finish: 50 * time.Millisecond})
	c = r.dial(&bigBox{Box: r.box(1), size: 1 << 30, reads: &reads})
	c.ok("SELECT INBOX")
	c.send("x FETCH 1 BODY.PEEK[]\r\n")
	r.store.Freeze(ann)
	c.ended()
}

// A body shorter than announced cannot be answered; the connection is cut.
func TestTornMessage(t *testing.T) {
	r := newRig(t, Limits{})
	reads := 0
	c := r.dial(&tornBox{bigBox{Box: r.box(1), size: 1000, reads: &reads}})
	c.ok("SELECT INBOX")
	c.send("x FETCH 1 BODY.PEEK[]\r\n")
	c.nc.SetReadDeadline(time.Now().Add(timeout))
	got, err := io.ReadAll(c.br)
	if err != nil || strings.Contains(string(got), "x OK") || strings.Contains(string(got), "BYE") {
		t.Errorf("%q %v", got, err)
	}
	if err := c.ended(); err == nil {
		t.Error("no error")
	}
}

type tornBox struct{ bigBox }

func (b *tornBox) Folder(name string) (mailbox.Folder, error) {
	f, err := b.Box.Folder(name)
	return &tornFolder{bigFolder{f, &b.bigBox}}, err
}

type tornFolder struct{ bigFolder }

func (f *tornFolder) Open(mailbox.UID) (mailbox.Body, error) {
	return &tornBody{bigBody{size: f.box.size - 100}}, nil
}

type tornBody struct{ bigBody }

func (b *tornBody) WireSize() int64 { return b.size + 100 }

// TestPipe serves a connection without half-close.
func TestPipe(t *testing.T) {
	r := newRig(t, Limits{})
	client, server := net.Pipe()
	done := make(chan error, 1)
	b := r.box(1)
	go func() { done <- r.srv.Serve(t.Context(), server, Session{Box: b, Store: r.store}) }()
	c := newRaw(t, client, done)
	c.line()
	c.ok("SELECT INBOX")
	r.store.Freeze(ann)
	c.bye("moving")
	if err := c.ended(); err != nil {
		t.Error(err)
	}
}

// corpus gives messages with LF line ends: those of the mail corpus where it
// is, else some made ones.
func corpus(t *testing.T) [][]byte {
	t.Helper()
	archive := os.Getenv("MAIL_CORPUS")
	if archive == "" {
		archive = "../../../shared/corpus/mail-corpus.tar.xz"
	}
	if st, err := os.Stat(archive); err == nil && st.IsDir() {
		archive = filepath.Join(archive, "mail-corpus.tar.xz")
	}
	var out [][]byte
	if _, err := os.Stat(archive); err == nil {
		dir := t.TempDir()
		if msg, err := exec.Command("tar", "xJf", archive, "-C", dir).CombinedOutput(); err != nil {
			t.Logf("corpus not unpacked: %v %s", err, msg)
		}
		names, _ := filepath.Glob(filepath.Join(dir, "*", "*.eml"))
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
	}
	for i := range 100 {
		m := fmt.Sprintf("Subject: made %d\nContent-Type: multipart/mixed; boundary=\"b%d\"\n\n", i, i)
		for j := range i % 7 {
			m += fmt.Sprintf("--b%d\nContent-Type: text/plain\n\npart %d\xe9\x01\n.\n", i, j)
		}
		out = append(out, []byte(m))
	}
	return out
}

// TestCorpus fetches real messages whole, in sections, and as structures: what
// comes is byte for byte what was stored, and header and text make the whole.
func TestCorpus(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	msgs := corpus(t)
	for _, m := range msgs {
		r.deliver(b, "INBOX", string(m))
	}
	c := r.dial(b)
	c.ok("SELECT INBOX")
	got := c.ok("FETCH 1:* (BODY.PEEK[])")
	if len(got) != len(msgs) {
		t.Fatalf("%d answers for %d messages", len(got), len(msgs))
	}
	for i, l := range got {
		want := bytes.ReplaceAll(bytes.ReplaceAll(msgs[i], []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
		if l != fmt.Sprintf("* %d FETCH (BODY[] {%d}%s)", i+1, len(want), want) {
			t.Fatalf("message %d is not what was stored: %.300q", i+1, l)
		}
		msgs[i] = want
	}
	for i, l := range c.ok("FETCH 1:* (BODY.PEEK[HEADER] BODY.PEEK[TEXT])") {
		head, text, ok := strings.Cut(strings.TrimPrefix(l, fmt.Sprintf("* %d FETCH (BODY[HEADER] {", i+1)), "}")
		var n int
		if _, err := fmt.Sscanf(head, "%d", &n); err != nil || !ok || n > len(text) {
			t.Fatalf("message %d: %.300q", i+1, l)
		}
		body := string(msgs[i][n:])
		if text[:n] != string(msgs[i][:n]) || text[n:] != fmt.Sprintf(" BODY[TEXT] {%d}%s)", len(body), body) {
			t.Fatalf("message %d: header and text are not the message", i+1)
		}
	}
	for _, items := range []string{"ENVELOPE", "(BODYSTRUCTURE BODY)", "(BODY.PEEK[1] BODY.PEEK[1.MIME] BODY.PEEK[2.1])", "BODY.PEEK[HEADER.FIELDS (From Received)]"} {
		if got := c.ok("FETCH 1:* %s", items); len(got) != len(msgs) {
			t.Errorf("%s: %d answers", items, len(got))
		}
	}
	c.ok("SEARCH TEXT \"no such words anywhere\" BODY x SENTSINCE 1-Jan-2000 FROM a")
}
