package sharing

import (
	"context"
	"errors"
	"fmt"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/mount"
)

// Copy needs r here, and i there. Flags that may not be set there are left out.
func (f *folder) Copy(uids []mailbox.UID, to string) (mailbox.CopyResult, error) {
	return f.transfer(uids, to, "r", f.Folder.Copy, nil)
}

// Move needs t and e as well (RFC 6851, Section 3.1: it is COPY, STORE and EXPUNGE).
func (f *folder) Move(uids []mailbox.UID, to string) (mailbox.CopyResult, error) {
	return f.transfer(uids, to, "rte", f.Folder.Move, f.Folder.Expunge)
}

// transfer has the owner's mailbox do it, if it stays there and all flags may be set;
// else it copies message by message, and then does after with those here.
func (f *folder) transfer(uids []mailbox.UID, to, needs string, within func([]mailbox.UID, string) (mailbox.CopyResult, error), after func([]mailbox.UID) ([]mailbox.UID, error)) (none mailbox.CopyResult, err error) {
	if err := f.may(needs); err != nil {
		return none, err
	}
	has, err := f.b.Rights(to)
	if err != nil {
		return none, err
	}
	if !has.Has('i') {
		return none, f.b.denied(to, has)
	}
	if owner, name := split(to); owner == f.owner && free(has) {
		r, err := within(uids, name)
		return r, f.result(err)
	}
	r, err := f.across(uids, to)
	if err != nil || after == nil || len(r.Source) == 0 {
		return r, err
	}
	if _, err := after(r.Source); err != nil {
		return r, f.result(fmt.Errorf("move to %q: copied, but not expunged: %w", to, err))
	}
	return r, nil
}

// across copies messages through staged ones, all or none. Those that vanished are
// left out.
func (f *folder) across(uids []mailbox.UID, to string) (r mailbox.CopyResult, err error) {
	if len(uids) > mount.MaxTransfer {
		return r, fmt.Errorf("copy %d messages to %q: %w", len(uids), to, mount.ErrTooMany)
	}
	// A handle of its own, so that this one goes on knowing which UIDs it has shown.
	beside, err := f.m.Box.Folder(f.name)
	if err != nil {
		return r, f.result(err)
	}
	snap, err := beside.Snapshot()
	if err != nil {
		return r, f.result(err)
	}
	var all []mailbox.NewMessage
	defer func() {
		for _, m := range all {
			m.Message.Discard()
		}
	}()
	for _, uid := range uids {
		known := snap.Messages.Get(uid)
		if known == nil {
			continue
		}
		m, err := f.stage(uid)
		if errors.Is(err, mailbox.ErrNoMessage) {
			continue
		}
		if err != nil {
			return mailbox.CopyResult{}, f.result(fmt.Errorf("copy message %d to %q: %w", uid, to, err))
		}
		m.Flags = known.Flags
		all = append(all, m)
		r.Source = append(r.Source, uid)
	}
	if len(all) == 0 {
		return r, nil
	}
	done, err := f.b.Append(to, all)
	if err != nil {
		return mailbox.CopyResult{}, err
	}
	r.UIDValidity, r.Dest = done.UIDValidity, done.UIDs
	return r, nil
}

// stage takes one message out.
func (f *folder) stage(uid mailbox.UID) (m mailbox.NewMessage, err error) {
	if m.Date, err = f.Folder.InternalDate(uid); err != nil {
		return m, err
	}
	body, err := f.Folder.Open(uid)
	if err != nil {
		return m, err
	}
	defer body.Close()
	m.Message, err = f.b.src.Stage(f.b.ctx, "", body, 0)
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: %w", mailbox.ErrClosed, err)
	}
	return m, err
}
