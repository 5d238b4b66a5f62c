package backend

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"waypost/backend/fence"
	"waypost/backend/journal"
	"waypost/backend/outbox"
	"waypost/director"
	"waypost/internal/vfs"
)

// JournalRepair is what RepairJournal did.
type JournalRepair struct {
	// Records were replayed for Users; OfOtherEpochs were not, for they are of
	// trees that have gone on without them (R2).
	Records       int             `json:"records"`
	OfOtherEpochs int             `json:"of_other_epochs"`
	Users         []director.User `json:"users"`
	// Losses is what a salvage left out.
	Losses []JournalLoss `json:"losses"`
	// Failed are users whose records could not be brought about as a whole.
	Failed []JournalFailure `json:"failed"`
	// Affected are users of whom records follow a loss: some before them may be
	// missing. Users of whom nothing follows may have lost changes, too: Served is
	// how many are served here.
	Affected []director.User `json:"affected"`
	Served   int             `json:"served"`
}

// JournalLoss is a stretch of the journal that was not legible.
type JournalLoss struct {
	File   string `json:"file"`
	Offset int64  `json:"offset_bytes"`
	Reason string `json:"reason"`
	// First and Last are the records lost; Last is 0 if nothing follows, and First
	// may be 0 if it is not known.
	First uint64 `json:"first_record"`
	Last  uint64 `json:"last_record"`
}

// JournalFailure is a user whose records could not be brought about.
type JournalFailure struct {
	User director.User `json:"user"`
	Text string        `json:"error"`
}

// ErrNoData: the folder is no backend's.
var ErrNoData = errors.New("not the data folder of a backend")

// RepairJournal replays the journal in the data folder of a backend that is
// stopped into the trees, as its start would, and leaves it empty. It takes the
// folder's lock, and so fails while the backend runs. With salvage it skips what
// is not legible, and says what that was; without, the journal is left as it is
// when any of it is damaged. It may be repeated after any error or crash.
func RepairJournal(data string, salvage bool, log *slog.Logger) (JournalRepair, error) {
	did := JournalRepair{Users: []director.User{}, Losses: []JournalLoss{}, Failed: []JournalFailure{}, Affected: []director.User{}}
	if _, err := os.Stat(filepath.Join(data, "VERSION")); err != nil {
		// A wrong path must not become a backend.
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrNoData
		}
		return did, fmt.Errorf("%s: %w", data, err)
	}
	d, lock, err := openDisk(data)
	if err != nil {
		return did, err
	}
	err = repairJournal(d, salvage, log, &did)
	return did, errors.Join(err, lock.Unlock())
}

func repairJournal(d disk, salvage bool, log *slog.Logger, did *JournalRepair) error {
	v := recovery{disk: d, fences: map[director.User]fence.Fence{}, log: log}
	fences, err := fence.OpenDir(d.fences())
	if err != nil {
		return err
	}
	err = fences.All(func(u director.User, f fence.Fence, err error) error {
		if err != nil {
			return err // its records would be taken for those of another epoch, and lost
		}
		v.fences[u] = f
		if f.State == fence.Serving {
			did.Served++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if v.outbox, err = outbox.Open(vfs.OS, d.outbox()); err != nil {
		return err
	}
	v.journal, err = journal.Open(journal.Options{FS: vfs.OS, Dir: d.journal(), Sync: d.root, Log: log, Salvage: salvage})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if !v.journal.Clean() {
		_, err = d.viewsRun(false, "") // what a repair leaves out is in no view
	}
	if err == nil {
		err = v.repair(salvage, did)
	}
	if err == nil {
		err = v.journal.Start()
	}
	return errors.Join(err, v.journal.Close())
}

// repair replays, and finds out what is lost.
func (v recovery) repair(salvage bool, did *JournalRepair) error {
	losses := v.journal.Losses()
	affected := map[director.User]bool{}
	v.each = func(rec journal.Record) {
		for _, l := range losses {
			unknown := l.After == 0 && l.Before == 0
			if unknown || l.Before > 0 && rec.LSN >= l.Before {
				affected[director.User(rec.User)] = true
			}
		}
	}
	if salvage {
		v.failed = func(u director.User, err error) error {
			did.Failed = append(did.Failed, JournalFailure{u, err.Error()})
			return nil
		}
	}
	got, err := v.replay()
	did.Records, did.OfOtherEpochs = got.Records, got.Skipped
	did.Users = append(did.Users, got.Users...)
	slices.Sort(did.Users)
	for u := range affected {
		did.Affected = append(did.Affected, u)
	}
	slices.Sort(did.Affected)
	for _, l := range losses {
		loss := JournalLoss{File: l.File, Offset: l.Offset, Reason: l.Reason, First: uint64(l.After) + 1}
		if l.Before > 0 {
			loss.Last = uint64(l.Before) - 1
		}
		if l.After == 0 && l.Before == 0 {
			loss.First = 0
		}
		did.Losses = append(did.Losses, loss)
	}
	return err
}
