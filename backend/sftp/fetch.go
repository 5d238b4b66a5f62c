package sftp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"waypost/backend/manifest"
)

// job is chunks of a bundle, or one long file.
type job struct {
	chunks [][]manifest.Entry
	long   manifest.Entry
}

const (
	chunksEach = 4
	// filesEach bounds the names of one chunk: chunksEach × filesEach × 4 KiB are within
	// what a question may have.
	filesEach = 120
)

// bundles makes work of a list of files.
func bundles(files []manifest.Entry, v int) (jobs []job) {
	var chunk []manifest.Entry
	var open job
	room := packet
	endChunk := func() {
		if len(chunk) > 0 {
			open.chunks = append(open.chunks, chunk)
		}
		chunk, room = nil, packet
	}
	for _, e := range files {
		if v < version || e.Size >= packet {
			jobs = append(jobs, job{long: e})
			continue
		}
		if int(e.Size) >= room || len(chunk) == filesEach {
			endChunk()
		}
		if len(open.chunks) == chunksEach {
			jobs, open = append(jobs, open), job{}
		}
		chunk = append(chunk, e)
		room -= int(e.Size) + 1
	}
	if endChunk(); len(open.chunks) > 0 {
		jobs = append(jobs, open)
	}
	return jobs
}

func (p *Pull) fetch(ctx context.Context, c *Conn, j job) error {
	if j.chunks == nil {
		err := p.fetchLong(ctx, c, j.long)
		if err != nil {
			return p.missing(j.long, err)
		}
		p.progress.add(1, 0)
		return nil
	}
	var question []byte
	lists := make([][]wanted, len(j.chunks))
	for i, chunk := range j.chunks {
		for _, e := range chunk {
			lists[i] = append(lists[i], wanted{e.Path, e.Size})
		}
		question = appendChunk(question, lists[i])
	}
	f, done, err := ask(c, bundleName, question)
	if err != nil {
		return err
	}
	defer done()
	g, ctx := errgroup.WithContext(ctx)
	for i, chunk := range j.chunks {
		g.Go(func() error {
			whole := p.buffer()
			defer p.buffers.Put(whole)
			b := whole[:chunkSize(lists[i])]
			if _, err := f.ReadAt(b, int64(i)<<chunkShift); err != nil {
				return fmt.Errorf("fetch %d files: %w", len(chunk), err)
			}
			return p.unpack(ctx, chunk, b)
		})
	}
	return g.Wait()
}

// buffer gives one for a chunk, that goes back to p.buffers.
func (p *Pull) buffer() *[packet]byte {
	if b, ok := p.buffers.Get().(*[packet]byte); ok {
		return b
	}
	return new([packet]byte)
}

// unpack writes the files of a chunk.
func (p *Pull) unpack(ctx context.Context, files []manifest.Entry, b []byte) error {
	status, contents := b[:len(files)], b[len(files):]
	var n, bytes int64
	for i, e := range files {
		data := contents[:e.Size]
		contents = contents[e.Size:]
		if err := ctx.Err(); err != nil {
			return err
		}
		digest := manifest.Digest(sha256.Sum256(data))
		if status[i] != fileRead || e.Digest.Known() && e.Digest != digest {
			if err := p.missing(e, errChanged); err != nil {
				return err
			}
			continue
		}
		e.Digest = digest
		if err := p.write(e, data); err != nil {
			return fmt.Errorf("staging: %w", err)
		}
		n, bytes = n+1, bytes+e.Size
	}
	p.progress.add(n, bytes)
	return nil
}

// write makes a short file. It is under its name at once, and unsynced: until the
// syncer has told the Tracker of it, nobody believes what is in it.
func (p *Pull) write(e manifest.Entry, data []byte) error {
	path := p.path(e.Path)
	const how = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_CLOEXEC
	fd, err := unix.Open(path, how, 0o600)
	if err == unix.EEXIST {
		if err := p.clear(e.Path); err != nil {
			return err
		}
		// What a pass that was broken off has left is not known.
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		fd, err = unix.Open(path, how, 0o600)
	}
	if err != nil {
		return &fs.PathError{Op: "create", Path: path, Err: err}
	}
	// No os.File: most of a move's time is the system's, and each call counts.
	at, err := fill(fd, path, e, data)
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return err
	}
	return p.synced.add(arrival{e, at, path})
}

