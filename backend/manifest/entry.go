package manifest

import (
	"encoding/hex"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"waypost/backend/control"
)

// Digest is a SHA-256; all zeros: not known yet.
type Digest [32]byte

// Known tells whether there is one.
func (d Digest) Known() bool { return d != Digest{} }

// String is how digests are written.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Entry is one file or folder of a manifest, as control.ManifestEntry has it.
type Entry struct {
	Path   control.TreePath
	Size   int64
	MTime  int64
	Digest Digest
	// Link is not 0 for a file with several names: equal for names of one file
	// within one Delta.
	Link uint64
}

// IsDir tells whether it is a folder.
func (e Entry) IsDir() bool { return strings.HasSuffix(string(e.Path), "/") }

// Same tells whether two entries say the same, but for digests that are not known.
func (e Entry) Same(o Entry) bool {
	return e.Path == o.Path && e.Size == o.Size && e.MTime == o.MTime && (e.Digest == o.Digest || !e.Digest.Known() || !o.Digest.Known())
}

func (e Entry) control() control.ManifestEntry {
	c := control.ManifestEntry{Path: e.Path, Size: e.Size, MTime: e.MTime}
	if e.Digest.Known() {
		c.Digest = e.Digest.String()
	}
	return c
}

// fromControl takes an entry over. A digest that is none is not known.
func fromControl(c control.ManifestEntry) Entry {
	e := Entry{Path: c.Path, Size: c.Size, MTime: c.MTime}
	if len(c.Digest) == 2*len(e.Digest) {
		if _, err := hex.Decode(e.Digest[:], []byte(c.Digest)); err != nil {
			e.Digest = Digest{}
		}
	}
	return e
}

// Entries are those of a manifest.
func Entries(m control.Manifest) []Entry {
	all := make([]Entry, len(m.Entries))
	for i, e := range m.Entries {
		all[i] = fromControl(e)
	}
	return all
}

// Stamp is what tells that a file is the one seen before.
type Stamp struct {
	Ino, Nlink uint64
	Size       int64
	MTime      int64 // nanoseconds
	CTime      int64
}

// same tells whether the contents are those seen before, of a file whose contents
// never change under its name (immutable) or of any other.
func (s Stamp) same(o Stamp, immutable bool) bool {
	return s.Ino == o.Ino && s.Size == o.Size && s.MTime == o.MTime && (immutable || s.CTime == o.CTime)
}

// StampOf makes one of what the kernel says.
func StampOf(st *unix.Stat_t) Stamp {
	return Stamp{Ino: st.Ino, Nlink: uint64(st.Nlink), Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}
}

// seconds are a modification time as entries count it.
func seconds(nanoseconds int64) int64 { return time.Unix(0, nanoseconds).Unix() }

// fileKey names a message's contents: a file that is renamed keeps it, and one
// that is replaced does not.
type fileKey struct {
	// unique is the file's name without flags: an inode that is used again must
	// not be taken for the message it held before.
	unique string
	ino    uint64
	size   int64
	mtime  int64
}

func keyOf(path control.TreePath, s Stamp) fileKey {
	return fileKey{Unique(path), s.Ino, s.Size, s.MTime}
}

// Unique is a message's name without folder and flags.
func Unique(path control.TreePath) string {
	unique, _, _ := strings.Cut(filepath.Base(string(path)), ":2,")
	return unique
}
