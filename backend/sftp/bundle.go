package sftp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"waypost/backend/control"
	"waypost/backend/manifest"
)

// Two names that no tree has stand for what is asked and answered through one open
// file: the question is written, then the answer read.
const (
	// deltaName: a manifest.Query, answered by the length, 8 bytes, and a
	// manifest.Delta.
	deltaName = "/..waypost-delta"
	// bundleName: a list of files in chunks. Chunk i is at i<<chunkShift: a byte for each
	// file that tells whether it could be read, and their contents one after the other, in
	// the sizes asked for.
	bundleName = "/..waypost-bundle"
)

const (
	chunkShift = 20
	// packet is the most that one read brings; the library allows 256 KiB with its
	// headers. A chunk is one read.
	packet = 250 << 10
	// maxQuestion bounds what is asked, in bytes.
	maxQuestion = 2 << 20
	maxChunks   = 64
)

// How a file of a chunk could be read.
const (
	fileRead  = 0
	fileOther = 1 // it is not there, or has another size
)

// exchange is an open file of those names.
type exchange struct {
	answer func(question []byte) (io.ReaderAt, error)

	mu       sync.Mutex
	question []byte
	asked    bool
	reply    io.ReaderAt
	err      error
}

var errQuestion = errors.New("malformed question")

// WriteAt takes a part of the question.
func (x *exchange) WriteAt(p []byte, off int64) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.asked || off < 0 || off+int64(len(p)) > maxQuestion {
		return 0, errQuestion
	}
	if end := int(off) + len(p); end > len(x.question) {
		x.question = append(x.question, make([]byte, end-len(x.question))...)
	}
	return copy(x.question[off:], p), nil
}

// ReadAt gives a part of the answer. Who comes first makes it.
func (x *exchange) ReadAt(p []byte, off int64) (int, error) {
	x.mu.Lock()
	if !x.asked {
		x.asked = true
		x.reply, x.err = x.answer(x.question)
		x.question = nil
	}
	reply, err := x.reply, x.err
	x.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return reply.ReadAt(p, off)
}

// OpenFile opens one of those names.
func (t *tree) exchange(name string) (*exchange, error) {
	switch name {
	case deltaName:
		return &exchange{answer: t.delta}, nil
	case bundleName:
		return &exchange{answer: t.bundle}, nil
	}
	return nil, fs.ErrPermission
}

func (t *tree) delta(question []byte) (io.ReaderAt, error) {
	q, err := manifest.ParseQuery(question)
	if err != nil {
		return nil, err
	}
	d, err := t.Delta(t.ctx, q)
	if err != nil {
		return nil, err
	}
	b := d.Append(make([]byte, 8, 4096))
	binary.BigEndian.PutUint64(b, uint64(len(b)-8))
	return bytes.NewReader(b), nil
}

// wanted is a file of a bundle.
type wanted struct {
	path control.TreePath
	size int64
}

// appendChunk writes a chunk of a list: name, NUL, size, NUL of each, and a NUL.
func appendChunk(b []byte, files []wanted) []byte {
	for _, f := range files {
		b = append(append(b, f.path...), 0)
		b = append(strconv.AppendInt(b, f.size, 10), 0)
	}
	return append(b, 0)
}

// parseList reads a list of chunks.
func parseList(b []byte) (chunks [][]wanted, err error) {
	var chunk []wanted
	room := int64(packet)
	for len(b) > 0 {
		name, rest, ok := bytes.Cut(b, []byte{0})
		if !ok || len(chunks) == maxChunks {
			return nil, errQuestion
		}
		if b = rest; len(name) == 0 {
			chunks, chunk, room = append(chunks, chunk), nil, packet
			continue
		}
		digits, rest, ok := bytes.Cut(b, []byte{0})
		size, err := strconv.ParseInt(string(digits), 10, 64)
		if !ok || err != nil || size < 0 || size >= room {
			return nil, errQuestion
		}
		b, room = rest, room-size-1
		chunk = append(chunk, wanted{control.TreePath(name), size})
	}
	if len(chunk) > 0 {
		return nil, errQuestion
	}
	return chunks, nil
}

