package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"waypost/internal/durable"
)

const (
	dirQueue = "queue"
	dirDead  = "dead"
	dirTmp   = "tmp"
	dirBad   = "bad"
	extMsg   = ".msg"
	extEnv   = ".env"
)

func (s *Spool) path(dir, id, ext string) string { return filepath.Join(s.dir, dir, id+ext) }

// store makes the entry on disk. If it fails it takes back what it did as far
// as the disk lets it.
func (s *Spool) store(d *Draft, e Envelope) error {
	msg := s.path(dirQueue, e.ID, extMsg)
	if _, err := os.Lstat(s.path(dirQueue, e.ID, extEnv)); err == nil {
		return fs.ErrExist
	}
	err := d.place(msg)
	if err == nil {
		// Syncs the folder too, and with it the name of the message.
		err = s.writeEnvelope(dirQueue, e)
	}
	if err != nil {
		os.Remove(s.path(dirQueue, e.ID, extEnv))
		os.Remove(msg)
	}
	return err
}

func (s *Spool) writeEnvelope(dir string, e Envelope) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path(dir, e.ID, extEnv), append(b, '\n'), 0o600)
}

// remove ends an entry on disk: the envelope first, since it is the entry.
func (s *Spool) remove(dir, id string) error {
	if err := durable.Remove(s.path(dir, id, extEnv)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A crash before this leaves litter, which Open removes.
	if err := os.Remove(s.path(dir, id, extMsg)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// merge brings recipients of an entry from one folder into the other, where an
// entry of that id may be already. The message is shared by a hard link.
func (s *Spool) merge(from, to string, e Envelope, have *Envelope) (Envelope, error) {
	if have != nil {
		next := *have
		next.Recipients = slices.Clone(have.Recipients)
		for _, r := range e.Recipients {
			if !hasUser(next.Recipients, r) {
				next.Recipients = append(next.Recipients, r)
			}
		}
		return next, s.writeEnvelope(to, next)
	}
	err := os.Link(s.path(from, e.ID, extMsg), s.path(to, e.ID, extMsg))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return e, err
	}
	return e, s.writeEnvelope(to, e)
}

func hasUser(rs []Recipient, r Recipient) bool {
	return slices.ContainsFunc(rs, func(x Recipient) bool { return x.User == r.User })
}

// recover cleans up after a crash and fills the indexes.
func (s *Spool) recover() error {
	litter, err := os.ReadDir(filepath.Join(s.dir, dirTmp))
	if err != nil {
		return err
	}
	for _, f := range litter {
		if err := os.Remove(filepath.Join(s.dir, dirTmp, f.Name())); err != nil {
			return err
		}
	}
	queued, err := s.readDir(dirQueue)
	if err != nil {
		return err
	}
	dead, err := s.readDir(dirDead)
	if err != nil {
		return err
	}
	// Spread over up to a backoff: the backends may be starting as well.
	spread := min(s.o.MinBackoff, time.Duration(len(queued))*10*time.Millisecond)
	for _, e := range queued {
		s.insert(&item{env: e, index: -1}, time.Duration(rand.Int64N(int64(spread)+1)))
	}
	for _, e := range dead {
		s.dead[e.ID] = &item{env: e, index: -1}
	}
	return nil
}

// readDir reads the envelopes of a folder, removes litter, and puts aside what
// it cannot read.
func (s *Spool) readDir(dir string) ([]Envelope, error) {
	files, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return nil, err
	}
	msgs := map[string]bool{}
	var ids []string
	for _, f := range files {
		name := f.Name()
		if id, ok := strings.CutSuffix(name, extMsg); ok {
			msgs[id] = true
		} else if id, ok := strings.CutSuffix(name, extEnv); ok && validID(id) {
			ids = append(ids, id)
		} else if strings.HasPrefix(name, durable.TempPrefix) {
			if err := os.Remove(filepath.Join(s.dir, dir, name)); err != nil {
				return nil, err
			}
		}
	}
	var out []Envelope
	for _, id := range ids {
		e, err := s.readEnvelope(dir, id, msgs[id])
		delete(msgs, id)
		switch {
		case errors.Is(err, errNewer):
			return nil, err
		case err != nil:
			if err := s.putAside(dir, id, err); err != nil {
				return nil, err
			}
		default:
			out = append(out, e)
		}
	}
	for id := range msgs { // without an envelope: never was an entry, or is none any more
		if err := os.Remove(s.path(dir, id, extMsg)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

var errNewer = errors.New("written by a newer waypost")

func (s *Spool) readEnvelope(dir, id string, hasMsg bool) (Envelope, error) {
	var e Envelope
	b, err := os.ReadFile(s.path(dir, id, extEnv))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, err
	}
	switch {
	case e.Version > envelopeVersion:
		return e, fmt.Errorf("entry %s: version %d: %w", id, e.Version, errNewer)
	case e.ID != id || len(e.Recipients) == 0:
		return e, errors.New("not the envelope of this entry")
	case !hasMsg:
		return e, errors.New("it has no message")
	}
	return e, nil
}

// putAside moves an entry that cannot be read to bad/, for the operator.
func (s *Spool) putAside(dir, id string, why error) error {
	s.o.Log.Error("spool entry put aside", "delivery", id, "folder", filepath.Join(s.dir, dirBad), "err", why)
	for _, ext := range []string{extMsg, extEnv} { // the envelope last
		err := durable.Rename(s.path(dir, id, ext), s.path(dirBad, id, ext))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
