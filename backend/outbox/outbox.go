// Package outbox keeps the messages that a backend has to send: what filters
// redirect, reply and notify, until an mx has taken them into its durable queue.
//
// # Contract
//
// An entry is two files in one folder, <key>.msg with the message as Maildirs keep
// it (LF line ends) and <key>.json with its envelope; the second makes it whole.
// key is made of the user and the id, so that an id is there once, however often it
// is put.
//
// Nothing is synced here: an entry is one of the effects of a delivery, which the
// backend's journal keeps until a checkpoint has synced the file system. After a
// crash the journal puts again what it still has, and each Put writes the files
// anew: what a crash has left under their names may be torn. An entry is removed
// when an mx has answered that it has it durably; a crash in between sends it again
// under the same id, which the mx knows. A message whose envelope is gone is
// removed by Open.
//
// An entry that no mx will ever take is set aside: its envelope becomes
// <key>.refused, it is logged as an error with its key, and counted by Refused. An
// operator may look at both files, remove them, or give the envelope its old name:
// then it is tried again, at the next round.
//
// One Box owns the folder. It is safe for concurrent use; a Put of one id excludes
// another of the same id (the user's lock does).
package outbox

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/deliveries"
	"waypost/director"
	"waypost/internal/vfs"
)

// Entry is an envelope.
type Entry struct {
	ID   string        `json:"id"`
	User director.User `json:"user"`
	Kind string        `json:"kind"`
	From string        `json:"from"`
	To   []string      `json:"to"`
	UTF8 bool          `json:"utf8,omitempty"`
	At   time.Time     `json:"at"`
}

const (
	messageSuffix  = ".msg"
	envelopeSuffix = ".json"
	refusedSuffix  = ".refused"
	// maxEnvelope bounds what is read of one, in bytes.
	maxEnvelope = 1 << 20
)

// Box is the folder.
type Box struct {
	fs   vfs.FS
	dir  string
	wake chan struct{}

	// files is held shared while an entry is written, and by itself while entries
	// are listed, opened or removed: who does that sees them whole.
	files            sync.RWMutex
	waiting, refused atomic.Int64

	// sent remembers the keys of entries that an mx has: the journal may bring an
	// entry back that was handed over before the crash.
	sentMu sync.Mutex
	sent   *deliveries.Log
}

const (
	sentName = "sent"
	// keepSent is far longer than a record can stay in the journal.
	keepSent = 24 * time.Hour
)

// wasSent tells whether an mx has the entry.
func (b *Box) wasSent(k string) (bool, error) {
	b.sentMu.Lock()
	defer b.sentMu.Unlock()
	_, is, err := b.sent.Find(k)
	return is, err
}

// noteSent remembers that an mx has the entry, against kill -9 at once.
func (b *Box) noteSent(k string) error {
	b.sentMu.Lock()
	defer b.sentMu.Unlock()
	return b.sent.Append(deliveries.Entry{At: time.Now(), Key: k})
}

// Open takes over dir, which must exist.
func Open(fsys vfs.FS, dir string) (*Box, error) {
	b := &Box{fs: fsys, dir: dir, wake: make(chan struct{}, 1)}
	sent, err := deliveries.Open(fsys, filepath.Join(dir, sentName), keepSent, time.Now())
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	b.sent = sent
	_, orphans, err := b.list()
	for _, name := range orphans {
		if err == nil {
			err = fsys.Remove(filepath.Join(dir, name))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return b, nil
}

// Waiting is how many entries no mx has taken yet.
func (b *Box) Waiting() int { return int(b.waiting.Load()) }

// Refused is how many entries are set aside for the operator, as of the last
// round.
func (b *Box) Refused() int { return int(b.refused.Load()) }

func key(u director.User, id string) string {
	sum := sha256.Sum256([]byte(string(u) + "\x00" + id))
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20]))
}

