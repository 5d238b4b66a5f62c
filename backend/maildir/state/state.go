// Package state owns the file waypost-state of one Maildir folder: what is to be
// known of the folder and its messages, lasts, and cannot be told from the
// messages: mod-sequences and the history of expunges (RFC 7162), save dates
// (RFC 8514), marks of messages (keywords beyond those that file names can tell,
// email ids of RFC 8474), and attributes of the folder (ACL, metadata, special
// use).
//
// The file has lines, each behind its checksum. It begins with a version, the
// folder's GUID and its UIDVALIDITY; further lines are records, which commute:
// what is appended late or twice, or in another order, comes to the same. When
// it has grown to twice what it need be it is written anew.
//
// # Mod-sequences
//
// They are given out under a ceiling that is durable before: HIGHESTMODSEQ never
// goes back. It goes ahead, over the ceiling, when a Load is unclean, and to the
// time, in seconds, times 2^20, when there is no file. A message of which no
// mod-sequence is known has the safe one, by which a client that comes back
// fetches too much rather than too little: HIGHESTMODSEQ as it was when the
// folder was first seen, for the messages it had then (what their former server
// counted, and what happened after a client was last there, is not known); else
// HIGHESTMODSEQ as it was at Load. The history does not reach back before the
// first of these.
//
// # What survives a crash
//
// Apply only appends: its records are durable by the caller's journal, or by
// Sync. A crash may take any of the lines appended since, or leave zeros in their
// place, and keep later ones: after it, Load is told unclean, takes each line
// that is legible, and the caller hands the records of its journal to Ensure.
// Without a journal it calls Distrust. A damaged file after a clean end is
// distrusted by itself. Damage never meets an append: the file is rewritten
// before. Load of a missing file, Ensure, Distrust, a new ceiling and every
// rewriting are durable.
//
// In memory a State holds some 26 bytes per message that was changed. It is not
// safe for concurrent use; the folder's owner serialises it. It keeps no file
// open.
package state

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"waypost/internal/vfs"
)

// FileName is the name of the file in its folder.
const FileName = "waypost-state"

const (
	version = 1
	// ceilingStep is how many mod-sequences are given out per durable write.
	ceilingStep = 100_000
	// slack is by how much, in bytes, a file may outgrow its double.
	slack = 64 << 10
)

// ErrVersion: a file of a later version. It is left alone.
var ErrVersion = errors.New("state of a folder has an unknown version")

// ErrLost: the disk has dropped lines of the file that may be relied on.
var ErrLost = errors.New("lines of a folder's state are lost")

// ErrUsedUp: there is no higher mod-sequence.
var ErrUsedUp = errors.New("mod-sequences used up")

// Folder says which folder a State is of.
type Folder struct {
	// Dir is the folder's path.
	Dir string
	// GUID is compared where both sides have one.
	GUID string
	// Validity is the UIDVALIDITY. Mod-sequences and all else that goes by UIDs
	// are void under another; attributes are not.
	Validity uint32
	// Next is UIDNEXT, to tell at the first Load the messages that are there
	// from those to come.
	Next uint32
}

// State is the state of a folder.
type State struct {
	fsys   vfs.FS
	path   string
	folder Folder
	facts
	// given is the last mod-sequence given out, ceiling the durable bound.
	given, ceiling uint64
	// atLoad is HIGHESTMODSEQ at Load.
	atLoad uint64
	// size is that of the file, compact what it was when written anew.
	size, compact int64
	// damaged: the file must be rewritten before it is appended to.
	damaged bool
}

// Load reads the state of a folder. If there is none, or one of another GUID or
// UIDVALIDITY, it begins one, durably. unclean says that the file may lack what
// was not synced: a crash came since it was last written.
func Load(fsys vfs.FS, folder Folder, now time.Time, unclean bool) (*State, error) {
	folder.GUID = url.PathEscape(folder.GUID)
	s := &State{fsys: fsys, path: filepath.Join(folder.Dir, FileName), folder: folder, facts: newFacts()}
	data, err := vfs.ReadFile(fsys, s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load state of folder: %w", err)
	}
	header, err := s.read(string(data))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.path, err)
	}
	switch {
	case !s.isOurs(header):
		err = s.begin(now, header.text == "" || sameGUID(header.text, folder.GUID))
	case unclean:
		err = s.raise()
	case s.damaged:
		err = s.Distrust()
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.path, err)
	}
	s.given, s.atLoad = s.highest, s.highest
	return s, nil
}

// read takes in all legible lines.
func (s *State) read(data string) (header line, err error) {
	s.size, s.compact = int64(len(data)), int64(len(data))
	s.damaged = !strings.HasSuffix(data, "\n")
	for text := range strings.Lines(data) {
		l, ok := parseLine(strings.TrimSuffix(text, "\n"))
		switch {
		case !ok || !strings.HasSuffix(text, "\n"):
			s.damaged = true
		case l.kind == kindHeader && l.numbers[0] != version:
			return header, fmt.Errorf("version %d: %w", l.numbers[0], ErrVersion)
		case l.kind == kindHeader:
			header = l
		default:
			s.take(l)
		}
	}
	s.prune()
	return header, nil
}

func (s *State) take(l line) {
	switch l.kind {
	case kindCeiling:
		s.ceiling = max(s.ceiling, l.numbers[0])
	case kindHighest:
		s.highest = max(s.highest, l.numbers[0])
	case kindBase:
		s.base, s.baseNext = l.numbers[0], l.numbers[1]
	case kindForgot:
		s.forget(l.numbers[0])
	default:
		s.merge(l.Record)
	}
}