// chunkSize is how many bytes a chunk has.
func chunkSize(files []wanted) int {
	n := len(files)
	for _, f := range files {
		n += int(f.size)
	}
	return n
}

func (t *tree) bundle(question []byte) (io.ReaderAt, error) {
	chunks, err := parseList(question)
	return &bundle{t, chunks}, err
}

// bundle gives contents of many files.
type bundle struct {
	t      *tree
	chunks [][]wanted
}

// ReadAt reads a whole chunk.
func (b *bundle) ReadAt(p []byte, off int64) (int, error) {
	n := off >> chunkShift
	if off != n<<chunkShift || n < 0 || n >= int64(len(b.chunks)) || len(p) != chunkSize(b.chunks[n]) {
		return 0, errQuestion
	}
	files := b.chunks[n]
	status, contents := p[:len(files)], p[len(files):]
	var dir *os.File
	var dirName string
	defer func() {
		if dir != nil {
			dir.Close() // only names were looked up in it
		}
	}()
	for i, f := range files {
		into := contents[:f.size]
		contents = contents[f.size:]
		name := rel(string(f.path))
		if dir == nil || path.Dir(name) != dirName {
			if dir != nil {
				dir.Close() // as above
			}
			var err error
			dirName = path.Dir(name)
			if dir, err = b.t.root.Open(dirName); err != nil {
				dir = nil
				if status[i], err = b.other(into, err); err != nil {
					return 0, err
				}
				continue
			}
		}
		err := b.t.readWhole(dir, f.path, path.Base(name), into)
		if status[i], err = b.other(into, err); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// other tells how a file could be read; an error that says nothing about the
// file itself is the bundle's.
func (b *bundle) other(into []byte, err error) (byte, error) {
	switch {
	case err == nil:
		return fileRead, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, errChanged):
		clear(into)
		return fileOther, nil
	}
	return fileOther, err
}

// readWhole reads a file that is to have exactly that size, and learns its digest.
func (t *tree) readWhole(dir *os.File, name control.TreePath, base string, into []byte) error {
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: string(name), Err: err}
	}
	defer unix.Close(fd) // it was only read
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "fstat", Path: string(name), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != int64(len(into)) {
		return errChanged
	}
	for at := 0; at < len(into); {
		n, err := unix.Pread(fd, into[at:], int64(at))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return &fs.PathError{Op: "read", Path: string(name), Err: err}
		case n == 0:
			return errChanged
		}
		at += n
	}
	t.Learn(name, manifest.StampOf(&st), sha256.Sum256(into))
	return nil
}

// ask sends a question and gives the open file with the answer.
func ask(c *Conn, name string, question []byte) (io.ReaderAt, func(), error) {
	f, err := c.OpenFile(name, os.O_RDWR)
	if err != nil {
		return nil, nil, err
	}
	done := func() { f.Close() } // it has said all
	if _, err := f.WriteAt(question, 0); err != nil {
		done()
		return nil, nil, err
	}
	return f, done, nil
}

// maxDelta bounds an answer, in bytes.
const maxDelta = 512 << 20

// delta asks the source.
func (c *Conn) delta(ctx context.Context, q manifest.Query) (manifest.Delta, error) {
	f, done, err := ask(c, deltaName, q.Append(nil))
	if err != nil {
		return manifest.Delta{}, err
	}
	defer done()
	var head [8]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return manifest.Delta{}, fmt.Errorf("the source's manifest: %w", err)
	}
	n := binary.BigEndian.Uint64(head[:])
	if n > maxDelta {
		return manifest.Delta{}, fmt.Errorf("the source's manifest has %d bytes, more than %d", n, maxDelta)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, int64(len(head))); err != nil && !(errors.Is(err, io.EOF) && n == 0) {
		return manifest.Delta{}, fmt.Errorf("the source's manifest: %w", err)
	}
	d, err := manifest.ParseDelta(b)
	return d, errors.Join(err, ctx.Err())
}
