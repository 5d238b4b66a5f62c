package manifest

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"waypost/backend/control"
	"waypost/internal/durable"
	"waypost/internal/vfs"
)

// ledger is what a Tracker knows, on the disk: frames of changed entries, appended.
// A frame that a crash has torn ends it. What it has is a hint: a digest counts for a file
// with the same stamp only. But one whose last frame says "frozen", with the digest of the
// whole, is the manifest of a frozen tree.
type ledger struct {
	path    string
	file    vfs.File // nil until something is written
	fresh   bool     // it is being written anew, under another name
	loose   int      // bytes that were written since it was synced
	records int
}

// A frame is its payload's length and CRC-32C, 4 bytes each, and the payload: a kind
// and what belongs to it.
const (
	ledgerMagic = "waypost manifest 2\n"
	frameHead   = 8
	maxFrame    = 64 << 20
	// frameSoft is where a frame is ended when there is more.
	frameSoft = 1 << 20

	kindEntries = 1
	kindFrozen  = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Keep has the Tracker keep what it knows in the file at path, beside the tree, and
// takes from there what an earlier one knew. It is called before anything else; Close
// must follow.
func (t *Tracker) Keep(path string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := readLedger(path, func(kind byte, r *reader) error {
		if kind == kindEntries {
			r.records(func(e Entry, at Stamp) {
				if e.Digest.Known() {
					t.known[keyOf(e.Path, at)] = e.Digest
				}
			})
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errMalformed) {
		return fmt.Errorf("what is known of %s: %w", t.root, err)
	}
	t.keep = &ledger{path: path}
	return nil
}

// Close closes the file of Keep.
func (t *Tracker) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.keep
	if t.keep = nil; k == nil || k.file == nil {
		return nil
	}
	return k.file.Close()
}

// Save writes down what has changed since the last time; a crash of the machine may
// lose some of it.
func (t *Tracker) Save() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.save()
}

func (t *Tracker) save() error {
	if t.keep == nil || len(t.unsaved) == 0 {
		return nil
	}
	k := t.keep
	if k.file == nil || k.records > 4*t.index.entries+10_000 {
		if err := k.begin(); err != nil {
			return err
		}
		clear(t.unsaved)
		t.index.each(func(_ int, b *bucket) {
			for _, f := range b.all {
				t.unsaved[f.Path] = struct{}{}
			}
		})
	}
	frame := []byte{kindEntries}
	flush := func() error {
		err := k.write(frame)
		frame = frame[:1]
		return err
	}
	for path := range t.unsaved {
		frame = t.appendRecord(frame, path)
		k.records++
		if len(frame) > frameSoft {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	clear(t.unsaved)
	if len(frame) > 1 {
		if err := flush(); err != nil {
			return err
		}
	}
	return k.begun()
}

// appendRecord writes an entry as it is now, or that it is gone.
func (t *Tracker) appendRecord(b []byte, path control.TreePath) []byte {
	dir, base := t.find(path)
	if dir != nil {
		var f *file
		if sub := dir.subs[base]; sub != nil && sub.self.Path == path {
			f = sub.self
		} else {
			f = dir.files[base]
		}
		if f != nil && f.Path == path {
			b = appendEntry(append(b, 1), f.Entry)
			b = binary.AppendUvarint(b, f.at.Ino)
			return binary.AppendVarint(b, f.at.MTime)
		}
	}
	return appendText(append(b, 0), string(path))
}

// records takes the payload of a frame of entries apart; one that is gone has no digest.
func (r *reader) records(each func(e Entry, at Stamp)) {
	for len(r.b) > 0 && !r.bad {
		if r.byte() == 0 {
			each(Entry{Path: control.TreePath(r.text()), Size: -1}, Stamp{})
			continue
		}
		e := r.entry()
		at := Stamp{Ino: r.unsigned(), MTime: r.number(), Size: e.Size}
		if !r.bad {
			each(e, at)
		}
	}
}

// begin starts the file anew, under a name that it has until all is in it.
func (k *ledger) begin() error {
	if k.file != nil {
		_ = k.file.Close() // it is replaced
		k.file = nil
	}
	if err := durable.MkdirAll(filepath.Dir(k.path), 0o700); err != nil {
		return err
	}
	f, err := vfs.OS.OpenFile(k.path+newSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	k.file, k.fresh, k.records = f, true, 0
	_, err = f.Write([]byte(ledgerMagic))
	return k.failed(err)
}

const newSuffix = ".new"

// begun gives it its name. A frozen manifest may be another name of the old one.
func (k *ledger) begun() error {
	if !k.fresh {
		return nil
	}
	k.fresh = false
	return k.failed(os.Rename(k.path+newSuffix, k.path))
}

func (k *ledger) write(payload []byte) error {
	head := binary.BigEndian.AppendUint32(make([]byte, 0, frameHead+len(payload)), uint32(len(payload)))
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(payload, castagnoli))
	n, err := k.file.Write(append(head, payload...))
	k.loose += n
	return k.failed(err)
}

// sync makes durable what was written.
func (k *ledger) sync() error {
	k.loose = 0
	return k.failed(k.file.Datasync())
}

// SyncKept makes durable what is kept, if it is much: then Freeze need not wait for it.
func (t *Tracker) SyncKept() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.keep; k != nil && k.file != nil && k.loose > 64<<10 {
		return k.sync()
	}
	return nil
}

// failed begins anew the next time where something may be half written.
func (k *ledger) failed(err error) error {
	if err != nil && k.file != nil {
		_ = k.file.Close() // the first error counts
		k.file = nil
	}
	return err
}

// Freeze makes the manifest durable as that of a frozen tree, in a file at path. It is
// as of the last Update, which must have been of HashAll.
func (t *Tracker) Freeze(path string) (control.ManifestSummary, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := t.index.summary()
	if t.keep == nil || len(t.index.blank) > 0 {
		return sum, fmt.Errorf("manifest of %s: not known to the end", t.root)
	}
	if t.keep.file == nil {
		t.unsaved[""] = struct{}{} // all is written, also where nothing has changed
	}
	text, err := json.Marshal(sum)
	if err == nil {
		err = t.save()
	}
	if err == nil {
		err = t.keep.write(append([]byte{kindFrozen}, text...))
	}
	if err == nil {
		err = t.keep.sync()
	}
	if err == nil {
		err = t.keep.name(path)
	}
	if err != nil {
		return sum, fmt.Errorf("manifest of %s: %w", t.root, err)
	}
	return sum, nil
}

// name gives the file a second name.
func (k *ledger) name(path string) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(k.path, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// ReadFrozen reads what Freeze wrote. Backends of before wrote JSON.
func ReadFrozen(path string) (control.Manifest, error) {
	all := make(map[control.TreePath]Entry)
	var sum control.ManifestSummary
	frozen := false
	err := readLedger(path, func(kind byte, r *reader) error {
		if kind == kindFrozen {
			// What follows can only be the same once more: files that are read again
			// for their times' sake.
			frozen = true
			return json.Unmarshal(r.b, &sum)
		}
		r.records(func(e Entry, _ Stamp) {
			if delete(all, e.Path); e.Size >= 0 {
				all[e.Path] = e
			}
		})
		return nil
	})
	if errors.Is(err, errNoLedger) {
		return readJSON(path)
	}
	if err != nil {
		return control.Manifest{}, err
	}
	m := control.Manifest{Entries: make([]control.ManifestEntry, 0, len(all))}
	for _, e := range all {
		m.Entries = append(m.Entries, e.control())
	}
	sortEntries(m.Entries)
	if !frozen || Summary(m) != sum {
		return control.Manifest{}, fmt.Errorf("%s: %w: not the whole manifest of a frozen tree", path, errMalformed)
	}
	return m, nil
}

func readJSON(path string) (control.Manifest, error) {
	var m control.Manifest
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

// errNoLedger: the file is of another kind.
var errNoLedger = fmt.Errorf("%w: no manifest of ours", errMalformed)

// readLedger visits the frames that are whole.
func readLedger(path string, visit func(kind byte, r *reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	magic := make([]byte, len(ledgerMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != ledgerMagic {
		return fmt.Errorf("%s: %w", path, errNoLedger)
	}
	for {
		payload, ok, err := readFrame(r)
		if err != nil || !ok {
			return err
		}
		body := &reader{b: payload[1:]}
		if err := visit(payload[0], body); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if body.bad {
			return fmt.Errorf("%s: %w", path, errMalformed)
		}
	}
}

// readFrame reads one; ok is false at the end, and at one that is torn.
func readFrame(r io.Reader) (payload []byte, ok bool, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, false, ended(err)
	}
	n := binary.BigEndian.Uint32(head[:4])
	if n == 0 || n > maxFrame {
		return nil, false, nil
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, false, ended(err)
	}
	return payload, crc32.Checksum(payload, castagnoli) == binary.BigEndian.Uint32(head[4:]), nil
}

func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