// Put adds a message that was not sent yet; link gives its file a name in the folder. Of an entry that
// is there already the files are made anew; one that was set aside stays so.
func (b *Box) Put(u director.User, o mailbox.Outbound, link func(path string) error) error {
	data, err := json.Marshal(Entry{ID: o.ID, User: u, Kind: o.Kind, From: o.From, To: o.To, UTF8: o.UTF8, At: time.Now().UTC()})
	k := key(u, o.ID)
	if err == nil {
		var sent bool
		if sent, err = b.wasSent(k); sent {
			return nil
		}
	}
	if err == nil {
		err = b.put(filepath.Join(b.dir, k), data, link)
	}
	if err != nil {
		return fmt.Errorf("outbox: %s of %s: %w", o.ID, u, err)
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return nil
}

// Paths are what Put changes for an id: whoever syncs them needs no journal.
func (b *Box) Paths(u director.User, id string) []string {
	path := filepath.Join(b.dir, key(u, id))
	return []string{path + messageSuffix, path + envelopeSuffix, b.dir}
}

func (b *Box) put(path string, envelope []byte, link func(path string) error) error {
	b.files.RLock()
	defer b.files.RUnlock()
	there, err := b.remove(path + envelopeSuffix)
	if err != nil {
		return err
	}
	if there {
		b.waiting.Add(-1)
	}
	if _, err := b.remove(path + messageSuffix); err != nil {
		return err
	}
	if err := link(path + messageSuffix); err != nil {
		return err
	}
	_, err = b.fs.Lstat(path + refusedSuffix)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := b.write(path+envelopeSuffix, envelope); err != nil {
		return err
	}
	b.waiting.Add(1)
	return nil
}

// remove tells whether there was something to remove.
func (b *Box) remove(path string) (bool, error) {
	err := b.fs.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// write makes a file appear whole, without syncing it.
func (b *Box) write(path string, data []byte) error {
	f, err := b.fs.Nameless(b.dir)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.LinkTo(path)
	}
	return errors.Join(err, f.Close())
}

// list gives the keys of all entries that wait, and the names of files that belong
// to none.
func (b *Box) list() (keys, orphans []string, err error) {
	b.files.Lock()
	defer b.files.Unlock()
	whole := map[string]bool{}
	var messages []string
	refused := 0
	err = b.fs.ReadDir(b.dir, func(e fs.DirEntry) error {
		name := e.Name()
		k, suffix := name, ""
		if i := strings.LastIndexByte(name, '.'); i > 0 {
			k, suffix = name[:i], name[i:]
		}
		switch {
		case suffix == envelopeSuffix:
			keys = append(keys, k)
			whole[k] = true
		case suffix == refusedSuffix:
			refused++
			whole[k] = true
		case suffix == messageSuffix:
			messages = append(messages, k)
		case strings.HasPrefix(name, vfs.TempPrefix):
			orphans = append(orphans, name)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for _, k := range messages {
		if !whole[k] {
			orphans = append(orphans, k+messageSuffix)
		}
	}
	b.waiting.Store(int64(len(keys)))
	b.refused.Store(int64(refused))
	return keys, orphans, nil
}

// errMalformed: an entry that nobody can send, whatever happens.
var errMalformed = errors.New("malformed entry")

// open opens an entry; fs.ErrNotExist if it is not there any more.
func (b *Box) open(k string) (e Entry, message vfs.File, err error) {
	b.files.Lock()
	defer b.files.Unlock()
	path := filepath.Join(b.dir, k)
	data, err := b.readEnvelope(path + envelopeSuffix)
	if err != nil {
		return e, nil, err
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	message, err = b.fs.OpenFile(path+messageSuffix, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: its message is missing", errMalformed)
	}
	return e, message, err
}

func (b *Box) readEnvelope(path string) ([]byte, error) {
	f, err := b.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEnvelope+1))
	if err == nil && len(data) > maxEnvelope {
		err = fmt.Errorf("%w: an envelope of more than %d bytes", errMalformed, maxEnvelope)
	}
	return data, err
}

// done removes an entry that an mx has.
func (b *Box) done(k string) error {
	b.files.Lock()
	defer b.files.Unlock()
	path := filepath.Join(b.dir, k)
	there, err := b.remove(path + envelopeSuffix)
	if err != nil {
		return err
	}
	if there {
		b.waiting.Add(-1)
	}
	_, err = b.remove(path + messageSuffix)
	return err
}

// setAside keeps an entry that cannot be sent for the operator to look at.
func (b *Box) setAside(k string) error {
	b.files.Lock()
	defer b.files.Unlock()
	path := filepath.Join(b.dir, k)
	if err := b.fs.Rename(path+envelopeSuffix, path+refusedSuffix); err != nil {
		return err
	}
	b.waiting.Add(-1)
	b.refused.Add(1)
	return nil
}
