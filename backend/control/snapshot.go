package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"waypost/director"
)

// Paths of backups, both POST, for admins and directors.
const (
	// PathSnapshot (SnapshotRequest → stream of SnapshotLine, one JSON object a
	// line): at the home: what the user has at one moment, while it works. After the line
	// with Complete the snapshot stays, and the stream goes on with empty lines as
	// a sign of life, until the caller hangs up.
	PathSnapshot = "/v1/snapshot"
	// PathSnapshotRead (SnapshotReadRequest → stream of files): bytes of a
	// snapshot that its caller still holds.
	PathSnapshotRead = "/v1/snapshot/read"
)

// SnapshotRequest names the user.
type SnapshotRequest struct {
	User director.User `json:"user"`
}

// SnapshotHead is all of a snapshot but the files.
type SnapshotHead struct {
	ID      string             `json:"id"`
	User    director.User      `json:"user"`
	Backend director.BackendID `json:"backend"`
	// Taken is the home's clock when nothing was written meanwhile.
	Taken time.Time `json:"taken"`
	// Epoch is the fence's at that moment.
	Epoch   director.Epoch   `json:"epoch"`
	Account director.Account `json:"account"`
}

// SnapshotLine is one line of the answer.
type SnapshotLine struct {
	Head *SnapshotHead `json:"head,omitempty"`
	// Entry is a file or folder, in the order of paths. Messages have no digest
	// there: they keep their contents under one name, so whoever has one needs
	// not have it read again.
	Entry    *ManifestEntry `json:"entry,omitempty"`
	Complete bool           `json:"complete,omitempty"`
	// Error ends the stream.
	Error *Error `json:"error,omitempty"`
}

// SnapshotReadRequest asks for some files of a snapshot.
type SnapshotReadRequest struct {
	ID    string     `json:"id"`
	Paths []TreePath `json:"paths"`
}

// Snapshot is one that this caller holds. Close lets go of it.
type Snapshot struct {
	Head    SnapshotHead
	Entries []ManifestEntry

	c    *Client
	body io.ReadCloser
	stop context.CancelFunc
}

// Snapshot takes one. The caller must Close it.
func (c *Client) Snapshot(ctx context.Context, u director.User) (*Snapshot, error) {
	ctx, stop := context.WithCancel(ctx)
	body, err := c.post(ctx, PathSnapshot, SnapshotRequest{User: u})
	if err != nil {
		stop()
		return nil, err
	}
	s := &Snapshot{c: c, body: body, stop: stop}
	if err := s.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s of %s: %w", PathSnapshot, u, err), s.Close())
	}
	return s, nil
}

func (s *Snapshot) read() error {
	quiet := time.AfterFunc(silence, s.stop)
	defer quiet.Stop()
	for dec := json.NewDecoder(s.body); ; {
		var l SnapshotLine
		if err := dec.Decode(&l); err != nil {
			return fmt.Errorf("the answer broke off: %w", err)
		}
		quiet.Reset(silence)
		switch {
		case l.Error != nil:
			return l.Error
		case l.Head != nil:
			s.Head = *l.Head
		case l.Entry != nil:
			s.Entries = append(s.Entries, *l.Entry)
		case l.Complete && s.Head.ID == "":
			return errors.New("the answer has no head")
		case l.Complete:
			return nil
		}
	}
}

// maxReadPaths bounds the paths of one request in bytes, so that it stays below
// what a request may have.
const maxReadPaths = 16 << 10

// Read calls fn with each of the files at paths, in that order. fn must read all
// of a file, or fail.
func (s *Snapshot) Read(ctx context.Context, paths []TreePath, fn func(FileHead, io.Reader) error) error {
	for len(paths) > 0 {
		n, size := 0, 0
		for n < len(paths) && (n == 0 || size+len(paths[n]) <= maxReadPaths) {
			size += len(paths[n]) + 8
			n++
		}
		if err := s.readSome(ctx, paths[:n], fn); err != nil {
			return err
		}
		paths = paths[n:]
	}
	return nil
}

func (s *Snapshot) readSome(ctx context.Context, paths []TreePath, fn func(FileHead, io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := s.c.post(ctx, PathSnapshotRead, SnapshotReadRequest{ID: s.Head.ID, Paths: paths})
	if err != nil {
		return err
	}
	defer body.Close()
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer quiet.Stop()
	files := NewFileReader(&watchedReader{body, quiet})
	for _, want := range paths {
		h, r, err := files.Next()
		if err == nil && h.Path != want {
			err = fmt.Errorf("%q came for %q", h.Path, want)
		}
		if err == nil {
			err = fn(h, r)
		}
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
	if _, _, err := files.Next(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("more files came than were asked for"), err)
	}
	return nil
}

// watchedReader moves a deadline at each read.
type watchedReader struct {
	r     io.Reader
	quiet *time.Timer
}

func (w *watchedReader) Read(p []byte) (int, error) {
	w.quiet.Reset(silence)
	return w.r.Read(p)
}

// Close gives the snapshot up.
func (s *Snapshot) Close() error {
	s.stop()
	return s.body.Close()
}
