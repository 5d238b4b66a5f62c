package lmtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"waypost/backend/mailbox"
	"waypost/director"
)

// fakeStore is a store in memory whose every answer a test can set.
type fakeStore struct {
	mu        sync.Mutex
	openErr   map[director.User]error
	fitsErr   map[director.User]error
	commitErr map[director.User]error
	badFolder string
	stageErr  error
	stageCut  int64 // with stageErr: fail after so many bytes; else at once
	early     bool  // Stage returns before the end without an error
	count     bool  // count bytes with CRLF, keep none

	open      int // boxes that are open
	discarded int
	staged    int
	counted   int64
	delivered []string // "user folder id force: body"
	seen      map[string]bool
}

func (f *fakeStore) Open(_ context.Context, u director.User, home director.BackendID, epoch director.Epoch) (mailbox.Box, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.openErr[u]; err != nil {
		return nil, fmt.Errorf("open %s: %w", u, err)
	}
	if home != "b1" || epoch != 7 {
		return nil, mailbox.ErrStale
	}
	f.open++
	return &fakeBox{store: f, user: u}, nil
}

// wireCount counts what is written as if all of it had CRLF. A CR is always a line end's
// (strictReader).
type wireCount int64

func (c *wireCount) Write(p []byte) (int, error) {
	*c += wireCount(len(p) + bytes.Count(p, []byte("\n")) - bytes.Count(p, []byte("\r")))
	return len(p), nil
}

func (f *fakeStore) Stage(_ context.Context, header string, r io.Reader, limit int64) (mailbox.Staged, error) {
	if f.early {
		return &fakeStaged{store: f}, nil
	}
	if f.stageErr != nil {
		io.CopyN(io.Discard, r, f.stageCut)
		return nil, f.stageErr
	}
	if f.count {
		_, err := io.CopyBuffer(onlyWriter{(*wireCount)(&f.counted)}, r, make([]byte, 32<<10))
		return &fakeStaged{store: f}, err
	}
	if limit > 0 {
		r = io.LimitReader(r, limit+1)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	if limit > 0 && int64(len(b)) > limit {
		return nil, mailbox.ErrTooLarge
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.staged++
	return &fakeStaged{f, header + string(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))}, nil
}

// onlyWriter hides io.Discard's ReadFrom.
type onlyWriter struct{ io.Writer }

type fakeStaged struct {
	store *fakeStore
	text  string
}

func (s *fakeStaged) Size() int64                 { return int64(len(s.text)) }
func (s *fakeStaged) WireSize() int64             { return int64(len(s.text)) }
func (s *fakeStaged) Open() (mailbox.Body, error) { return nil, errDisk }
func (s *fakeStaged) Discard() {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.discarded++
}

type fakeBox struct {
	mailbox.Box
	store *fakeStore
	user  director.User
}

func (b *fakeBox) User() director.User { return b.user }

func (b *fakeBox) Close() {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	b.store.open--
}

func (b *fakeBox) Fits(size int64) error {
	if size >= 5000 {
		return mailbox.ErrOverQuota
	}
	return b.store.fitsErr[b.user]
}

func (b *fakeBox) Deliver(_ context.Context, d mailbox.Delivery) error {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	id, folder := d.ID, d.Places[0].Folder
	if folder == b.store.badFolder {
		folder = "" // as a store does with what cannot be
	}
	if err := b.store.commitErr[b.user]; err != nil {
		return fmt.Errorf("deliver %s: %w", b.user, err)
	}
	key := string(b.user) + " " + id
	if b.store.seen == nil {
		b.store.seen = map[string]bool{}
	}
	if b.store.seen[key] {
		return nil
	}
	b.store.seen[key] = true
	b.store.delivered = append(b.store.delivered,
		fmt.Sprintf("%s %q %s %v: %s", b.user, folder, id, d.Force, d.Message.(*fakeStaged).text))
	slices.Sort(b.store.delivered) // recipients are delivered to at the same time
	return nil
}

var errDisk = errors.New("input/output error")
