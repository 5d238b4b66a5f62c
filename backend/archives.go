package backend

import (
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/archive"
	"waypost/backend/mailbox/mount"
	"waypost/internal/vfs"
)

// openArchives makes what the settings tell of archives.
func (b *Server) openArchives() (err error) {
	b.archives, err = archive.New(archive.Options{FS: vfs.OS, Log: b.log, Now: time.Now}, b.cfg.Archives)
	return err
}

// withArchives shows a user's archives beside the mailbox, whose folders have the names that
// clients know. What it gives is closed instead of the handle.
func (b *Server) withArchives(box mailbox.Box) mailbox.Box {
	h, ok := box.(*handle)
	if !ok || len(b.cfg.Archives) == 0 && !b.naming.Inbox {
		return box
	}
	var mounts []mount.Mount
	for _, x := range b.archives.Open(archive.Owner{User: h.u.name, Epoch: h.epoch, Root: b.disk.live(h.u.name), Guard: h.guard, Done: h.Done()}) {
		mounts = append(mounts, mount.Mount{Prefix: x.Name + string(mailbox.Separator), Kind: mailbox.Personal, Box: x.Box})
	}
	return mount.New(box, mount.Options{Stage: b.Stage, Log: b.log, Inbox: b.naming.Inbox}, mounts...)
}

// guard runs op under the user's lock, if the fence still serves the handle's epoch
// (R1).
func (h *handle) guard(op func() error) error {
	leave, err := h.u.Enter(h.epoch)
	if err != nil {
		return err
	}
	defer leave()
	return op()
}
