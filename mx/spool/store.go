package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"waypost/mx/spool/entries"
)

// Draft is the copy of a message while it is being received; see package
// entries. It must end by Add or Discard.
type Draft = entries.Draft

// Message is an open message of the spool.
type Message = entries.Message

// Draft begins one. It costs nothing until it is written to.
func (s *Spool) Draft() *Draft { return s.store.Draft() }

// merge brings recipients of an entry from one folder into the other, where an
// entry of that id may be already. The message is shared by a hard link.
func (s *Spool) merge(from, to entries.Folder, e Envelope, have *Envelope) (Envelope, error) {
	if have != nil {
		next := *have
		next.Recipients = slices.Clone(have.Recipients)
		for _, r := range e.Recipients {
			if !hasUser(next.Recipients, r) {
				next.Recipients = append(next.Recipients, r)
			}
		}
		return next, s.store.Write(to, e.ID, next)
	}
	return e, s.store.Copy(from, to, e.ID, e)
}

func hasUser(rs []Recipient, r Recipient) bool {
	return slices.ContainsFunc(rs, func(x Recipient) bool { return x.User == r.User })
}

// recover cleans up after a crash and fills the indexes.
func (s *Spool) recover() error {
	queued, err := s.readDir(entries.Queue)
	if err != nil {
		return err
	}
	dead, err := s.readDir(entries.Dead)
	if err != nil {
		return err
	}
	// Spread over up to a backoff: the backends may be starting as well.
	spread := min(s.o.MinBackoff, time.Duration(len(queued))*10*time.Millisecond)
	for _, e := range queued {
		s.insert(&item{env: e, index: -1}, time.Duration(s.o.Random(int64(spread)+1)))
	}
	for _, e := range dead {
		s.dead[e.ID] = &item{env: e, index: -1}
	}
	return nil
}

func (s *Spool) readDir(f entries.Folder) (out []Envelope, err error) {
	err = s.store.Read(f, func(id string, b []byte) error {
		e, err := decodeEnvelope(id, b)
		if err == nil {
			out = append(out, e)
		}
		return err
	})
	return out, err
}

func decodeEnvelope(id string, b []byte) (Envelope, error) {
	var e Envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return e, err
	}
	switch {
	case e.Version > envelopeVersion:
		return e, fmt.Errorf("version %d: %w", e.Version, entries.ErrNewer)
	case e.ID != id || len(e.Recipients) == 0:
		return e, errors.New("not the envelope of this entry")
	}
	return e, nil
}
