package memory

import "waypost/backend/mailbox"

var _ mailbox.Peeker = (*handle)(nil)

// Peek implements mailbox.Peeker.
func (h *handle) Peek() (mailbox.Messages, error) {
	if err := h.lock("look at"); err != nil {
		return mailbox.Messages{}, err
	}
	defer h.unlock()
	h.uidValidity = h.folder.uidValidity
	return h.folder.msgs, nil
}
