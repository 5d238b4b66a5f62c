package index

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
	"waypost/internal/testmail"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

var arrived = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// zoned gives t as a Meta comes back: with the offset, without the zone's name.
func zoned(t time.Time) time.Time {
	_, offset := t.Zone()
	if t = time.Unix(t.Unix(), int64(t.Nanosecond())); offset == 0 {
		return t.UTC()
	}
	return t.In(time.FixedZone("", offset))
}

// read reads a message and takes the names of zones from its dates.
func read(t testing.TB, msg []byte) *mailbox.Meta {
	t.Helper()
	m, err := Read(bytes.NewReader(msg), arrived)
	if err != nil {
		t.Fatal(err)
	}
	m.Root.Walk(func(p *mime.Part) {
		if p.Envelope != nil {
			p.Envelope.Date = zoned(p.Envelope.Date)
		}
	})
	return m
}

func same(t testing.TB, what string, got, want *mailbox.Meta) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: got\n%s\nwant\n%s", what, show(got), show(want))
	}
}

func show(m *mailbox.Meta) string {
	s := fmt.Sprintf("%+v\n", *m)
	m.Root.Walk(func(p *mime.Part) { s += fmt.Sprintf("%+v\n%+v\n", *p, p.Envelope) })
	return s
}

// made is a small message, different for each i.
func made(i int) []byte {
	return []byte(crlf(fmt.Sprintf("From: Ann <ann%d@example.test>\nSubject: number %d\n\nbody %d\n", i%7, i, i)))
}

func base(i int) string { return fmt.Sprintf("17000%05d.M%dP1.host,S=100,W=120", i, i*7919%1000000) }

const dir = "/folder"

// newFS gives an empty file system with a folder.
func newFS(t testing.TB) *crashfs.FS {
	t.Helper()
	f := crashfs.New(1)
	if err := f.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	return f
}

// madeMetas are those of the first made messages; nobody writes to them.
var madeMetas = sync.OnceValue(func() (all []*mailbox.Meta) {
	for i := range 32 {
		m, err := Read(bytes.NewReader(made(i)), arrived)
		if err != nil {
			panic(err)
		}
		all = append(all, m)
	}
	return all
})

// madeMeta is what was read of message i.
func madeMeta(t testing.TB, i int) *mailbox.Meta {
	if all := madeMetas(); i < len(all) {
		return all[i]
	}
	return read(t, made(i))
}

func put(t testing.TB, x *Index, i int) {
	t.Helper()
	if err := x.Put(base(i), madeMeta(t, i)); err != nil {
		t.Fatal(err)
	}
}

func has(t testing.TB, x *Index, i int) {
	t.Helper()
	m, ok := x.Get(base(i))
	if !ok {
		t.Fatalf("message %d is not there: %+v", i, x.Stats())
	}
	want := madeMeta(t, i)
	same(t, base(i), m, want)
	if w, ok := x.Wire(base(i), new(Room)); !ok || w != want.Root.Wire || w.Envelope == "" || w.Structure == "" {
		t.Fatalf("message %d: %+v", i, w)
	}
	names, _ := NamesOf([]string{"SUBJECT", "Date", "to"})
	header, known := HeaderFields(want, []string{"subject", "date", "TO"})
	if got, ok := x.HeaderFields(base(i), names); ok != known || got != header {
		t.Fatalf("message %d: %q, not %q", i, got, header)
	}
}

func closed(t testing.TB, x *Index) {
	t.Helper()
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

// contentsOf reads a file whole, setContents makes it anew.
func contentsOf(t testing.TB, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.OpenFile(name, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func withFile(t testing.TB, b []byte) *crashfs.FS {
	t.Helper()
	fsys := newFS(t)
	f, err := fsys.OpenFile(dir+"/"+fileName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return fsys
}

func corpus(t testing.TB, n int) []testmail.Message {
	t.Helper()
	msgs, _, err := testmail.Load(t.TempDir(), n)
	if err != nil {
		t.Fatal(err)
	}
	return msgs
}
