package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"waypost/backend/imap/syntax"
	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
	"waypost/internal/testmail"
	"waypost/internal/vfs"
)

const benchMessages = 100_000

// folder is a Source of many messages, from an index.
type folder struct {
	x     *index.Index
	bases []string
	mails []testmail.Message
	room  index.Room
}

func (f *folder) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	m, ok := f.x.Get(f.bases[uid-1])
	if !ok {
		return nil, errors.New("not in the index")
	}
	return m, nil
}

func (f *folder) Wire(uid mailbox.UID) (mime.Wire, bool, error) {
	w, ok := f.x.Wire(f.bases[uid-1], &f.room)
	return w, ok, nil
}

func (f *folder) HeaderFields(uid mailbox.UID, names index.Names) (string, bool, error) {
	header, ok := f.x.HeaderFields(f.bases[uid-1], names)
	return header, ok, nil
}

func (f *folder) Open(uid mailbox.UID) (mailbox.Body, error) {
	return &memoryBody{bytes.NewReader(f.mails[int(uid-1)%len(f.mails)].Body), &one{}}, nil
}
func (f *folder) InternalDate(mailbox.UID) (time.Time, error) { return arrived, nil }
func (f *folder) SaveDate(mailbox.UID) (time.Time, error)     { return saved, nil }
func (f *folder) EmailID(mailbox.UID) (string, error)         { return "M1", nil }

// metaOnly hides Wire.
type metaOnly struct{ Source }

func newFolder(b *testing.B) *folder {
	b.Helper()
	mails, _, err := testmail.Load(b.TempDir(), 2000)
	if err != nil {
		b.Fatal(err)
	}
	f := &folder{x: index.Open(vfs.OS, b.TempDir(), "id"), mails: mails}
	metas := make([]*mailbox.Meta, len(mails))
	for i, m := range mails {
		if metas[i], err = index.Read(bytes.NewReader(m.Body), arrived); err != nil {
			b.Fatal(err)
		}
	}
	for i := range benchMessages {
		f.bases = append(f.bases, fmt.Sprintf("17%08d.M%dP1.host,S=100,W=120", i, i))
		if err := f.x.Put(f.bases[i], metas[i%len(metas)]); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() { _ = f.x.Close() })
	return f
}

// BenchmarkItems is the cost of one message's answer, over a folder of 100,000.
func BenchmarkItems(b *testing.B) {
	f := newFolder(b)
	for _, c := range []struct {
		list string
		src  Source
	}{
		{"FLAGS", f}, {"FAST", f}, {"ENVELOPE", f}, {"BODYSTRUCTURE", f}, {"BODY", f},
		{"(ENVELOPE PREVIEW)", f}, {"BODY.PEEK[HEADER.FIELDS (From Subject Date)]", f}, {"BODY.PEEK[]", f}, {"BODY.PEEK[1]", f},
		{"BINARY.PEEK[1]", f}, {"ENVELOPE", metaOnly{f}},
	} {
		name := c.list
		if _, ok := c.src.(WireSource); !ok {
			name += " from Meta"
		}
		b.Run(name, func(b *testing.B) {
			r := request(b, c.list, Options{Buffers: NewBuffers()})
			e := syntax.NewEncoder(io.Discard, syntax.Buffers())
			b.ReportAllocs()
			began := cpuTime(b)
			uid := mailbox.UID(0)
			for b.Loop() {
				uid = uid%benchMessages + 1
				err := r.Write(e, c.src, Message{Seq: uint32(uid), UID: uid, Flags: []string{`\Seen`}, Size: 5000})
				if err != nil && !errors.Is(err, ErrUnknownEncoding) {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what the process has used: figures of a busy machine say little else.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
