package mx

import (
	"errors"
	"time"

	"github.com/emersion/go-smtp"

	"waypost/director"
	"waypost/mx/relay"
	"waypost/mx/spool"
)

// firstRetry is how soon a spooled message is tried first: most of what hinders
// a delivery is a move's short busy time.
const firstRetry = time.Second

// reservation is the spool entry of those who were known to need one before
// the message's end, and the relay's of those outside; each nil: nobody was.
type reservation struct {
	entry *spool.Reservation
	has   map[*recipient]bool
	out   *relay.Reservation
}

// reserve makes the entries of whoever is for the spool already, and of those
// outside.
func (t *transaction) reserve(draft *spool.Draft) (*reservation, error) {
	h := &reservation{has: map[*recipient]bool{}}
	var err error
	if e, any := t.relayEnvelope(); any {
		if h.out, err = t.srv.relay.Reserve(draft, e); err != nil {
			return nil, err
		}
	}
	e := t.envelope()
	for _, r := range t.order {
		if r.status == later || r.dead != "" {
			h.has[r] = true
			e.Recipients = append(e.Recipients, r.spooled())
		}
	}
	if len(h.has) == 0 {
		return h, nil
	}
	if h.entry, err = t.srv.spool.Reserve(draft, e); err != nil {
		h.cancel(t)
		return nil, err
	}
	return h, nil
}

// cancel takes the entries back: the sender gets a refusal.
func (h *reservation) cancel(t *transaction) {
	var errs [2]error
	if h.entry != nil {
		errs[0] = h.entry.Cancel()
	}
	if h.out != nil {
		errs[1] = h.out.Cancel()
	}
	if err := errors.Join(errs[:]...); err != nil {
		t.log.Error("entry of a refused message stays until the restart, and is delivered then", "err", err)
	}
	h.entry, h.out = nil, nil
}

// noSpace is the answer when the spool or the relay cannot take what it must.
func (t *transaction) noSpace(draft *spool.Draft, delivered int, err error) *smtp.SMTPError {
	var limit *relay.LimitError
	if errors.As(err, &limit) {
		t.srv.met.messages.WithLabelValues("refused").Inc()
		t.log.Warn("message refused: the user's limit", "limit", limit.Limit, "per", limit.Per)
		return replyLimited(limit)
	}
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
		if !held.has[r] {
			more = append(more, r.spooled())
		}
	}
	var err error
	if held.entry != nil {
		err = held.entry.Commit(more, firstRetry)
		held.entry = nil // with an error it has ended, too
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
