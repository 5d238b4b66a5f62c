package mx

import (
	"time"

	"github.com/emersion/go-smtp"

	"waypost/director"
	"waypost/mx/spool"
)

// firstRetry is how soon a spooled message is tried first: most of what hinders
// a delivery is a move's short busy time.
const firstRetry = time.Second

// reservation is the spool entry of those who were known to need one before
// the message's end; nil: nobody was.
type reservation struct {
	entry *spool.Reservation
	has   map[*recipient]bool
}

// reserve makes the entry of whoever is for the spool already.
func (t *transaction) reserve(draft *spool.Draft) (*reservation, error) {
	h := &reservation{has: map[*recipient]bool{}}
	e := t.envelope()
	for _, r := range t.order {
		if r.status == later || r.dead != "" {
			h.has[r] = true
			e.Recipients = append(e.Recipients, r.spooled())
		}
	}
	if len(h.has) == 0 {
		return nil, nil
	}
	var err error
	h.entry, err = t.srv.spool.Reserve(draft, e)
	return h, err
}

// cancel takes the entry back: the sender gets a refusal.
func (h *reservation) cancel(t *transaction) {
	if h == nil {
		return
	}
	if err := h.entry.Cancel(); err != nil {
		t.log.Error("spool entry of a refused message stays until the restart, and is delivered then", "err", err)
	}
}

// noSpace is the answer when the spool cannot take what it must.
func (t *transaction) noSpace(draft *spool.Draft, delivered int, err error) *smtp.SMTPError {
	t.srv.met.messages.WithLabelValues("no_space").Inc()
	t.log.Error("message cannot be spooled: the sender keeps it", "bytes", draft.Size(), "delivered", delivered, "err", err)
	return replyNoSpace
}

func (t *transaction) envelope() spool.Envelope {
	return spool.Envelope{
		ID: t.id, Sender: t.sender, Received: t.trace.date, Client: t.from.addr.String(), Helo: t.from.helo,
		EightBit: t.eightBit, UTF8: t.utf8,
	}
}

// spooled is the recipient as the spool keeps it.
func (r *recipient) spooled() spool.Recipient {
	return spool.Recipient{
		User: r.user, Folder: r.folder, Home: r.home, AccountCreated: r.created, Epoch: r.epoch, Error: r.cause, Refused: r.dead,
	}
}

// spool makes durable who is left: in the entry that is held, or in a new one.
func (t *transaction) spool(draft *spool.Draft, held *reservation, left []*recipient) error {
	var more []spool.Recipient
	for _, r := range left {
		if r.status == refused && r.dead == "" {
			// Others have the message, so the sender gets 250, and after that
			// nothing is refused any more.
			r.reason = "refused_late"
		}
		if held == nil || !held.has[r] {
			more = append(more, r.spooled())
		}
	}
	var err error
	if held != nil {
		err = held.entry.Commit(more, firstRetry)
	} else {
		e := t.envelope()
		e.Recipients = more
		err = t.srv.spool.Add(draft, e, firstRetry)
	}
	if err != nil {
		return err
	}
	for _, r := range left {
		t.srv.met.deferred.WithLabelValues(r.reason).Inc()
		t.log.Info("recipient spooled", "user", r.user, "home", r.home, "reason", r.reason, "err", r.cause)
		// The change that it waits for may have come before it was spooled.
		if rec, known, _ := t.srv.dir.Location(r.user); known && r.reason == "busy" && rec.State == director.Active {
			t.srv.spool.Wake(r.user)
		}
	}
	return nil
}
