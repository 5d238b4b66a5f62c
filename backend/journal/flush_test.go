package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"waypost/internal/vfs/crashfs"
)

// TestLostWritesThatOthersHeardOf: writes to an applied file were given up in a flush that
// is not the journal's, and another process was told. No checkpoint passes the record.
func TestLostWritesThatOthersHeardOf(t *testing.T) {
	lost := 0
	for seed := range uint64(20) {
		disk := newFS(t, seed)
		j := mustStart(t, options(disk))
		path := mailDir + "/m"
		ticket := mustAppend(t, j, "ann", []byte("mail"))
		if err := writeMail(disk, path, []byte("mail")); err != nil {
			t.Fatal(err)
		}
		ticket.Applied()
		until(t, "segments are ready", func() bool { return j.Stats().Ready == readyAhead })
		disk.Fail(func(op crashfs.Op) error {
			if op == (crashfs.Op{Kind: crashfs.Sync, Name: path}) {
				return unix.EIO
			}
			return nil
		})
		others, err := disk.OpenFile(path, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := others.Sync(); !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
		disk.Fail(nil)
		if err := errors.Join(others.Close(), disk.SyncAll("/")); err != nil {
			t.Fatal(err)
		}
		if err := j.Checkpoint(); !errors.Is(err, ErrFailed) || !errors.Is(err, unix.EIO) {
			t.Fatal("a checkpoint passes what was lost: ", err)
		}
		await(t, j.Failed(), "failed")
		after := crash(disk, j, seed)
		if hasMail(after, path, []byte("mail")) != nil {
			lost++
		}
		for _, next := range []*crashfs.FS{disk.Kill(), after} {
			again := mustOpen(t, options(next))
			wantDatas(t, replayAll(t, again), "mail")
			abandon(next, again)
		}
	}
	if lost == 0 {
		t.Error("no flush has given anything up")
	}
}

// TestFilesOpenOnce: the folder whose file system is flushed is opened by Open alone, before
// it reads a segment, and closed once, however the journal ends.
func TestFilesOpenOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		live func(t *testing.T, o Options)
	}{
		{"closed", func(t *testing.T, o Options) {
			j := mustStart(t, o)
			mustAppend(t, j, "ann", nil).Applied()
			if err := errors.Join(j.Checkpoint(), j.Close()); err != nil {
				t.Fatal(err)
			}
			if err := j.Close(); !errors.Is(err, ErrClosed) {
				t.Fatal(err)
			}
		}},
		{"never started", func(t *testing.T, o Options) {
			if err := mustOpen(t, o).Close(); err != nil {
				t.Fatal(err)
			}
		}},
		{"damaged", func(t *testing.T, o Options) {
			edit(t, o.FS, filepath.Join(o.Dir, "checkpoint"), func(b []byte) []byte { return b[:1] })
			if _, err := Open(o); !errors.Is(err, ErrForeign) {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := newFS(t, 1)
			o := options(disk)
			if err := mustStart(t, o).Close(); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			did := map[crashfs.Kind]int{}
			disk.Fail(func(op crashfs.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if op.Name == o.Sync && (op.Kind == crashfs.Open || op.Kind == crashfs.Close) {
					did[op.Kind]++
				}
				if did[crashfs.Open] == 0 && filepath.Ext(op.Name) == segmentSuffix {
					t.Error("read before: ", op)
				}
				return nil
			})
			c.live(t, o)
			if did[crashfs.Open] != 1 || did[crashfs.Close] != 1 {
				t.Error(did)
			}
		})
	}
}

func TestOpenWithoutFiles(t *testing.T) {
	disk := newFS(t, 1)
	o := options(disk)
	o.Sync = dataDir + "/none"
	var path *fs.PathError
	if _, err := Open(o); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &path) || path.Path != o.Sync {
		t.Fatal(err)
	}
}

// TestFlushOfUnapplied: Flush does not say that nothing of a user is needed while a change is
// not in the files, be it of a record that touches none. The others it makes durable.
func TestFlushOfUnapplied(t *testing.T) {
	disk := newFS(t, 1)
	j := mustStart(t, options(disk))
	path := mailDir + "/m"
	if err := writeMail(disk, path, []byte("mail")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, "", nil) // a body is nobody's
	j.Append("ann", 1, []string{mailDir, path}, []byte("mail")).Applied()
	for _, touched := range [][]string{{mailDir}, nil} {
		ticket := j.Append("ann", 1, touched, nil)
		mustAppend(t, j, "ann", nil).Applied()
		if err := j.Flush("ann"); !errors.Is(err, ErrUnapplied) || errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
		if err := j.Flush("bob"); err != nil {
			t.Fatal(err)
		}
		ticket.Applied()
		if err := j.Flush("ann"); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeMail(disk, path, []byte("other mail")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, "ann", nil)
	if err := j.Flush("ann"); !errors.Is(err, ErrUnapplied) {
		t.Fatal(err)
	}
	if err := hasMail(crash(disk, j, 1), path, []byte("other mail")); err != nil {
		t.Fatal(err)
	}
}
