// Package vfs is the file system as the store of a backend sees it: the few
// operations it needs, with what each of them makes durable said out loud. OS is
// the machine's own; package crashfs, beside it, is one that forgets in a simulated
// power cut all that was not flushed. Code that keeps mail takes an FS, so that its
// tests can pull the plug at any operation.
//
// # What survives a crash
//
// The contents of a file survive up to its last Sync or Datasync (or a SyncAll);
// what was written since may survive wholly, partly, or as zeros. A name (made,
// changed or removed) survives a SyncDir of its folder, or a SyncAll; without
// either it may or may not be there, each name for itself, but a Rename is never
// half done: the new name refers to the old file or to the new one.
//
// All methods are safe for concurrent use. Errors are *fs.PathError or
// *os.LinkError, so that errors.Is finds fs.ErrNotExist, fs.ErrExist and the
// unix.Errno underneath.
package vfs

import (
	"io"
	"io/fs"
	"time"
)

// TempPrefix begins the name of every temporary file this package makes: those of
// ReplaceFile and its like, and the fallback of Nameless. A crash may leave such a
// file behind; whoever owns the folder may remove it at start. The leading dot
// keeps globs away from it; the rest does not repeat the target's name, so that a
// name of full length still has a temporary one.
const TempPrefix = ".waypost-tmp-"

// FS is a file system. Names are absolute paths.
type FS interface {
	// OpenFile is os.OpenFile; folders can be opened for reading.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Nameless makes a file without a name in the file system of dir, mode 0600,
	// open for reading and writing. It is gone when it is closed, unless File.LinkTo
	// has named it. (O_TMPFILE; where the file system has none, a file with a
	// name that Close removes.)
	Nameless(dir string) (File, error)
	// Link gives a file a second name; fs.ErrExist if the name is taken.
	Link(from, to string) error
	// Rename replaces what to names, if it is a file or an empty folder.
	Rename(from, to string) error
	Remove(name string) error
	RemoveAll(name string) error
	Mkdir(name string, perm fs.FileMode) error
	Lstat(name string) (fs.FileInfo, error)
	// ReadDir visits the entries of a folder, in no order, until visit returns an
	// error, which it gives back. It holds a bounded part of them in memory.
	ReadDir(name string, visit func(fs.DirEntry) error) error
	// SetModTime sets the modification time of the file at name.
	SetModTime(name string, t time.Time) error
	// SyncDir makes the names in a folder durable.
	SyncDir(name string) error
	// SyncAll makes durable all there is in the file system that holds name
	// (syncfs). It can take seconds beside a bulk copy. It may miss that writes from
	// before were lost: the kernel tells that to whoever asks first, and of the others
	// only to those who had a file open already (File.SyncAll).
	SyncAll(name string) error
}

// File is an open file. FileInfo.Sys() of its Stat, and of Lstat, is a
// *syscall.Stat_t with at least Ino, Dev and Nlink.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Seeker
	io.Closer
	Name() string
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	// Sync makes contents and attributes durable, Datasync the contents and the
	// size. Neither makes the file's name durable. A failed one must not be tried
	// again: the kernel may have dropped what it could not write.
	Sync() error
	Datasync() error
	// SyncAll makes durable all there is in the file system that holds this open file
	// or folder, and fails if writes to any file of it were lost since this one was
	// opened, whoever else has been told (syncfs(2), Linux 5.8): once for each loss.
	SyncAll() error
	// DropCache has the file's next readers ask the disk, for all that is synced: of
	// what a failed sync gave up a kernel may show the new bytes from its memory, to
	// any process, until it needs that memory. (posix_fadvise: a request.)
	DropCache() error
	SetModTime(t time.Time) error
	// Chmod sets the permissions, exactly, whatever the umask.
	Chmod(perm fs.FileMode) error
	// LinkTo names a file of Nameless; fs.ErrExist if the name is taken. It may
	// be called again to give another name.
	LinkTo(name string) error
	// Lock takes an advisory lock on the open file (flock), waiting for it;
	// Unlock, or Close, gives it back. A process that dies gives it back.
	Lock(exclusive bool) error
	Unlock() error
}
