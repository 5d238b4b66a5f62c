package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

// Deliver implements mailbox.Box. All happens under the user's lock, and what
// can fail comes first.
func (b *box) Deliver(ctx context.Context, d mailbox.Delivery) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.lock("deliver to"); err != nil {
		return err
	}
	defer b.user.mu.Unlock()
	u := b.user
	if u.delivered[d.ID] {
		return nil
	}
	for _, key := range d.Assumes {
		if time.Now().Before(u.memories[key]) {
			return fmt.Errorf("deliver to %s: %q: %w", u.name, key, mailbox.ErrMemory)
		}
	}
	if !d.Force && len(d.Places) > 0 {
		var bytes int64
		for _, p := range d.Places {
			bytes += messageOf(d, p).Size()
		}
		if err := u.fits(bytes, int64(len(d.Places))); err != nil {
			return err
		}
	}
	u.delivered[d.ID] = true
	now := time.Now()
	edits := make(map[*folder]*mailbox.Editor)
	for _, p := range d.Places {
		f := u.place(p)
		if edits[f] == nil {
			edits[f] = f.msgs.Edit()
		}
		f.append(edits[f], messageOf(d, p), p.Flags, now)
	}
	for f, e := range edits {
		f.commit(e)
	}
	u.outbound = append(u.outbound, d.Outbound...)
	for _, m := range d.Memories {
		u.memories[m.Key] = m.Until
	}
	return nil
}

func messageOf(d mailbox.Delivery, p mailbox.Place) mailbox.Staged {
	if p.Message != nil {
		return p.Message
	}
	return d.Message
}

// place finds or makes the folder for a copy; INBOX if that cannot be.
func (u *user) place(p mailbox.Place) *folder {
	if f := u.folders[p.Folder]; f != nil {
		return f
	}
	if p.Create {
		err := u.create(p.Folder, p.Use)
		if errors.Is(err, mailbox.ErrUse) {
			err = u.create(p.Folder, "")
		}
		if err == nil {
			return u.folders[p.Folder]
		}
	}
	return u.folders[mailbox.Inbox]
}

// Remembers implements mailbox.Box.
func (b *box) Remembers(key string) (bool, error) {
	if err := b.lock("memories of"); err != nil {
		return false, err
	}
	defer b.user.mu.Unlock()
	return time.Now().Before(b.user.memories[key]), nil
}

// Outbound gives what the user's deliveries have sent out so far. Their
// messages can still be opened.
func (s *Store) Outbound(u director.User) []mailbox.Outbound {
	usr := s.user(u)
	if usr == nil {
		return nil
	}
	usr.mu.Lock()
	defer usr.mu.Unlock()
	return slices.Clone(usr.outbound)
}

// Append implements mailbox.Box.
func (b *box) Append(name string, all []mailbox.NewMessage) (mailbox.AppendResult, error) {
	if err := b.lock("append for"); err != nil {
		return mailbox.AppendResult{}, err
	}
	defer b.user.mu.Unlock()
	f := b.user.folders[name]
	if f == nil {
		return mailbox.AppendResult{}, fmt.Errorf("append to %q of %s: %w", name, b.user.name, mailbox.ErrNoFolder)
	}
	var size int64
	for _, m := range all {
		size += m.Message.Size()
	}
	if err := b.user.fits(size, int64(len(all))); err != nil {
		return mailbox.AppendResult{}, err
	}
	r := mailbox.AppendResult{UIDValidity: f.uidValidity}
	e := f.msgs.Edit()
	for _, m := range all {
		if m.Date.IsZero() {
			m.Date = time.Now()
		}
		r.UIDs = append(r.UIDs, f.append(e, m.Message, m.Flags, m.Date))
	}
	if len(all) > 0 {
		f.commit(e)
	}
	return r, nil
}