func (s *State) isOurs(header line) bool {
	return header.kind == kindHeader && sameGUID(header.text, s.folder.GUID) && header.numbers[1] == uint64(s.folder.Validity)
}

func sameGUID(a, b string) bool { return a == b || b == "" || a == noGUID }

const noGUID = "-"

// begin makes the state of a folder of which nothing is known, but perhaps its
// attributes.
func (s *State) begin(now time.Time, keepAttributes bool) error {
	first := max(uint64(max(now.Unix(), 1))<<20, s.ceiling+1, s.highest+1)
	attributes := s.attributes
	s.facts = newFacts()
	if keepAttributes {
		s.attributes = attributes
	}
	s.distrust(first)
	s.baseNext = uint64(s.folder.Next)
	s.ceiling = first + ceilingStep
	return s.rewrite()
}

// raise puts HIGHESTMODSEQ over all that were given out. That is not synced: a
// crash leads here again.
func (s *State) raise() error {
	if s.highest >= s.ceiling {
		return nil
	}
	s.highest = s.ceiling
	if s.damaged {
		return s.rewrite()
	}
	return s.append(appendNumbers(nil, kindHighest, s.highest))
}

// Distrust says that records may be lost: each message has from now on a
// mod-sequence over all that were given out, and the history begins anew.
func (s *State) Distrust() error {
	if s.ceiling >= maxModSeq-ceilingStep {
		return ErrUsedUp
	}
	top := max(s.ceiling, s.highest) + 1
	s.distrust(top)
	s.given, s.ceiling = top, top+ceilingStep
	return s.rewrite()
}

// Highest is HIGHESTMODSEQ: no message and no expunge has a higher one.
func (s *State) Highest() uint64 { return s.highest }

// NextModSeq gives out a mod-sequence that was never given before. It counts for
// Highest once a record has it. One call in 100,000 waits for the disk.
func (s *State) NextModSeq() (uint64, error) {
	next := max(s.given, s.highest) + 1
	if err := s.reserve(next); err != nil {
		return 0, err
	}
	s.given = next
	return next, nil
}

// reserve sees to it that modSeq is under the ceiling.
func (s *State) reserve(modSeq uint64) error {
	if modSeq <= s.ceiling {
		return nil
	}
	if modSeq >= maxModSeq-ceilingStep {
		return fmt.Errorf("%s: %w", s.path, ErrUsedUp)
	}
	old := s.ceiling
	s.ceiling = modSeq + ceilingStep
	// A new file: a flush that fails must not take lines with it that others rely on.
	err := s.rewrite()
	if err != nil {
		s.ceiling = old
	}
	return err
}

// Apply takes in records and appends those that change anything. They are durable
// by the caller's journal or Sync. ErrBadRecord refuses all of them; after any
// other error they count, and the next call tries again to write them.
func (s *State) Apply(records ...Record) error {
	fresh, err := s.mergeAll(records)
	if err != nil || len(fresh) == 0 && !s.damaged {
		return err
	}
	return s.append(fresh)
}

// Ensure sees to it, after a crash, that records, which the journal knows, are in
// the file, and that no damage is left. If anything had to be mended the file is
// rewritten, and is durable with all in it; else it is as durable as it was
// before.
func (s *State) Ensure(records ...Record) error {
	fresh, err := s.mergeAll(records)
	if err != nil || len(fresh) == 0 && !s.damaged {
		return err
	}
	s.prune()
	return s.rewrite()
}

// mergeAll gives the lines of those records that changed anything.
func (s *State) mergeAll(records []Record) (fresh []byte, err error) {
	top := uint64(0)
	for _, r := range records {
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", s.path, err)
		}
		top = max(top, r.modSeq)
	}
	if err := s.reserve(top); err != nil {
		return nil, err
	}
	for _, r := range records {
		if s.merge(r) {
			fresh = r.appendLines(fresh)
		}
	}
	return fresh, nil
}

// append adds lines to the file, or writes it anew, from what is in memory, where
// it is damaged or has grown long.
func (s *State) append(lines []byte) error {
	if s.damaged || s.size+int64(len(lines)) > 2*s.compact+slack {
		return s.rewrite()
	}
	f, err := s.fsys.OpenFile(s.path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(lines, s.size)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.damaged = true
		return fmt.Errorf("append to state of folder: %w", err)
	}
	s.size += int64(len(lines))
	return nil
}

// rewrite writes the file anew, durably.
func (s *State) rewrite() error {
	guid := s.folder.GUID
	if guid == "" {
		guid = noGUID
	}
	b := appendLine(nil, fmt.Appendf(nil, "%c %d %s %d", kindHeader, version, guid, s.folder.Validity))
	b = s.appendAll(appendNumbers(b, kindCeiling, s.ceiling))
	if err := vfs.ReplaceFile(s.fsys, s.path, b, 0o600); err != nil {
		s.damaged = true
		return fmt.Errorf("rewrite state of folder: %w", err)
	}
	s.size, s.compact, s.damaged = int64(len(b)), int64(len(b)), false
	return nil
}

// Intact tells whether the file is known to hold all that was applied, and to have its
// name for good. Otherwise the next call that writes makes it anew.
func (s *State) Intact() bool { return !s.damaged }

// Sync makes durable what was applied. A flush that fails may drop lines that were
// written; then the file is written anew. ErrLost: that failed, too.
func (s *State) Sync() error {
	if s.damaged {
		return s.rewrite()
	}
	f, err := s.fsys.OpenFile(s.path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("sync state of folder: %w", err)
	}
	defer f.Close()
	if err := f.Datasync(); err != nil {
		if again := s.rewrite(); again != nil {
			return fmt.Errorf("sync state of folder: %w: %w, %w", ErrLost, err, again)
		}
	}
	return nil
}
