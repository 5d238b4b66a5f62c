package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"

	"waypost/backend/control"
	"waypost/backend/maildir/lineend"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

const (
	// pauseEvery is how many messages are looked at in one piece of work.
	pauseEvery = 256
	// zerosToDoubt is how many bytes of zero at the end of a message are more than
	// anybody sends: a file system leaves them after a crash.
	zerosToDoubt = 64
)

// Messages looks at the messages that r, of Names, has found, and adds to r.
func Messages(ctx context.Context, o Options, r *Report) error {
	done := 0
	for _, f := range r.folders {
		fields := f.fields()
		for _, base := range slices.Sorted(maps.Keys(f.files)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if done++; done%pauseEvery == 0 || o.Deep {
				o.pause(ctx)
			}
			err := o.message(f, base, fields[base], r)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was renamed, or is gone
			}
			if err != nil {
				return fmt.Errorf("check %s: folder %q: message %s: %w", o.Root, f.name, base, err)
			}
		}
	}
	return nil
}

// fields are the entries that tell sizes, by base.
func (f *folder) fields() map[string]uidlist.Entry {
	m := map[string]uidlist.Entry{}
	for _, e := range f.entries {
		if e.Fields != "" {
			m[e.Base] = e
		}
	}
	return m
}

func (o *Options) message(f *folder, base string, e uidlist.Entry, r *Report) error {
	path := f.path(f.files[base].ref)
	info, err := o.FS.Lstat(path)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		r.problem(f, control.KindEmpty, "restore it from a backup, or expunge it with a client", "the message %s has no bytes", base)
		return nil
	}
	size, wire := name.Sizes(base)
	wrong := size >= 0 && size != info.Size()
	if !wrong && !o.Deep {
		return nil
	}
	count, zeros, err := o.read(path)
	if err != nil {
		return err
	}
	if zeros >= zerosToDoubt {
		r.problem(f, control.KindZeros, "restore it from a backup, or expunge it with a client", "the message %s ends in %d bytes of zero", base, zeros)
	}
	wrong = size >= 0 && size != count.Size || wire >= 0 && wire != count.Wire
	switch {
	case !wrong:
	case told(e, 'S') == count.Size && told(e, 'W') == count.Wire:
		r.note(f, control.KindSize, "nothing: the uidlist has the right sizes", "the name %s is wrong about the size: it has %d bytes, %d with CRLF", base, count.Size, count.Wire)
	default:
		r.problem(f, control.KindSize, repairIt, "the name %s is wrong about the size: it has %d bytes, %d with CRLF", base, count.Size, count.Wire)
		r.sizes = append(r.sizes, sized{f.rel, base, count})
	}
	return nil
}

// told is what an entry says of a size, -1 if nothing.
func told(e uidlist.Entry, key byte) int64 {
	text, ok := e.Field(key)
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		return -1
	}
	return n
}

// read counts a message's bytes, and those of zero at its end.
func (o *Options) read(path string) (count lineend.Counter, zeros int64, err error) {
	f, err := o.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return count, 0, err
	}
	defer f.Close()
	tail := &zeroTail{}
	_, err = io.Copy(io.MultiWriter(&count, tail), struct{ io.Reader }{vfs.File(f)})
	return count, tail.n, err
}

// zeroTail counts zeros at the end of what is written.
type zeroTail struct{ n int64 }

// Write never fails.
func (z *zeroTail) Write(p []byte) (int, error) {
	i := len(p)
	for i > 0 && p[i-1] == 0 {
		i--
	}
	if i > 0 {
		z.n = 0
	}
	z.n += int64(len(p) - i)
	return len(p), nil
}
