package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"waypost/backend/fence"
	"waypost/backend/fulltext"
	"waypost/backend/mailbox"
	"waypost/director"
)

// What Config.FullText may be.
const (
	fullTextOff   = "off"
	fullTextUsers = "users"
	fullTextAll   = "all"
)

// textRoom is how much of the disk text indexes leave free, at most: a twentieth of a small one.
const textRoom = 10 << 30

// textsRoom tells whether the disk has room for text indexes.
func (b *Server) textsRoom() bool {
	size, free, err := b.disk.room()
	return err == nil && free > min(size/20, textRoom)
}

// indexesTexts tells whether a user has an index of texts.
func (b *Server) indexesTexts(name director.User) bool {
	switch b.cfg.FullText {
	case fullTextAll:
		return true
	case fullTextUsers:
		a, _, known := b.cache.Account(name)
		return known && a.FullText
	}
	return false
}

// lease gives the user's index of texts, or nil. Called under mu, while the fence serves.
func (u *user) lease() *fulltext.Lease {
	if !u.b.indexesTexts(u.name) {
		return nil
	}
	return u.b.texts.Lease(u.name, u.b.disk.live(u.name))
}

// openTexts is what the worker of text indexes opens mailboxes with.
func (b *Server) openTexts(ctx context.Context, name director.User) (mailbox.Box, *fulltext.Lease, error) {
	u := b.use(name)
	u.mu.Lock()
	f := u.fence
	u.mu.Unlock()
	b.release(u)
	if f.State != fence.Serving {
		return nil, nil, fmt.Errorf("user %s: fence is %s: %w", name, f, mailbox.ErrStale)
	}
	box, err := b.Open(ctx, name, b.cfg.ID, f.Epoch)
	if err != nil {
		return nil, nil, err
	}
	h, ok := box.(*handle)
	if !ok {
		return box, nil, nil
	}
	return box, h.texts, nil
}

// textIndex is the index of texts of a session's Box; nil if there is none.
func textIndex(box mailbox.Box) mailbox.TextIndex {
	if h, ok := box.(*handle); ok && h.texts != nil {
		return h.texts
	}
	return nil
}

// Deliver implements mailbox.Box: what comes is indexed later, and how long it took
// is told to movers.
func (h *handle) Deliver(ctx context.Context, d mailbox.Delivery) error {
	begun := time.Now()
	err := h.Box.Deliver(ctx, d)
	h.b.load.deliveries.since(begun)
	if err != nil || h.texts == nil {
		return err
	}
	for _, p := range d.Places {
		folder := p.Folder
		if folder == "" {
			folder = mailbox.Inbox
		}
		h.b.texts.Delivered(h.u.name, folder)
	}
	return nil
}

// validFullText checks the setting.
func validFullText(s string) error {
	if all := []string{fullTextOff, fullTextUsers, fullTextAll}; !slices.Contains(all, s) {
		return fmt.Errorf("%q: want one of %q", s, all)
	}
	return nil
}
