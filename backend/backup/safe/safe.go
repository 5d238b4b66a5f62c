// Package safe makes a tree that comes from the past fit to be served again: one
// restored from a backup, or one on a disk that was rolled back. Clients may have
// seen the mailbox later than the tree knows of.
//
// For each folder:
//   - UIDVALIDITY stays. UIDs of the tree are those that clients were told, so each
//     still names the one message it always named (RFC 9051, Section 2.3.1.1); what
//     was expunged since comes back under its own UID, and what came since is gone,
//     as if it were expunged.
//   - UIDNEXT jumps over whatever may have been given since: a UID that was told
//     for one message is never given to another. The jump is a million, and 16 for
//     each second since the tree was taken.
//   - Where the jump would leave less than half of the numbers, the uidlist is
//     removed instead: the store begins another under a higher UIDVALIDITY, and
//     clients load the folder anew. So it does by itself where the list is missing
//     or not legible.
//   - HIGHESTMODSEQ jumps over whatever may have been given since (they count from
//     the time, in seconds, times 2^20), each message is changed since then, and the
//     history of expunges begins anew (RFC 7162, Sections 3.1.1 and 3.2.5.2): a
//     client that comes with a later or an earlier one fetches all flags, and is
//     told of every UID that is no more.
//
// The counter of UIDVALIDITYs goes an hour ahead of the time: a folder made anew
// never gets one that a folder of its name had since.
//
// The caller owns the tree; nobody has it open. Each change is durable; a call
// that was broken off is made again, and jumps once more.
package safe

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"time"

	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

const (
	jumpAtLeast   = 1 << 20
	jumpPerSecond = 16
	// mostNext is half of the numbers there are.
	mostNext = math.MaxUint32 / 2
	// aheadOfTime is for clocks that differ, in mod-sequences and UIDVALIDITYs.
	modSeqAhead   = 24 * time.Hour
	validityAhead = time.Hour

	maildirName  = "Maildir"
	validityName = "dovecot-uidvalidity"
)

// Folder is what was done to one folder.
type Folder struct {
	Name string // "" is INBOX, else as on the disk: ".Sent"
	// Next and ModSeq are UIDNEXT and HIGHESTMODSEQ as they are now; 0 where the
	// folder has no uidlist, and so gets a new UIDVALIDITY.
	Next   uint32
	ModSeq uint64
}

// Make makes the user's folder at root safe. taken is when it was as it is.
func Make(fsys vfs.FS, root string, taken, now time.Time) ([]Folder, error) {
	maildir := filepath.Join(root, maildirName)
	names, err := folders(fsys, maildir)
	if err != nil {
		return nil, fmt.Errorf("make %s safe: %w", root, err)
	}
	done := make([]Folder, 0, len(names))
	for _, name := range names {
		f, err := folder(fsys, filepath.Join(maildir, name), taken, now)
		if err != nil {
			return done, fmt.Errorf("make %s safe: folder %q: %w", root, name, err)
		}
		f.Name = name
		done = append(done, f)
	}
	// The higher of this file and the mark beside it counts.
	ahead := fmt.Sprintf("%08x", uint32(min(max(now.Add(validityAhead).Unix(), 1), math.MaxUint32>>1)))
	if err := vfs.ReplaceFile(fsys, filepath.Join(maildir, validityName), []byte(ahead), 0o600); err != nil {
		return done, fmt.Errorf("make %s safe: %w", root, err)
	}
	return done, nil
}

// folders gives INBOX and those that are folders of Maildir++.
func folders(fsys vfs.FS, maildir string) ([]string, error) {
	names := []string{""}
	err := fsys.ReadDir(maildir, func(e fs.DirEntry) error {
		if n := e.Name(); e.IsDir() && strings.HasPrefix(n, ".") && !strings.HasPrefix(n, "..") {
			names = append(names, n)
		}
		return nil
	})
	return names, err
}

func folder(fsys vfs.FS, dir string, taken, now time.Time) (Folder, error) {
	list, have, err := uidlist.Load(fsys, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Folder{}, nil
	case errors.Is(err, uidlist.ErrCorrupt):
		return Folder{}, nil // the store begins another, under a higher UIDVALIDITY
	case err != nil:
		return Folder{}, err
	}
	next := uint64(list.Header().Next) + jump(now.Sub(taken))
	if next > mostNext {
		return Folder{}, vfs.Remove(fsys, filepath.Join(dir, uidlist.FileName))
	}
	if _, err := list.Ensure(have, nil, uint32(next)); err != nil {
		return Folder{}, err
	}
	modSeq, err := modSeqs(fsys, dir, list.Header(), now)
	return Folder{Next: uint32(next), ModSeq: modSeq}, err
}

// jump is by how much UIDNEXT goes ahead.
func jump(age time.Duration) uint64 {
	return jumpAtLeast + jumpPerSecond*uint64(max(age, 0)/time.Second)
}

func modSeqs(fsys vfs.FS, dir string, h uidlist.Header, now time.Time) (uint64, error) {
	s, err := state.Load(fsys, state.Folder{Dir: dir, GUID: h.GUID, Validity: h.Validity, Next: h.Next}, now, false)
	if err != nil {
		return 0, err
	}
	ahead := uint64(max(now.Add(modSeqAhead).Unix(), 1)) << 20
	if err := s.Apply(state.Change(max(ahead, s.Highest()+1))); err != nil {
		return 0, err
	}
	if err := s.Distrust(); err != nil {
		return 0, err
	}
	return s.Highest(), nil
}
