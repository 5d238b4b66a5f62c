// Package mailboxtest is what every mailbox.Store must pass: Run goes through the
// contract of package mailbox, as far as it is the same for all of them.
package mailboxtest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// Fixture is a store with one empty mailbox.
type Fixture struct {
	Box   mailbox.Box
	Stage func(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error)
	// Reopen ends the Box and gives another one of the same mailbox; nil for a
	// store that keeps nothing.
	Reopen func() mailbox.Box
	// Crashes: after Reopen mod-sequences, those of expunges too, may be higher
	// than they were told.
	Crashes bool
}

// Run runs all tests, each on a fixture of its own.
func Run(t *testing.T, make func(t *testing.T) Fixture) {
	for name, test := range map[string]func(s *suite){
		"append":       (*suite).append,
		"append fails": (*suite).appendFails,
		"recent":       (*suite).recent,
		"conditional":  (*suite).conditional,
		"keywords":     (*suite).keywords,
		"vocabulary":   (*suite).vocabulary,
		"reader":       (*suite).reader,
		"expunged":     (*suite).expunged,
		"ids":          (*suite).ids,
		"email ids":    (*suite).emailIDs,
		"save dates":   (*suite).saveDates,
		"status":       (*suite).status,
		"metadata":     (*suite).metadata,
		"limits":       (*suite).metadataLimits,
		"special use":  (*suite).specialUse,
		"delivery use": (*suite).deliveryUse,
		"acl":          (*suite).acl,
		"updates":      (*suite).updates,
		"missing":      (*suite).missing,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{T: t, Fixture: make(t)}
			defer s.discard()
			test(s)
		})
	}
}

type suite struct {
	*testing.T
	Fixture
	staged []mailbox.Staged
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("error is %v, want %v", err, want)
	}
}

func equal[T comparable](s *suite, what string, got, want T) {
	s.Helper()
	if got != want {
		s.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func equalList[T comparable](s *suite, what string, got []T, want ...T) {
	s.Helper()
	if !slices.Equal(got, want) {
		s.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// again calls check, and once more on what a store that keeps its mailboxes has
// kept.
func (s *suite) again(check func()) {
	s.Helper()
	check()
	s.discard()
	if s.Reopen != nil {
		s.Box = s.Reopen()
		check()
	}
}

func (s *suite) stage(text string) mailbox.Staged {
	s.Helper()
	m, err := s.Stage(s.Context(), "", strings.NewReader(text), 0)
	s.must(err)
	s.staged = append(s.staged, m)
	return m
}

// discard gives back what was staged.
func (s *suite) discard() {
	for _, m := range s.staged {
		m.Discard()
	}
	s.staged = nil
}

// put appends messages of these texts.
func (s *suite) put(folder string, flags mailbox.Flags, texts ...string) []mailbox.UID {
	s.Helper()
	var all []mailbox.NewMessage
	for _, text := range texts {
		all = append(all, mailbox.NewMessage{Message: s.stage(text), Flags: flags})
	}
	r, err := s.Box.Append(folder, all)
	s.must(err)
	return r.UIDs
}

func (s *suite) folder(name string) mailbox.Folder {
	s.Helper()
	f, err := s.Box.Folder(name)
	s.must(err)
	return f
}

func (s *suite) snapshot(f mailbox.Folder) mailbox.Snapshot {
	s.Helper()
	snap, err := f.Snapshot()
	s.must(err)
	return snap
}

func (s *suite) text(f mailbox.Folder, uid mailbox.UID) string {
	s.Helper()
	b, err := f.Open(uid)
	s.must(err)
	defer b.Close()
	data, err := io.ReadAll(b)
	s.must(err)
	return string(data)
}

func (s *suite) set(f mailbox.Folder, op mailbox.FlagOp, flags mailbox.Flags, uids ...mailbox.UID) mailbox.FlagResult {
	s.Helper()
	r, err := f.SetFlags(uids, mailbox.FlagChange{Op: op, Flags: flags})
	s.must(err)
	return r
}

func words(list ...string) mailbox.Flags { return mailbox.Flags{Keywords: list} }

func ptr(text string) *string { return &text }
