package maildir

import "waypost/backend/mailbox"

var _ mailbox.Peeker = (*handle)(nil)

// Peek is mailbox.Peeker's. New messages get UIDs, and stay in new.
func (h *handle) Peek() (all mailbox.Messages, err error) {
	err = h.b.do("look at folder", func() error {
		if err := h.f.sync(); err != nil {
			return err
		}
		if err := h.f.durable(); err != nil {
			return err
		}
		h.validity = h.f.list.Header().Validity
		all = h.f.msgs
		return nil
	})
	return all, err
}
