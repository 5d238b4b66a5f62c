package maildir

import (
	"waypost/backend/mailbox"
	"waypost/backend/maildir/uidlist"
)

var _ mailbox.OlderIDs = (*handle)(nil)

// OlderIDs is mailbox.OlderIDs'. To Dovecot the whole base names a message, the
// sizes in it included, unless the uidlist has another GUID.
func (h *handle) OlderIDs() (ids map[mailbox.UID]mailbox.OlderID, err error) {
	err = h.b.do("read unique ids", func() error {
		if err := h.sync(); err != nil {
			return err
		}
		ids = make(map[mailbox.UID]mailbox.OlderID, h.f.msgs.Len())
		for _, m := range h.f.msgs.All() {
			base := refBase(m.Ref)
			id := mailbox.OlderID{GUID: base, File: base}
			e := uidlist.Entry{Fields: h.f.fields[m.UID]}
			id.Kept, _ = e.Field('P')
			if guid, ok := e.Field('G'); ok && guid != "" {
				id.GUID = guid
			}
			ids[m.UID] = id
		}
		return nil
	})
	return ids, err
}
