package deliveries

import (
	"fmt"
	"time"

	"waypost/internal/vfs"
)

// MaxMemory bounds the key of a Memory in bytes; they may have any value.
const MaxMemory = 200

// Memory is what a user's filters remember, each key until a time of its own:
// RFC 7352 (duplicate) and RFC 5230 (vacation). It is a Log whose times are those
// of the end, with the same promises.
type Memory struct{ log *Log }

// OpenMemory reads the memory at path; one that does not exist is empty.
func OpenMemory(fsys vfs.FS, path string, now time.Time) (*Memory, error) {
	log, err := Open(fsys, path, 0, now)
	if err != nil {
		return nil, err
	}
	return &Memory{log}, nil
}

// Remember remembers key until then, in whole seconds. A later end counts where
// key has one. It is durable by the caller's journal, or by Sync.
func (m *Memory) Remember(key string, until, now time.Time) error {
	if err := checkMemory(key); err != nil {
		return err
	}
	return m.log.appendAt(Entry{At: until, Key: key}, now)
}

// Remembered tells whether key is remembered at the time now.
func (m *Memory) Remembered(key string, now time.Time) (bool, error) {
	// Most keys are asked for when they are not there, or over: no look at the file.
	if until, maybe := m.log.keys[m.log.hash(key)]; !maybe || until < now.Unix() {
		return false, nil
	}
	e, ok, err := m.log.Find(key)
	return ok && !e.At.Before(now.Truncate(time.Second)), err
}

// Ensure is Log.Ensure; an Entry's time is when it ends.
func (m *Memory) Ensure(entries []Entry) error {
	for _, e := range entries {
		if err := checkMemory(e.Key); err != nil {
			return err
		}
	}
	return m.log.Ensure(entries)
}

// Sync makes durable what was remembered.
func (m *Memory) Sync() error { return m.log.Sync() }

// Close gives the descriptor back; the next Remember opens it again.
func (m *Memory) Close() { m.log.Close() }

func checkMemory(key string) error {
	if key == "" || len(key) > MaxMemory {
		return fmt.Errorf("memory %.40q of %d bytes: %w", key, len(key), ErrBadKey)
	}
	return nil
}
