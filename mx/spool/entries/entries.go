// Package entries is what an mx's queues are made of on disk: messages and
// their envelopes in a folder of its own. mx/spool keeps in it what waits for
// homes, mx/relay what waits to leave.
//
// A store owns its folder, exclusively (one process at a time, by a lock):
//
//	queue/<id>.msg  a message, byte for byte    queue/<id>.env  its envelope
//	dead/<id>.msg   what has come to nothing    dead/<id>.env
//	tmp/            messages that are being received
//	bad/            what could not be read at start, for the operator
//
// Promises:
//   - An entry exists if and only if its .env file does. The .msg is synced and
//     named before, the .env appears by rename, and the folder is synced before
//     Put returns: an entry is there wholly or not at all, and after Put returned
//     it outlives kill -9 and power loss.
//   - An envelope is replaced as a whole. An entry goes with its envelope; a
//     message without one is litter, which Read removes.
//   - A message is never written to again once it has a name, so that several
//     entries, of several stores on one file system, share it by hard links.
//
// What an envelope says is the caller's; it is kept as JSON. One goroutine at a
// time may change one entry; all else is safe for concurrent use. Only mx's
// queues may use it.
package entries

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"waypost/internal/durable"
)

// Folder is where an entry lies.
type Folder string

// The folders of entries.
const (
	Queue Folder = "queue"
	Dead  Folder = "dead"
)

const (
	dirTmp Folder = "tmp"
	dirBad Folder = "bad"
	extMsg        = ".msg"
	extEnv        = ".env"
)

// ErrNewer is for an envelope that a newer waypost wrote: it is neither read
// nor put aside.
var ErrNewer = errors.New("written by a newer waypost")

// Store is an open folder of entries. Close it.
type Store struct {
	dir    string
	memory int
	log    *slog.Logger
	lock   *durable.DirLock
}

// Open takes the folder, which it makes if it is absent, and removes what was
// being received. memoryBytes bounds what a Draft keeps in memory. ErrLocked of
// durable: another process has it.
func Open(dir string, memoryBytes int, log *slog.Logger) (*Store, error) {
	for _, d := range []Folder{Queue, Dead, dirTmp, dirBad} {
		if err := durable.MkdirAll(filepath.Join(dir, string(d)), 0o700); err != nil {
			return nil, err
		}
	}
	if err := durable.SyncDir(dir); err != nil { // a process that was killed may have made them
		return nil, err
	}
	lock, err := durable.Lock(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir, memoryBytes, log, lock}
	if err := s.clearTmp(); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return s, nil
}

func (s *Store) clearTmp() error {
	litter, err := os.ReadDir(filepath.Join(s.dir, string(dirTmp)))
	if err != nil {
		return err
	}
	for _, f := range litter {
		if err := os.Remove(filepath.Join(s.dir, string(dirTmp), f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Close gives the folder back.
func (s *Store) Close() error { return s.lock.Unlock() }

// ValidID reports whether an entry may have this id: 1 to 64 letters, digits
// and hyphens.
func ValidID(id string) bool {
	return len(id) > 0 && len(id) <= 64 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == ""
}

func (s *Store) path(f Folder, id, ext string) string {
	return filepath.Join(s.dir, string(f), id+ext)
}

// Put makes an entry of a draft, which is as it was afterwards. If it fails it
// takes back what it did as far as the disk lets it. fs.ErrExist: there is one
// of that id.
func (s *Store) Put(d *Draft, id string, envelope any) error {
	msg := s.path(Queue, id, extMsg)
	if _, err := os.Lstat(s.path(Queue, id, extEnv)); err == nil {
		return fs.ErrExist
	}
	err := d.place(msg)
	if err == nil {
		// Syncs the folder too, and with it the name of the message.
		err = s.Write(Queue, id, envelope)
	}
	if err != nil {
		os.Remove(s.path(Queue, id, extEnv))
		os.Remove(msg)
	}
	return err
}

// Write replaces the envelope of an entry.
func (s *Store) Write(f Folder, id string, envelope any) error {
	b, err := json.Marshal(envelope)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path(f, id, extEnv), append(b, '\n'), 0o600)
}

// Copy makes an entry of one in the other folder, with an envelope of its own.
func (s *Store) Copy(from, to Folder, id string, envelope any) error {
	err := os.Link(s.path(from, id, extMsg), s.path(to, id, extMsg))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.Write(to, id, envelope)
}

// Remove ends an entry: the envelope first, since it is the entry. One that is
// not there is no error.
func (s *Store) Remove(f Folder, id string) error {
	if err := durable.Remove(s.path(f, id, extEnv)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A crash before this leaves litter, which Read removes.
	if err := os.Remove(s.path(f, id, extMsg)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Message is an open message.
type Message interface {
	io.ReadCloser
	io.Seeker
}

// Message opens the message of an entry.
func (s *Store) Message(f Folder, id string) (Message, error) {
	return os.Open(s.path(f, id, extMsg))
}

// Read gives each envelope of a folder to decode, removes litter, and puts
// aside what decode refuses; ErrNewer ends it instead. For the start, before
// anything else is done.
func (s *Store) Read(f Folder, decode func(id string, envelope []byte) error) error {
	files, err := os.ReadDir(filepath.Join(s.dir, string(f)))
	if err != nil {
		return err
	}
	msgs := map[string]bool{}
	var ids []string
	for _, file := range files {
		name := file.Name()
		if id, ok := strings.CutSuffix(name, extMsg); ok {
			msgs[id] = true
		} else if id, ok := strings.CutSuffix(name, extEnv); ok && ValidID(id) {
			ids = append(ids, id)
		} else if strings.HasPrefix(name, durable.TempPrefix) {
			if err := os.Remove(filepath.Join(s.dir, string(f), name)); err != nil {
				return err
			}
		}
	}
	for _, id := range ids {
		err := s.readOne(f, id, msgs[id], decode)
		delete(msgs, id)
		if errors.Is(err, ErrNewer) {
			return fmt.Errorf("entry %s: %w", id, err)
		}
		if err != nil {
			if err := s.putAside(f, id, err); err != nil {
				return err
			}
		}
	}
	for id := range msgs { // without an envelope: never was an entry, or is none any more
		if err := os.Remove(s.path(f, id, extMsg)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) readOne(f Folder, id string, hasMsg bool, decode func(string, []byte) error) error {
	b, err := os.ReadFile(s.path(f, id, extEnv))
	if err != nil {
		return err
	}
	var v struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if v.ID == id && !hasMsg {
		return errors.New("it has no message")
	}
	return decode(id, b)
}

// putAside moves an entry that cannot be read to bad/, for the operator.
func (s *Store) putAside(f Folder, id string, why error) error {
	s.log.Error("spool entry put aside", "delivery", id, "folder", filepath.Join(s.dir, string(dirBad)), "err", why)
	for _, ext := range []string{extMsg, extEnv} { // the envelope last
		err := durable.Rename(s.path(f, id, ext), s.path(dirBad, id, ext))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
