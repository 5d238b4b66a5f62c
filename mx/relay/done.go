package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"waypost/internal/durable"
)

// doneIDs remembers the ids of entries that have ended: files of one id per
// line, named by the second they were begun, the oldest of which go as wholes.
// A line is synced before the entry goes, so a crash leaves the entry or the
// line or both.
type doneIDs struct {
	dir  string
	keep time.Duration
	most int

	mu    sync.Mutex // protects what follows, and is held while a line is synced
	known map[idKey]bool
	parts []donePart // oldest first; the last is written to
	file  *os.File   // of the last part; nil: none is open
}

// idKey stands for an id: half a digest is enough to tell them apart.
type idKey [16]byte

func keyOf(id string) idKey {
	sum := sha256.Sum256([]byte(id))
	return idKey(sum[:16])
}

type donePart struct {
	begun int64 // Unix seconds; its name
	ids   []idKey
}

const (
	doneParts = 8
	maxDone   = 500_000
)

func openDone(dir string, keep time.Duration, most int) (*doneIDs, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &doneIDs{dir: dir, keep: keep, most: most, known: map[idKey]bool{}}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		begun, err := strconv.ParseInt(f.Name(), 10, 64)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		d.parts = append(d.parts, donePart{begun, parseDone(b)})
	}
	slices.SortFunc(d.parts, func(a, b donePart) int { return int(min(1, max(-1, a.begun-b.begun))) })
	for _, p := range d.parts {
		for _, k := range p.ids {
			d.known[k] = true
		}
	}
	return d, nil
}

// parseDone reads the whole lines of a part; a torn last one was never relied
// on.
func parseDone(b []byte) []idKey {
	var out []idKey
	for {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			return out
		}
		if len(line) > 0 {
			out = append(out, keyOf(string(line)))
		}
		b = rest
	}
}

func (d *doneIDs) has(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[keyOf(id)]
}

// add remembers an id, durably.
func (d *doneIDs) add(id string, now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := keyOf(id)
	if d.known[k] {
		return nil
	}
	if err := d.rotate(now); err != nil {
		return fmt.Errorf("remember %s: %w", id, err)
	}
	_, err := d.file.WriteString(id + "\n")
	if err == nil {
		err = d.file.Sync()
	}
	if err != nil {
		// What is in the file now is not known: go on in another.
		return fmt.Errorf("remember %s: %w", id, errors.Join(err, d.closeFile()))
	}
	last := &d.parts[len(d.parts)-1]
	last.ids = append(last.ids, k)
	d.known[k] = true
	return nil
}

func (d *doneIDs) closeFile() error {
	if d.file == nil {
		return nil
	}
	err := d.file.Close()
	d.file = nil
	return err
}

// rotate has an open part that is neither too old nor too long; mu is held.
func (d *doneIDs) rotate(now time.Time) error {
	if d.file != nil {
		last := d.parts[len(d.parts)-1]
		if now.Sub(time.Unix(last.begun, 0)) < d.keep/doneParts && len(last.ids) < d.most/doneParts {
			return nil
		}
		if err := d.closeFile(); err != nil {
			return err
		}
	}
	begun := now.Unix()
	if n := len(d.parts); n > 0 {
		begun = max(begun, d.parts[n-1].begun+1)
	}
	f, err := os.OpenFile(filepath.Join(d.dir, strconv.FormatInt(begun, 10)), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err := durable.SyncDir(d.dir); err != nil {
		return errors.Join(err, f.Close())
	}
	d.file, d.parts = f, append(d.parts, donePart{begun: begun})
	return d.forget(now)
}

// forget removes the oldest parts: one is old when the next was begun too long
// ago, so that its last id is.
func (d *doneIDs) forget(now time.Time) error {
	total := len(d.known)
	for len(d.parts) > 1 {
		old := now.Sub(time.Unix(d.parts[1].begun, 0)) > d.keep
		if !old && total <= d.most-d.most/doneParts {
			return nil
		}
		if err := durable.Remove(filepath.Join(d.dir, strconv.FormatInt(d.parts[0].begun, 10))); err != nil {
			return err
		}
		for _, k := range d.parts[0].ids {
			delete(d.known, k)
		}
		total = len(d.known)
		d.parts = d.parts[1:]
	}
	return nil
}

func (d *doneIDs) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closeFile()
}
