package fulltext

import (
	"bytes"
	"context"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"waypost/backend/imap/search"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/director"
)

const ann = director.User("ann@example.test")

// tb is what testing.T, testing.B and rapid.T share.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is a user with a mailbox in memory and an index on the disk.
type world struct {
	t     tb
	root  string
	mail  *memory.Store
	box   mailbox.Box
	store *Store
	lease *Lease
	full  bool // the disk
}

func newWorld(t tb, dir string) *world {
	w := &world{t: t, root: filepath.Join(dir, "user"), mail: memory.New()}
	w.must(os.MkdirAll(w.root, 0o700))
	w.mail.Serve(ann, "b1", 1)
	box, err := w.mail.Open(context.Background(), ann, "b1", 1)
	w.must(err)
	w.box = box
	w.start()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v", err)
	}
}

// start makes a Store, as a backend that begins.
func (w *world) start() {
	w.store = New(Options{Log: slog.New(slog.DiscardHandler), Room: func() bool { return !w.full }})
	w.lease = w.store.Lease(ann, w.root)
}

// restart ends and begins again.
func (w *world) restart() {
	w.lease.Release()
	w.store.Close()
	w.start()
}

func (w *world) close() {
	w.lease.Release()
	w.store.Close()
	w.box.Close()
}

func (w *world) append(folder, text string) {
	w.t.Helper()
	m, err := w.mail.Stage(context.Background(), "", strings.NewReader(text), 0)
	w.must(err)
	defer m.Discard()
	_, err = w.box.Append(folder, []mailbox.NewMessage{{Message: m, Date: time.Unix(1e9, 0)}})
	w.must(err)
}

func (w *world) folder(name string) (mailbox.Folder, mailbox.Messages) {
	w.t.Helper()
	f, err := w.box.Folder(name)
	w.must(err)
	s, err := f.Snapshot()
	w.must(err)
	return f, s.Messages
}

// worker is what Run has of the backend.
func (w *world) worker(context.Context, director.User) (mailbox.Box, *Lease, error) {
	box, err := w.mail.Open(context.Background(), ann, "b1", 1)
	if err != nil {
		return nil, nil, err
	}
	l := w.store.Lease(ann, w.root)
	return &leased{box, l}, l, nil
}

// leased ends its Lease with itself.
type leased struct {
	mailbox.Box
	l *Lease
}

func (b *leased) Close() {
	b.Box.Close()
	b.l.Release()
}

func (w *world) index() *userIndex {
	w.t.Helper()
	ix, err := w.lease.index()
	w.must(err)
	return ix
}

// segments are the files.
func (w *world) segments() []string {
	w.t.Helper()
	all, err := filepath.Glob(filepath.Join(w.root, Dir, "*"+segmentSuffix))
	w.must(err)
	return all
}

// view is a session's of a folder; it counts the messages that are read.
type view struct {
	f    mailbox.Folder
	all  mailbox.Messages
	read int
}

func (v *view) Len() int                                        { return v.all.Len() }
func (v *view) From(i int) iter.Seq2[int, *mailbox.Message]     { return v.all.From(i) }
func (v *view) Resolve(syntax.Set, bool) []search.Span          { return nil }
func (v *view) Recent(mailbox.UID) bool                         { return false }
func (v *view) InternalDate(uid mailbox.UID) (time.Time, error) { return v.f.InternalDate(uid) }
func (v *view) SaveDate(uid mailbox.UID) (time.Time, error)     { return v.f.SaveDate(uid) }
func (v *view) EmailID(uid mailbox.UID) (string, error)         { return v.f.EmailID(uid) }
func (v *view) ThreadID(mailbox.UID) (string, error)            { return "", nil }
func (v *view) Meta(uid mailbox.UID) (*mailbox.Meta, error)     { return v.f.Meta(uid) }
func (v *view) Open(uid mailbox.UID) (mailbox.Body, error)      { v.read++; return v.f.Open(uid) }

// indexed is a view with an index.
type indexed struct {
	*view
	l *Lease
}

func (v *indexed) Candidates(ctx context.Context, needle string, body bool) ([]mailbox.UID, bool) {
	return v.l.Candidates(ctx, v.f, v.all, needle, body)
}

var _ search.TextIndex = (*indexed)(nil)

// input is a command.
type input struct{ *strings.Reader }

func (in input) Line(int) ([]byte, error) {
	text, err := io.ReadAll(in.Reader)
	if len(text) == 0 {
		return nil, io.EOF
	}
	return bytes.TrimSuffix(text, []byte("\r\n")), err
}

func (input) Continue() error { return nil }

// run gives the answer to the keys of a SEARCH.
func run(t tb, v search.View, keys string) string {
	t.Helper()
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("search %q: %v", keys, err)
		}
	}
	p := syntax.New(input{strings.NewReader("SEARCH " + keys + "\r\n")}, syntax.Limits{Command: 1 << 20})
	fail(p.Next())
	_, err := p.Name()
	fail(err)
	q, err := search.Parse(p, search.Search, search.Options{})
	fail(err)
	r, err := q.Run(context.Background(), v, search.Env{})
	fail(err)
	var out bytes.Buffer
	e := syntax.NewEncoder(&out, syntax.Buffers())
	r.Write(e, "A1")
	fail(e.Flush())
	return strings.TrimSpace(strings.TrimPrefix(out.String(), "* SEARCH"))
}

// same searches with and without the index, and gives how many messages it had to read.
func (w *world) same(folder, keys string) (answer string, read int) {
	w.t.Helper()
	f, all := w.folder(folder)
	want := run(w.t, &view{f: f, all: all}, keys)
	v := &view{f: f, all: all}
	if got := run(w.t, &indexed{v, w.lease}, keys); got != want {
		w.t.Fatalf("%s in %s: %q with the index, %q without", keys, folder, got, want)
	}
	return want, v.read
}
