package backend

import (
	"context"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/archive"
	"waypost/backend/mailbox/mount"
	"waypost/backend/sharing"
	"waypost/director"
)

// notShared is the setting of shared_namespace that shows nothing.
const notShared = "-"

// validShared takes the name of the namespace; "" stands for the default.
func validShared(name string, archives []archive.Config) error {
	odd := func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune("/.%*", r) }
	switch {
	case name == "" || name == notShared:
		return nil
	case len(name) > 64 || !utf8.ValidString(name) || strings.ContainsFunc(name, odd) || strings.EqualFold(name, mailbox.Inbox) || strings.TrimSpace(name) != name:
		return fmt.Errorf("%q: say a folder's name, without '/', '.', '%%' and '*'", name)
	}
	for _, a := range archives {
		if a.Name == name {
			return fmt.Errorf("%q: that is an archive's name", name)
		}
	}
	return nil
}

// withShared shows what the other members of a user's sharing group share beside the
// mailbox. What it gives is closed instead of the mailbox. Who is put into a group
// sees it from the next session on.
func (b *Server) withShared(box mailbox.Box) mailbox.Box {
	if b.cfg.SharedNamespace == notShared || b.cache.Group(box.User()) == "" {
		return box
	}
	return mount.New(box, mount.Options{Stage: b.Stage, Log: b.log}, mount.Mount{
		Prefix: b.cfg.SharedNamespace + string(mailbox.Separator), Kind: mailbox.OtherUsers,
		Box: sharing.New(box.User(), members{b}, b.shares, b.log),
	})
}

// members are those of sharing groups, by this backend's view of the directory.
type members struct{ b *Server }

var _ sharing.Source = members{}

// Others implements sharing.Source.
func (m members) Others(viewer director.User) []director.User {
	group := m.b.cache.Group(viewer)
	if group == "" {
		return nil
	}
	var here []director.User
	for _, u := range m.b.cache.Members(group) {
		if len(here) == director.MaxGroupMembers {
			break
		}
		if _, ok := m.served(u); ok && u != viewer {
			here = append(here, u)
		}
	}
	return here
}

// served tells at which epoch this backend serves a user.
func (m members) served(u director.User) (director.Epoch, bool) {
	r, known, _ := m.b.cache.Location(u)
	return r.Epoch, known && r.Home == m.b.cfg.ID && r.State == director.Active
}

// Shares implements sharing.Source.
func (m members) Shares(viewer, owner director.User) bool {
	group := m.b.cache.Group(viewer)
	return group != "" && viewer != owner && m.b.cache.Group(owner) == group
}

// Epoch implements sharing.Source.
func (m members) Epoch(viewer, owner director.User) (director.Epoch, bool) {
	epoch, here := m.served(owner)
	return epoch, here && m.Shares(viewer, owner)
}

// Coming implements sharing.Source. An owner whose home is another backend, and whose record is
// active there, comes only if he is moved anew.
func (m members) Coming(viewer, owner director.User) bool {
	r, known, _ := m.b.cache.Location(owner)
	_, here := m.served(viewer)
	return here && known && (r.State == director.Busy || r.State == director.Active && r.Home == m.b.cfg.ID) && m.Shares(viewer, owner)
}

// Open implements sharing.Source. It never asks the directory: who lists what others
// share must not wait for each of them.
func (m members) Open(owner director.User, epoch director.Epoch) (mailbox.Box, error) {
	u := m.b.use(owner)
	h, err := u.open(epoch)
	if err != nil {
		m.b.release(u)
		return nil, err
	}
	return h, nil
}

// Stage implements sharing.Source.
func (m members) Stage(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error) {
	return m.b.Stage(ctx, header, r, max)
}

// ACLs gives what sharing.ACLs asks for.
func (h *handle) ACLs() (map[string]mailbox.ACL, error) { return sharing.ACLs(h.Box) }
