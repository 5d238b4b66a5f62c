package fulltext

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/text/unicode/norm"

	"waypost/backend/mailbox"
	"waypost/internal/durable"
)

const (
	// Dir is the index's folder in the user's.
	Dir           = "waypost-fulltext"
	formatName    = "format"
	segmentSuffix = ".zap"
	tempSuffix    = ".tmp"
	// formatVersion is raised with every change of what text a message has, or how it is
	// prepared.
	formatVersion = 1

	// mergeOf segments of about one size become one, up to maxSegment messages.
	mergeOf    = 8
	maxSegment = 200_000
	// maxSegments is how many there may be before searches add no more.
	maxSegments = 64
	// pauseWriting is how long an index is not written after that failed.
	pauseWriting = 10 * time.Minute
)

var (
	errClosed = errors.New("text index closed")
	errPaused = errors.New("text index not written now")
)

// format says which version segments are of.
func format() string {
	return fmt.Sprintf("waypost-fulltext %d, Unicode %s, normalization %s\n", formatVersion, unicode.Version, norm.Version)
}

// userIndex is one user's open index.
type userIndex struct {
	dir string
	log *slog.Logger
	// room says that the disk has place for more.
	room func() bool
	stop chan struct{} // closed when the index is to close

	// write is held while a file is made. It guards next and paused.
	write  sync.Mutex
	next   uint64
	paused time.Time

	// mu guards all below; it is taken after write. Segments are closed under both.
	mu       sync.RWMutex
	closed   bool
	segments []*segment
	known    map[key]struct{}
}

// openIndex makes the folder if it is missing. Its caller sees to it that nobody else has
// it open.
func openIndex(root string, log *slog.Logger, room func() bool) (*userIndex, error) {
	x := &userIndex{
		dir: filepath.Join(root, Dir), log: log, room: room, stop: make(chan struct{}), known: make(map[key]struct{}), next: 1,
	}
	if _, err := os.Lstat(root); err != nil {
		return nil, fmt.Errorf("open text index: %w", err) // never make a user
	}
	if err := x.furnish(); err != nil {
		return nil, fmt.Errorf("open text index: %w", err)
	}
	entries, err := os.ReadDir(x.dir)
	if err != nil {
		return nil, fmt.Errorf("open text index: %w", err)
	}
	for _, e := range entries {
		if err := x.load(e.Name()); err != nil {
			x.close()
			return nil, fmt.Errorf("open text index: %w", err)
		}
	}
	return x, nil
}

// furnish makes a folder of this format.
func (x *userIndex) furnish() error {
	path := filepath.Join(x.dir, formatName)
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, []byte(format())) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(x.dir); err != nil {
		return err
	}
	if err := durable.MkdirAll(x.dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, []byte(format()), 0o600)
}

// load opens a file of the folder, and removes what is none of the index any more.
func (x *userIndex) load(name string) error {
	path := filepath.Join(x.dir, name)
	if strings.HasSuffix(name, tempSuffix) {
		return os.RemoveAll(path)
	}
	text, ok := strings.CutSuffix(name, segmentSuffix)
	n, err := strconv.ParseUint(text, 10, 63)
	if !ok || err != nil {
		return nil
	}
	x.next = max(x.next, n+1)
	s, err := openSegment(path)
	if err == nil {
		err = x.take(s)
	}
	if err == nil {
		return nil
	}
	x.log.Warn("text index: a segment is dropped, and its messages are taken in again", "file", path, "error", err)
	return os.RemoveAll(path)
}

// take adds an open segment, or closes it.
func (x *userIndex) take(s *segment) error {
	var keys []key
	if err := s.keys(func(_ uint32, k key) { keys = append(keys, k) }); err != nil {
		s.close()
		return err
	}
	for _, k := range keys {
		x.known[k] = struct{}{}
	}
	x.segments = append(x.segments, s)
	return nil
}

// interrupt lets a merge under way end soon.
func (x *userIndex) interrupt() { close(x.stop) }

// close waits for a batch or merge under way. interrupt comes before it, if it is to be quick.
func (x *userIndex) close() {
	x.write.Lock()
	defer x.write.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	for _, s := range x.segments {
		s.close()
	}
	x.segments, x.known = nil, nil
}

func (x *userIndex) size() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.known)
}

// missing gives those of the messages that the index does not have, the newest first, at
// most limit; total counts all.
func (x *userIndex) missing(all mailbox.Messages, limit int) (out []mailbox.Message, total int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var at []int
	for i, m := range all.All() {
		if _, ok := x.known[keyOf(m)]; !ok {
			at = append(at, i)
		}
	}
	for i := len(at) - 1; i >= 0 && len(out) < limit; i-- {
		out = append(out, *all.At(at[i]))
	}
	return out, len(at)
}

// candidates is Lease.Candidates without taking anything in.
func (x *userIndex) candidates(ctx context.Context, all mailbox.Messages, terms [][]byte, body bool) ([]mailbox.UID, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return nil, errClosed
	}
	hits := make(map[key]struct{})
	for _, s := range x.segments {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.find(terms, body, hits); err != nil {
			return nil, err
		}
	}
	uids := []mailbox.UID{}
	for _, m := range all.All() {
		k := keyOf(m)
		_, known := x.known[k]
		if _, hit := hits[k]; hit || !known {
			uids = append(uids, m.UID)
		}
	}
	return uids, nil
}

