package outbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

const (
	dir = "/data/outbox"
	ann = director.User("ann@example.test")
)

func newFS(t *testing.T, seed uint64) *crashfs.FS {
	t.Helper()
	f := crashfs.New(seed)
	if err := vfs.MkdirAll(f, dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

func open(t *testing.T, f vfs.FS) *Box {
	t.Helper()
	b, err := Open(f, dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// text is the message of an id.
func text(id string) string { return "Subject: " + id + "\n\n" + strings.Repeat(id+"\n", 600) }

// put puts a message of ann's, unsynced as a delivery does.
func put(f vfs.FS, b *Box, id string) error { return putFor(f, b, ann, id) }

func putFor(f vfs.FS, b *Box, u director.User, id string) error {
	return b.Put(u, mailbox.Outbound{ID: id, Kind: "redirect", From: "bob@far.test", To: []string{"eve@other.test"}}, func(path string) error {
		m, err := f.Nameless(dir)
		if err != nil {
			return err
		}
		if _, err = m.Write([]byte(text(id))); err == nil {
			err = m.LinkTo(path)
		}
		return errors.Join(err, m.Close())
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, f vfs.FS) (list []string) {
	t.Helper()
	must(t, f.ReadDir(dir, func(e fs.DirEntry) error {
		if e.Name() != sentName {
			list = append(list, e.Name())
		}
		return nil
	}))
	slices.Sort(list)
	return list
}

func TestPutIsIdempotent(t *testing.T) {
	f := newFS(t, 1)
	b := open(t, f)
	must(t, put(f, b, "1"))
	must(t, put(f, b, "1"))
	must(t, putFor(f, b, "bea@example.test", "1"))
	if n := len(names(t, f)); n != 4 || b.Waiting() != 2 {
		t.Fatalf("%d files, %d wait", n, b.Waiting())
	}
	if b = open(t, f); b.Waiting() != 2 || b.Refused() != 0 {
		t.Fatalf("opened again: %d wait, %d are refused", b.Waiting(), b.Refused())
	}
	e, m, err := b.open(key(ann, "1"))
	must(t, err)
	defer m.Close()
	data, err := io.ReadAll(m)
	must(t, err)
	if string(data) != text("1") || e.ID != "1" || e.User != ann || e.Kind != "redirect" || e.From != "bob@far.test" || strings.Join(e.To, " ") != "eve@other.test" || e.At.IsZero() {
		t.Errorf("%+v, %q", e, data)
	}
}

// A second Put repairs what a crash has left under the names.
func TestPutMakesTornFilesAnew(t *testing.T) {
	f := newFS(t, 1)
	b := open(t, f)
	must(t, put(f, b, "1"))
	for _, name := range names(t, f) {
		must(t, vfs.ReplaceFile(f, dir+"/"+name, []byte{0, 0}, 0o600))
	}
	b = open(t, f)
	must(t, put(f, b, "1"))
	if got := deliverAll(t, b); got["1"] != 1 || b.Waiting() != 0 || len(names(t, f)) != 0 {
		t.Errorf("sent %v, %d wait, %v", got, b.Waiting(), names(t, f))
	}
}

// An entry that was set aside is not sent again, but its message is made whole.
func TestPutOfARefusedEntry(t *testing.T) {
	f := newFS(t, 1)
	b := open(t, f)
	must(t, put(f, b, "1"))
	must(t, b.setAside(key(ann, "1")))
	message := dir + "/" + key(ann, "1") + messageSuffix
	must(t, vfs.ReplaceFile(f, message, nil, 0o600))
	must(t, put(f, b, "1"))
	data, err := vfs.ReadFile(f, message)
	must(t, err)
	if string(data) != text("1") || b.Waiting() != 0 || b.Refused() != 1 || len(names(t, f)) != 2 {
		t.Errorf("%d wait, %d are refused, %v", b.Waiting(), b.Refused(), names(t, f))
	}
}

func TestOpenRemovesOrphans(t *testing.T) {
	f := newFS(t, 1)
	b := open(t, f)
	must(t, put(f, b, "1"))
	must(t, put(f, b, "2"))
	must(t, b.setAside(key(ann, "2")))
	for _, name := range []string{"x" + messageSuffix, vfs.TempPrefix + "1", "notes"} {
		must(t, vfs.ReplaceFile(f, dir+"/"+name, nil, 0o600))
	}
	b = open(t, f)
	left := names(t, f)
	if len(left) != 5 || !slices.Contains(left, "notes") || b.Waiting() != 1 || b.Refused() != 1 {
		t.Errorf("%v", left)
	}
	if _, err := Open(f, "/nowhere"); err == nil {
		t.Error("a folder that is not there was opened")
	}
}

// deliverAll runs rounds in which everything is taken, and counts what was sent.
func deliverAll(t *testing.T, b *Box) map[string]int {
	t.Helper()
	m := mx{t: t, sent: map[string]int{}}
	s := m.sender(b)
	s.round(t.Context(), true)
	return m.sent
}

// mx takes what it is told to.
type mx struct {
	t      *testing.T
	sent   map[string]int
	refuse map[string]error
	log    bytes.Buffer
}

// life puts and sends with a checkpoint in between, until something fails. It
// gives the ids that the checkpoint has made durable, and those of the deliveries
// that the journal has.
func life(f *crashfs.FS, m *mx) (durable, journal []string) {
	b, err := Open(f, dir)
	if err != nil {
		return nil, nil
	}
	s := m.sender(b)
	puts := func(ids ...string) error {
		for _, id := range ids {
			journal = append(journal, id)
			if err := put(f, b, id); err != nil {
				return err
			}
		}
		return nil
	}
	if puts("1", "2", "3") != nil || f.SyncAll(dir) != nil {
		return nil, journal
	}
	durable, journal = journal, nil
	m.refuse = map[string]error{"2": errors.New("later"), "4": fmt.Errorf("%w: no", ErrRefused)}
	s.round(m.t.Context(), true)
	if puts("4", "5") == nil {
		s.round(m.t.Context(), true)
		_ = puts("5", "6") // the power may be cut
	}
	return durable, journal
}

// TestPowerCut cuts the power before each operation that changes something. What
// the journal has is put again; then every message has been sent, whole.
func TestPowerCut(t *testing.T) {
	for cut := 1; ; cut++ {
		came := false
		for luck := range uint64(8) {
			f := newFS(t, luck)
			m := mx{t: t, sent: map[string]int{}}
			var after *crashfs.FS
			n := 0
			f.Fail(func(op crashfs.Op) error {
				if op.Changes() {
					if n++; n == cut {
						after = f.Crash(rand.New(rand.NewPCG(uint64(cut), luck)))
					}
				}
				return nil
			})
			durable, journal := life(f, &m)
			if came = after != nil; !came {
				break
			}
			b := open(t, after)
			for _, id := range journal {
				must(t, put(after, b, id))
			}
			m.refuse = nil
			m.sender(b).round(t.Context(), true)
			for _, id := range append(durable, journal...) {
				if id == "4" {
					checkRefused(t, after, &m)
				} else if m.sent[id] == 0 {
					t.Fatalf("cut at %d, luck %d: %s was not sent; durable %v, journal %v, left %v\n%s", cut, luck, id, durable, journal, names(t, after), &m.log)
				}
			}
		}
		if !came {
			return
		}
	}
}

// checkRefused: 4 was sent after all, or lies there whole for the operator.
func checkRefused(t *testing.T, f vfs.FS, m *mx) {
	t.Helper()
	if m.sent["4"] > 0 {
		return
	}
	data, err := vfs.ReadFile(f, dir+"/"+key(ann, "4")+messageSuffix)
	if err != nil || string(data) != text("4") {
		t.Fatalf("4 is lost: %q, %v", data, err)
	}
}

// TestFaultAtEachOperation has each operation fail once: the failed Put is tried
// again, and in the end everything was sent.
func TestFaultAtEachOperation(t *testing.T) {
	for at := 1; ; at++ {
		f := newFS(t, uint64(at))
		m := mx{t: t, sent: map[string]int{}, refuse: map[string]error{"3": ErrRefused}}
		n, came := 0, false
		f.Fail(func(crashfs.Op) error {
			if n++; n == at {
				came = true
				return syscall.EIO
			}
			return nil
		})
		b, err := Open(f, dir)
		if err != nil {
			b, err = Open(f, dir)
		}
		must(t, err)
		for _, id := range []string{"1", "2", "3"} {
			if put(f, b, id) != nil {
				must(t, put(f, b, id))
			}
		}
		s := m.sender(b)
		s.round(t.Context(), true)
		s.round(t.Context(), true)
		if m.sent["1"] == 0 || m.sent["2"] == 0 || b.Waiting() != 0 || b.Refused() != 1 {
			t.Fatalf("fault at %d: sent %v, %d wait, %d are refused, %v\n%s", at, m.sent, b.Waiting(), b.Refused(), names(t, f), &m.log)
		}
		if !came {
			return
		}
	}
}
