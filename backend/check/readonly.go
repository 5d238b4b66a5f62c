package check

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"waypost/internal/vfs"
)

// errReadOnly is what a package is told that would mend what it reads.
var errReadOnly = errors.New("would be mended")

// readOnly is a file system that refuses each change with errReadOnly, so that the
// packages that own a file can be asked to read it: what they refuse to go on with
// is what is to be mended.
type readOnly struct{ vfs.FS }

const writing = os.O_CREATE | os.O_EXCL | os.O_TRUNC | os.O_APPEND

// OpenFile opens for reading whatever is asked for.
func (r readOnly) OpenFile(name string, flag int, _ fs.FileMode) (vfs.File, error) {
	if flag&writing != 0 {
		return nil, errReadOnly
	}
	f, err := r.FS.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return readOnlyFile{f}, nil
}

func (readOnly) Nameless(string) (vfs.File, error)  { return nil, errReadOnly }
func (readOnly) Link(string, string) error          { return errReadOnly }
func (readOnly) Rename(string, string) error        { return errReadOnly }
func (readOnly) Remove(string) error                { return errReadOnly }
func (readOnly) RemoveAll(string) error             { return errReadOnly }
func (readOnly) Mkdir(string, fs.FileMode) error    { return errReadOnly }
func (readOnly) SetModTime(string, time.Time) error { return errReadOnly }
func (readOnly) SyncDir(string) error               { return errReadOnly }
func (readOnly) SyncAll(string) error               { return errReadOnly }

type readOnlyFile struct{ vfs.File }

func (readOnlyFile) Write([]byte) (int, error)          { return 0, errReadOnly }
func (readOnlyFile) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (readOnlyFile) Truncate(int64) error               { return errReadOnly }
func (readOnlyFile) Sync() error                        { return errReadOnly }
func (readOnlyFile) Datasync() error                    { return errReadOnly }
func (readOnlyFile) SyncAll() error                     { return errReadOnly }
func (readOnlyFile) SetModTime(time.Time) error         { return errReadOnly }
func (readOnlyFile) Chmod(fs.FileMode) error            { return errReadOnly }
func (readOnlyFile) LinkTo(string) error                { return errReadOnly }