func fill(fd int, path string, e manifest.Entry, data []byte) (manifest.Stamp, error) {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return manifest.Stamp{}, &fs.PathError{Op: "write", Path: path, Err: err}
		}
		data = data[n:]
	}
	return finish(fd, path, e)
}

// finish dates a file.
func finish(fd int, path string, e manifest.Entry) (manifest.Stamp, error) {
	if manifest.IsMessage(string(e.Path)) {
		if err := setTime(fd, e.MTime); err != nil {
			return manifest.Stamp{}, &fs.PathError{Op: "utimensat", Path: path, Err: err}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return manifest.Stamp{}, &fs.PathError{Op: "fstat", Path: path, Err: err}
	}
	return manifest.StampOf(&st), nil
}

// setTime is futimens(3), which package unix does not have: utimensat(2) without a path
// means the descriptor.
func setTime(fd int, seconds int64) error {
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: seconds}}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func stampOf(path string) (manifest.Stamp, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return manifest.Stamp{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return manifest.StampOf(&st), nil
}

// half is where a long file grows, named by all that is known of it: what grew there
// before is a part of the same file.
func (p *Pull) half(e manifest.Entry) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d\x00%s", manifest.Unique(e.Path), e.Size, e.MTime, e.Digest))
	return filepath.Join(p.Halves, hex.EncodeToString(sum[:16]))
}

// fetchLong fetches a file by itself, and goes on where an earlier pass ended.
func (p *Pull) fetchLong(ctx context.Context, c *Conn, e manifest.Entry) error {
	src, err := c.Open("/" + string(e.Path))
	if err != nil {
		return err
	}
	defer src.Close() // it was only read
	if st, err := src.Stat(); err != nil || st.Size() != e.Size {
		return errors.Join(err, errChanged)
	}
	if err := os.MkdirAll(p.Halves, 0o700); err != nil {
		return err
	}
	dst, err := os.OpenFile(p.half(e), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	digest, err := p.grow(ctx, dst, src, e)
	var at manifest.Stamp
	if err = errors.Join(err, dst.Close()); err != nil {
		return err
	}
	e.Digest = digest
	path := p.path(e.Path)
	if err := p.clear(e.Path); err != nil {
		return err
	}
	// The digest is known now, and is in a half's name.
	if err := os.Rename(dst.Name(), path); err != nil {
		return err
	}
	if at, err = stampOf(path); err != nil {
		return err
	}
	return p.synced.add(arrival{e, at, path})
}

// grow completes a file. One that turns out to be another is removed.
func (p *Pull) grow(ctx context.Context, dst *os.File, src *sftp.File, e manifest.Entry) (manifest.Digest, error) {
	h := sha256.New()
	have, err := io.Copy(h, dst)
	if err != nil {
		return manifest.Digest{}, err
	}
	if have < e.Size {
		if _, err := src.Seek(have, io.SeekStart); err != nil {
			return manifest.Digest{}, err
		}
		n, err := src.WriteTo(p.counted(ctx, dst, h))
		if err != nil {
			return manifest.Digest{}, err // what has come stays
		}
		have += n
	}
	digest := manifest.Digest(h.Sum(nil))
	if have != e.Size || e.Digest.Known() && e.Digest != digest {
		return manifest.Digest{}, errors.Join(errChanged, os.Remove(dst.Name()))
	}
	_, err = finish(int(dst.Fd()), dst.Name(), e)
	return digest, err
}

// counted writes to the file and the digest, and ends with the pass.
func (p *Pull) counted(ctx context.Context, dst io.Writer, h hash.Hash) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		n, err := dst.Write(b)
		h.Write(b[:n])
		p.progress.add(0, int64(n))
		return n, errors.Join(err, ctx.Err())
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
