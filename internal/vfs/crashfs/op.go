package crashfs

// Kind is what an operation does; as a string it is the Op of its errors.
type Kind string

// The kinds of operations, in the order of the methods of vfs.FS and vfs.File.
const (
	Open        Kind = "open"
	Nameless    Kind = "nameless"
	Link        Kind = "link"
	Rename      Kind = "rename"
	Remove      Kind = "remove"
	Mkdir       Kind = "mkdir"
	Lstat       Kind = "lstat"
	ReadDir     Kind = "readdir"
	SetModTime  Kind = "utimensat"
	SyncDir     Kind = "syncdir"
	SyncAll     Kind = "syncfs"
	Read        Kind = "read"
	Write       Kind = "write"
	Seek        Kind = "seek"
	Close       Kind = "close"
	Stat        Kind = "stat"
	Truncate    Kind = "truncate"
	Sync        Kind = "sync"
	Datasync    Kind = "fdatasync"
	FileSyncAll Kind = "syncfs of an open file"
	DropCache   Kind = "fadvise"
	Chmod       Kind = "chmod"
	LinkTo      Kind = "linkto"
	Lock        Kind = "flock"
	Unlock      Kind = "unlock"
)

// Op is one operation. Name is the path it is about, of Link, Rename and LinkTo the
// new one; for a method of an open file it is the file's Name. RemoveAll is one
// Remove for each name below.
type Op struct {
	Kind Kind
	Name string
}

// Changes tells whether the operation can change what a crash leaves. To cut the
// power before any other finds the same disk as before the next that does.
func (o Op) Changes() bool {
	switch o.Kind {
	case Lstat, ReadDir, Read, Seek, Close, Stat, Lock, Unlock, DropCache:
		return false
	}
	return true
}