// writable reports that files may be made now. write is held.
func (x *userIndex) writable() bool {
	if time.Now().Before(x.paused) {
		return false
	}
	if x.room != nil && !x.room() {
		x.pause("the disk is nearly full")
		return false
	}
	return true
}

func (x *userIndex) pause(why any) {
	x.paused = time.Now().Add(pauseWriting)
	x.log.Warn("text index not written for a while; searches read messages instead", "folder", x.dir, "pause", pauseWriting, "error", why)
}

// add makes a segment of a batch.
func (x *userIndex) add(b *batch) error {
	if len(b.docs) == 0 {
		return nil
	}
	x.write.Lock()
	defer x.write.Unlock()
	if x.isClosed() {
		return errClosed
	}
	if !x.writable() {
		return errPaused
	}
	_, err := x.make(func(path string) error { return writeSegment(path, b.docs) }, nil)
	return err
}

// ready tells whether a batch could be added now, without waiting for a merge.
func (x *userIndex) ready() bool {
	if !x.write.TryLock() {
		return false
	}
	defer x.write.Unlock()
	return !x.isClosed() && x.writable()
}

func (x *userIndex) isClosed() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.closed
}

// make writes a file and takes it in, in place of old ones. write is held. A file that cannot be made
// leaves all as it was.
func (x *userIndex) make(write func(path string) error, old []*segment) (s *segment, err error) {
	path := filepath.Join(x.dir, fmt.Sprintf("%016d", x.next))
	x.next++
	err = write(path + tempSuffix)
	if err == nil {
		err = os.Rename(path+tempSuffix, path+segmentSuffix)
	}
	if err == nil && len(old) > 0 {
		err = durable.SyncDir(x.dir) // before the old ones go
	}
	if err == nil {
		s, err = openSegment(path + segmentSuffix)
	}
	select {
	case <-x.stop: // an interrupted merge is no trouble of the disk
		err = errors.Join(err, errClosed)
	default:
	}
	if err != nil {
		err = errors.Join(err, x.unmake(s, path))
		if !errors.Is(err, errClosed) {
			x.pause(err)
		}
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.take(s); err != nil {
		return nil, errors.Join(err, x.unmake(nil, path))
	}
	for _, o := range old {
		x.segments = slices.DeleteFunc(x.segments, func(s *segment) bool { return s == o })
		o.close()
		err = errors.Join(err, os.Remove(o.path))
	}
	return s, err
}

func (x *userIndex) unmake(s *segment, path string) error {
	if s != nil {
		s.close()
	}
	return errors.Join(os.RemoveAll(path+tempSuffix), os.RemoveAll(path+segmentSuffix))
}

// compact merges segments of about one size while there are many of them.
func (x *userIndex) compact() error {
	for {
		x.write.Lock()
		group := x.group()
		if len(group) == 0 || !x.writable() {
			x.write.Unlock()
			return nil
		}
		_, err := x.make(func(path string) error {
			return mergeSegments(path, group, make([]*roaring.Bitmap, len(group)), x.stop)
		}, group)
		x.write.Unlock()
		if err != nil {
			return err
		}
	}
}

// group gives segments that should become one. write is held.
func (x *userIndex) group() []*segment {
	x.mu.RLock()
	defer x.mu.RUnlock()
	classes := make(map[int][]*segment)
	for _, s := range x.segments {
		if s.docs*mergeOf > maxSegment {
			continue
		}
		class := bits.Len64(s.docs/batchMessages) / 3
		if classes[class] = append(classes[class], s); len(classes[class]) == mergeOf {
			return classes[class]
		}
	}
	return nil
}

// sweep drops messages that are in no folder any more: all but live.
func (x *userIndex) sweep(live map[key]struct{}) error {
	x.write.Lock()
	defer x.write.Unlock()
	x.mu.RLock()
	segments := slices.Clone(x.segments)
	x.mu.RUnlock()
	seen := make(map[key]struct{})
	for _, s := range segments {
		drop := roaring.New()
		err := s.keys(func(n uint32, k key) {
			_, twice := seen[k]
			if _, ok := live[k]; !ok || twice {
				drop.Add(n)
			}
			seen[k] = struct{}{}
		})
		if err == nil && !drop.IsEmpty() {
			err = x.rewrite(s, drop)
		}
		if err != nil {
			return err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for k := range x.known {
		if _, ok := live[k]; !ok {
			delete(x.known, k)
		}
	}
	return nil
}

// rewrite makes a segment without some of its messages, or none if it had no other. write is
// held.
func (x *userIndex) rewrite(s *segment, drop *roaring.Bitmap) error {
	if !x.writable() {
		return nil
	}
	if drop.GetCardinality() < s.docs {
		_, err := x.make(func(path string) error {
			return mergeSegments(path, []*segment{s}, []*roaring.Bitmap{drop}, x.stop)
		}, []*segment{s})
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.segments = slices.DeleteFunc(x.segments, func(o *segment) bool { return o == s })
	s.close()
	return os.Remove(s.path)
}

// count is how many segments there are.
func (x *userIndex) count() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.segments)
}

func isClosed(err error) bool { return errors.Is(err, errClosed) }
