package journal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"waypost/internal/vfs"
)

// masterName is the file that says where the checkpoint is. It is text, so that
// an operator can look, and replaced as a whole.
const masterName = "checkpoint"

// position is a place in the log and what is expected there.
type position struct {
	seq    uint64 // of the segment
	off    int64
	number uint64 // of the batch
	first  LSN    // of the batch
}

// master is the contents of the checkpoint file.
type master struct {
	id         journalID
	clean      bool // nothing is to be replayed, and no record followed
	checkpoint LSN  // the last record that need not be replayed
	from       position
	last       uint64 // number of the last batch known to be durable
}

func (m master) path(dir string) string { return filepath.Join(dir, masterName) }

const (
	masterTitle = "waypost-journal "
	masterForm  = masterTitle + "%d\nid %x\nclean %t\ncheckpoint %d\nsegment %d\noffset %d\nbatch %d\nrecord %d\nlast-batch %d\n"
	sumForm     = "sum %08x\n"
)

func (m master) encode() []byte {
	b := fmt.Appendf(nil, masterForm, version, m.id[:], m.clean, m.checkpoint,
		m.from.seq, m.from.off, m.from.number, m.from.first, m.last)
	return fmt.Appendf(b, sumForm, checksum(b))
}

func decodeMaster(b []byte) (master, error) {
	var m master
	var v int
	if !strings.HasPrefix(string(b), masterTitle) {
		return m, fmt.Errorf("%w: it does not begin as a checkpoint file does", ErrForeign)
	}
	if n, _ := fmt.Sscanf(string(b), masterTitle+"%d\n", &v); n == 1 && v != version {
		return m, fmt.Errorf("%w: version %d, this program knows %d", ErrVersion, v, version)
	}
	var id []byte
	_, err := fmt.Sscanf(string(b), masterForm, &v, &id, &m.clean, &m.checkpoint,
		&m.from.seq, &m.from.off, &m.from.number, &m.from.first, &m.last)
	copy(m.id[:], id)
	// Written again it must be the same, sum included: that leaves no other way
	// to say it, and checks everything at once.
	if err != nil || len(id) != len(m.id) || string(m.encode()) != string(b) {
		return m, fmt.Errorf("%w: the checkpoint file does not check out", ErrCorrupt)
	}
	if m.from.off < blockSize || m.from.off%blockSize != 0 || m.from.seq == 0 || m.from.number == 0 || m.from.first == 0 {
		return m, fmt.Errorf("%w: the checkpoint file names an impossible place", ErrCorrupt)
	}
	return m, nil
}

// readMaster gives nil if there is no checkpoint file.
func readMaster(fsys vfs.FS, dir string) (*master, error) {
	path := master{}.path(dir)
	b, err := vfs.ReadFile(fsys, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	m, err := decodeMaster(b)
	if err != nil {
		return nil, damaged(path, 0, err)
	}
	return &m, nil
}

func (m master) write(fsys vfs.FS, dir string) error {
	return vfs.ReplaceFile(fsys, m.path(dir), m.encode(), 0o600)
}

// ID names a journal for good, in hexadecimal digits: random, given when it is
// made. It is empty until the first Start.
func (j *Journal) ID() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.id == (journalID{}) {
		return ""
	}
	return hex.EncodeToString(j.id[:])
}

// damaged is what Open says of a place that does not check out.
func damaged(path string, off int64, why error) error {
	what := fmt.Errorf("journal %s, offset %d: %w", path, off, why)
	if errors.Is(why, ErrCorrupt) {
		return fmt.Errorf("%w; nothing was changed: keep a copy of the folder, then run `waypost repair --journal`, which replays what is legible and lists what is not", what)
	}
	return what
}
