package maildir

import (
	"errors"

	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
)

// What an Account has to make durable beside the journal, before another comes or the
// fence changes.

// flush brings everything into the files.
func (a *Account) flush() error {
	// What is put off is durable, whatever becomes of the rest.
	if err := errors.Join(a.catchUp(), a.settle(), a.catchUp()); err != nil {
		return err
	}
	// Who may touch the files again can make up for what could not be synced.
	if err := a.writable(); err != nil && !ownFault(err) {
		return errors.Join(err, a.syncCollected())
	}
	if err := a.syncRest(); err != nil {
		return err
	}
	return errors.Join(a.writable(), a.exactUsage())
}

// syncRest makes durable what the next Account of this user knows nothing of.
func (a *Account) syncRest() error {
	for _, f := range a.folders {
		f.doubtState()
	}
	return errors.Join(a.writeStates(), a.syncCollected(), a.syncLinked(), a.syncUnsure())
}

// keepsMore tells whether there is anything that only this Account knows, and that is
// not in the files, or may not last.
func (a *Account) keepsMore() bool {
	return a.lost || len(a.commits) > 0 || len(a.late.records) > 0 || len(a.unwritten) > 0 || len(a.linked) > 0 || len(a.unsynced) > 0 || len(a.unsure) > 0
}

// writeStates writes what could not be written of the folders' states.
func (a *Account) writeStates() error {
	for f := range a.unwritten {
		if err := f.writeState(); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) writeState() error {
	if !f.a.unwritten[f] {
		return nil
	}
	err := f.state.Apply()
	if isGone(err) {
		if there, statErr := isDirectory(f.a.fs, f.path()); statErr == nil && !there {
			err = nil // others have removed the folder
		}
	}
	if err == nil {
		delete(f.a.unwritten, f)
	}
	return err
}

// syncForeign makes durable what the state was told of the doings of others: the journal knows nothing of it.
// What cannot be written, on a full disk, can be looked at; it is tried again with every look.
func (f *folder) syncForeign() error {
	f.untold = true
	if err := f.writeState(); err != nil {
		f.a.o.Log.Warn("maildir: folder state not written", "root", f.a.o.Root, "folder", f.name, "error", err)
		return nil
	}
	if err := f.state.Sync(); err != nil {
		if errors.Is(err, state.ErrLost) {
			f.a.o.Journal.Fail(err)
		}
		if isGone(err) {
			return err // others have removed the folder, or the file: it is looked at again
		}
		return f.a.doubtSync(err)
	}
	f.untold = false
	return nil
}

// loadState reads the state. One that was begun, or mended, with an error may be seen
// here and not outlast a crash; then nothing may be told that it has given out.
func (f *folder) loadState() (err error) {
	path := f.path(state.FileName)
	if err := f.writeState(); err != nil {
		return err
	}
	f.doubtState()
	if f.a.unsure[path] {
		if err := f.a.syncUnsure(); err != nil {
			return err
		}
	}
	if f.state, err = state.Load(f.a.fs, stateOf(f.path(), f.list.Header()), f.a.o.Now(), false); err != nil {
		f.a.unsure[path] = true
	}
	return err
}

// stateOf says which folder's state it is.
func stateOf(dir string, h uidlist.Header) state.Folder {
	return state.Folder{Dir: dir, GUID: h.GUID, Validity: h.Validity, Next: h.Next}
}

// doubtState says of a state that is about to be forgotten that a crash may leave an
// older file than is seen.
func (f *folder) doubtState() {
	if f.state != nil && !f.gone && !f.state.Intact() {
		f.a.unsure[f.path(state.FileName)] = true
	}
}

// syncCollected makes durable what collect has done.
func (a *Account) syncCollected() error {
	for rel := range a.unsynced {
		for _, sub := range []string{"cur", "new"} {
			// A folder that was renamed or deleted meanwhile: that was synced.
			if err := a.fs.SyncDir(a.dir(rel) + "/" + sub); err != nil && !isGone(err) {
				return a.doubtSync(err)
			}
		}
		delete(a.unsynced, rel)
	}
	return nil
}
