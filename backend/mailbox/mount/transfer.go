package mount

import (
	"context"
	"errors"
	"fmt"

	"waypost/backend/index"
	"waypost/backend/mailbox"
)

// folder is a folder under the name it has here.
type folder struct {
	mailbox.Folder
	b *box
	m *Mount
}

// Name is mailbox.Folder's.
func (f *folder) Name() string { return f.m.outer(f.Folder.Name()) }

// Reader is mailbox.Indexed's.
func (f *folder) Reader() mailbox.Reader { return index.ReaderOf(f.Folder) }

// Copy is mailbox.Folder's.
func (f *folder) Copy(uids []mailbox.UID, to string) (mailbox.CopyResult, error) {
	m, inner, err := f.b.resolve(to)
	if err != nil {
		return mailbox.CopyResult{}, err
	}
	if m == f.m {
		return f.Folder.Copy(uids, inner)
	}
	return f.across(uids, m, inner)
}

// Move is mailbox.Folder's.
func (f *folder) Move(uids []mailbox.UID, to string) (mailbox.CopyResult, error) {
	m, inner, err := f.b.resolve(to)
	if err != nil {
		return mailbox.CopyResult{}, err
	}
	if m == f.m {
		return f.Folder.Move(uids, inner)
	}
	// Who may not expunge is told before anything is copied.
	if _, err := f.Folder.Expunge(nil); err != nil {
		return mailbox.CopyResult{}, err
	}
	r, err := f.across(uids, m, inner)
	if err != nil || len(r.Source) == 0 {
		return r, err
	}
	if _, err := f.Folder.Expunge(r.Source); err != nil {
		return r, fmt.Errorf("move to %q: copied, but not expunged: %w", to, err)
	}
	return r, nil
}

// across copies messages to another Box. Those that vanished are left out.
func (f *folder) across(uids []mailbox.UID, m *Mount, to string) (r mailbox.CopyResult, err error) {
	if len(uids) > MaxTransfer {
		return r, fmt.Errorf("copy %d messages to %q: %w", len(uids), m.outer(to), ErrTooMany)
	}
	if _, err := m.Box.Folder(to); err != nil {
		return r, err
	}
	// A handle of its own, so that this one goes on knowing which UIDs it has shown.
	// Were these others by now, opening them fails.
	beside, err := f.m.Box.Folder(f.Folder.Name())
	if err != nil {
		return r, err
	}
	snap, err := beside.Peek()
	if err != nil {
		return r, err
	}
	var all []mailbox.NewMessage
	defer func() {
		for _, x := range all {
			x.Message.Discard()
		}
	}()
	for _, uid := range uids {
		known := snap.Messages.Get(uid)
		if known == nil {
			continue
		}
		one, err := f.stage(uid)
		if errors.Is(err, mailbox.ErrNoMessage) {
			continue
		}
		if err != nil {
			return mailbox.CopyResult{}, fmt.Errorf("copy message %d to %q: %w", uid, m.outer(to), err)
		}
		one.Flags = known.Flags
		all = append(all, one)
		r.Source = append(r.Source, uid)
	}
	if len(all) == 0 {
		return r, nil
	}
	done, err := m.Box.Append(to, all)
	if err != nil {
		return mailbox.CopyResult{}, err
	}
	r.UIDValidity, r.Dest = done.UIDValidity, done.UIDs
	return r, nil
}

// stage takes one message out.
func (f *folder) stage(uid mailbox.UID) (one mailbox.NewMessage, err error) {
	if one.Date, err = f.Folder.InternalDate(uid); err != nil {
		return one, err
	}
	body, err := f.Folder.Open(uid)
	if err != nil {
		return one, err
	}
	defer body.Close()
	one.Message, err = f.b.o.Stage(f.b.ctx, "", body, 0)
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: %w", mailbox.ErrClosed, err)
	}
	return one, err
}
