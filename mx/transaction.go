package mx

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/emersion/go-smtp"

	"waypost/director"
	"waypost/director/cache"
	"waypost/internal/lmtp"
	"waypost/internal/wire"
)

// transaction is one message, from MAIL to the answer at its end. It is used
// by one goroutine at a time.
type transaction struct {
	srv      *Server
	log      *slog.Logger // with the delivery id
	id       string
	sender   string
	size     int64 // as the sender said; 0: not known
	eightBit bool
	utf8     bool
	from     client
	trace    traceInfo

	rcpts []string // the accepted RCPTs, as given
	users map[director.User]*recipient
	order []*recipient
	legs  map[director.BackendID]*leg
	down  map[director.BackendID]error // homes that could not be reached
	// alone: the recipient's script may reject the message. There is one answer
	// after it, so there is nobody else.
	alone bool

	out outward
}

// status is how a recipient stands.
type status int

const (
	refused  status = iota // reply says why
	accepted               // by its home; leg will tell
	later                  // for the spool; reason says why
)

// recipient is one mailbox of a transaction.
type recipient struct {
	user    director.User
	folder  string
	home    director.BackendID
	created time.Time      // of the account, if known
	epoch   director.Epoch // of the record that it was accepted by
	status  status
	reply   *smtp.SMTPError // refused
	reason  string          // later: a label of recipients_deferred_total
	cause   string          // later: for the log and the operator
	listed  bool            // one of several of its address
	leg     *leg            // accepted
	// dead: refused as a member of a list that others took; why it is a dead
	// letter.
	dead string
}

// rcpt decides one RCPT TO. It is refused only if nobody it leads to takes the
// mail, now or later.
func (t *transaction) rcpt(ctx context.Context, address string, opts *smtp.RcptOptions, relay *smtp.SMTPError) *smtp.SMTPError {
	if err := lmtp.CheckAddress(address); err != nil {
		// No home could be told of it, and after 250 nothing is refused.
		t.srv.met.refused.WithLabelValues("other").Inc()
		t.log.Info("recipient refused", "err", err)
		return replyBadMailbox
	}
	res, err := t.srv.resolve(ctx, address)
	leaving, err := t.leaving(ctx, address, res, err)
	if err != nil {
		return t.resolveError(address, err, relay)
	}
	if len(t.order)+len(res.Recipients)+len(t.out.rcpts)+len(leaving) > t.srv.cfg.MaxUsers {
		t.srv.met.refused.WithLabelValues("too_many").Inc()
		return replyTooManyUsers
	}
	if t.alone && (len(leaving) > 0 || slices.ContainsFunc(res.Recipients, func(to cache.Recipient) bool { return t.users[to.User] == nil })) {
		t.srv.met.refused.WithLabelValues("alone").Inc()
		return replyTooManyUsers
	}
	if reply := t.limited(len(leaving)); reply != nil {
		return reply
	}
	wait, cancel := context.WithTimeout(ctx, t.srv.cfg.BusyWait)
	defer cancel()
	var refusals []*recipient
	taken := 0
	for _, to := range res.Recipients {
		r := t.users[to.User]
		if r == nil {
			r = t.place(ctx, wait, to, len(res.Recipients)+len(leaving) > 1)
		}
		if r.status == refused {
			refusals = append(refusals, r)
		} else {
			taken++
		}
	}
	if taken+len(leaving) == 0 {
		return t.refuse(address, refusals)
	}
	t.addOutside(leaving, opts)
	if taken > 0 {
		t.notifyLocal(address, opts)
	}
	for _, r := range refusals { // members of a list that others of got it
		t.member(address, r)
	}
	if len(res.Unresolved) > len(leaving) {
		t.log.Warn("members of an alias lead nowhere", "address", address, "members", res.Unresolved)
	}
	t.rcpts = append(t.rcpts, address)
	return nil
}

func (t *transaction) resolveError(address string, err error, relay *smtp.SMTPError) *smtp.SMTPError {
	reason, reply := "directory", replyDirectory
	switch {
	case errors.Is(err, cache.ErrUnknownDomain):
		reason, reply = "relay", relay
	case errors.Is(err, cache.ErrUnknownUser):
		reason, reply = "unknown", replyNoUser
	case errors.Is(err, errCannotLeave):
		reason, reply = "other", replyBadMailbox
	case errors.Is(err, cache.ErrExpansion):
		reason, reply = "expansion", replyExpansion
	}
	t.srv.met.refused.WithLabelValues(reason).Inc()
	t.log.Info("recipient refused", "rcpt", address, "reason", reason, "err", err)
	return reply
}

// refuse answers a RCPT that nobody took: permanently only if all refused
// permanently.
func (t *transaction) refuse(address string, rs []*recipient) *smtp.SMTPError {
	reply := rs[0].reply
	for _, r := range rs {
		if !permanent(r.reply) {
			reply = r.reply
		}
	}
	t.srv.met.refused.WithLabelValues(refusalReason(reply)).Inc()
	t.log.Info("recipient refused", "rcpt", address, "users", len(rs), "reply", reply.Code, "err", reply)
	return reply
}

func refusalReason(r *smtp.SMTPError) string {
	switch r.EnhancedCode {
	case smtp.EnhancedCode{5, 1, 1}:
		return "unknown"
	case smtp.EnhancedCode{5, 2, 1}:
		return "disabled"
	case smtp.EnhancedCode{5, 2, 2}, smtp.EnhancedCode{4, 2, 2}:
		return "over_quota"
	}
	if permanent(r) {
		return "other"
	}
	return "temporary"
}

// member deals with the refusal of a list's member whose list was accepted, so
// that the sender will not hear of it: what is temporary or a matter of quota
// is delivered from the spool, all else becomes a dead letter there.
func (t *transaction) member(address string, r *recipient) {
	switch {
	case r.dead != "":
	case !permanent(r.reply):
		t.setLater(r, "temporary", r.reply)
	case refusalReason(r.reply) == "over_quota":
		t.setLater(r, "over_quota", r.reply)
	default:
		r.dead, r.reason, r.cause = "as a member of "+address+": "+r.reply.Message, "member", r.reply.Error()
		t.srv.met.lostMembers.Inc()
		t.log.Warn("a member of a list refuses its mail", "address", address, "user", r.user, "err", r.reply)
	}
}

// place finds a recipient's home and asks it. wait bounds the waiting for a
// user that is being moved. listed: it is one of several of its address.
func (t *transaction) place(ctx, wait context.Context, to cache.Recipient, listed bool) *recipient {
	r := &recipient{user: to.User, folder: to.Folder, listed: listed}
	if a, _, ok := t.srv.dir.Account(to.User); ok {
		r.created = a.Created
	}
	t.users[to.User] = r
	t.order = append(t.order, r)
	t.ask(ctx, wait, r)
	return r
}

var errStaleTwice = errors.New("refused as stale twice")

// maxAsks bounds how often one recipient's record may change under our hands.
const maxAsks = 6

func (t *transaction) ask(ctx, wait context.Context, r *recipient) {
	var staleAt director.Record
	rec, err := t.locate(ctx, r)
	for range maxAsks {
		switch {
		case errors.Is(err, director.ErrNotFound), err == nil && rec.State == director.Deleted:
			r.status, r.reply = refused, replyNoUser
			return
		case err != nil:
			t.setLater(r, "directory", err)
			return
		}
		r.home, r.epoch = rec.Home, rec.Epoch
		if rec.State == director.Busy {
			if rec, err = t.srv.dir.WaitChange(wait, r.user, rec.Epoch); err != nil {
				t.setLater(r, "busy", err)
				return
			}
			continue
		}
		switch t.askHome(ctx, r, rec) {
		case wire.WordStale:
			t.srv.met.staleOnce.Inc()
			if rec == staleAt { // R11
				t.srv.alarmStale(t.log, r.user, rec)
				t.setLater(r, "stale", errStaleTwice)
				return
			}
			staleAt = rec
			rec, err = t.fresh(ctx, r)
		case wordMoved:
			rec, err = t.locate(ctx, r)
		case wire.WordBusy:
			if rec, err = t.srv.dir.WaitChange(wait, r.user, rec.Epoch); err != nil {
				t.setLater(r, "busy", err)
				return
			}
		default:
			return
		}
	}
	t.setLater(r, "busy", errors.New("the record keeps changing"))
}

func (t *transaction) locate(ctx context.Context, r *recipient) (director.Record, error) {
	if rec, known, _ := t.srv.dir.Location(r.user); known {
		return rec, nil
	}
	return t.fresh(ctx, r)
}

// fresh reads linearizably who the user is, too: what the memory said of the
// account may have been another person's.
func (t *transaction) fresh(ctx context.Context, r *recipient) (director.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, t.srv.cfg.DirectoryTimeout)
	defer cancel()
	rec, a, exists, err := t.srv.dir.FreshUser(ctx, r.user)
	if err == nil && exists {
		r.created = a.Created
	}
	return rec, err
}

// wordMoved is askHome's own: the record changed while a home was asked that
// has no fence.
const wordMoved = "moved"

// askHome sends the RCPT, and sets what becomes of r, unless it returns the
// word that wants another look at the directory.
func (t *transaction) askHome(ctx context.Context, r *recipient, rec director.Record) (word string) {
	l, reply, err := t.sendRcpt(ctx, r, rec)
	if err != nil {
		t.away(r, err)
		return ""
	}
	switch word := wire.ReplyWord(reply.Text); {
	case reply.OK():
		r.status, r.leg = accepted, l
		t.alone = t.alone || word == wire.WordMayReject
		l.rcpts = append(l.rcpts, r)
	case l.kind == director.KindWaypost && (word == wire.WordStale || word == wire.WordBusy):
		return word
	case l.kind == director.KindWaypost && word == wire.WordRefused:
		t.setLater(r, "refused", errors.New(reply.String()))
	case reply.Code == 421:
		t.lose(l, errors.New(reply.String()))
		t.away(r, errors.New(reply.String()))
	case l.kind != director.KindWaypost && permanent(passOn(reply)):
		return t.foreignRefusal(ctx, r, rec, reply)
	default:
		r.status, r.reply = refused, passOn(reply)
		t.log.Info("a home refused", "user", r.user, "home", rec.Home, "reply", reply.String())
	}
	return ""
}

// reject tells a home what a rejection by the recipient's script would meet: the
// sender has one answer for all recipients.
func (t *transaction) reject(r *recipient) string {
	switch {
	case r.listed:
		return wire.RejectNever
	case len(t.order) > 1 || len(t.out.rcpts) > 0:
		return wire.RejectLater
	}
	return ""
}

// foreignRefusal deals with a permanent refusal of a home that has no fence: it
// counts only if the user lives there still, which a stale memory cannot tell.
func (t *transaction) foreignRefusal(ctx context.Context, r *recipient, rec director.Record, reply lmtp.Reply) (word string) {
	now, err := t.fresh(ctx, r)
	switch {
	case errors.Is(err, director.ErrNotFound):
		r.status, r.reply = refused, replyNoUser
	case err != nil:
		r.status, r.reply = refused, replyDirectory
	case now != rec:
		return wordMoved
	default:
		r.status, r.reply = refused, passOn(reply)
	}
	t.log.Info("a foreign home refused", "user", r.user, "home", rec.Home, "reply", reply.String(), "err", err)
	return ""
}

// sendRcpt sends RCPT over the home's leg, and MAIL before it if it is the
// first. A MAIL that is refused is the recipient's refusal.
func (t *transaction) sendRcpt(ctx context.Context, r *recipient, rec director.Record) (*leg, lmtp.Reply, error) {
	if err := t.down[rec.Home]; err != nil {
		return nil, lmtp.Reply{}, err
	}
	if l := t.legs[rec.Home]; l != nil {
		to := rcptTo(l.kind, r.user, r.folder, rec, false, t.reject(r))
		reply, err := l.Rcpt(to.To, to.Params...)
		if errors.Is(err, lmtp.ErrSyntax) { // nothing was sent
			return l, replyUnwritable, nil
		}
		if err != nil {
			t.lose(l, err)
		}
		return l, reply, err
	}
	l, reply, err := t.open(ctx, r, rec, false)
	if err != nil && l != nil && l.reused {
		l, reply, err = t.open(ctx, r, rec, true)
	}
	if err != nil {
		t.down[rec.Home] = err
		t.log.Warn("home is away", "home", rec.Home, "err", err)
	}
	return l, reply, err
}

// replyUnwritable stands for a home's, which cannot be told of the address.
var replyUnwritable = lmtp.Reply{Code: 553, Enhanced: "5.1.3"}

func (t *transaction) open(ctx context.Context, r *recipient, rec director.Record, fresh bool) (*leg, lmtp.Reply, error) {
	c, err := t.srv.homes.get(ctx, rec.Home, t.from, fresh)
	if err != nil {
		return nil, lmtp.Reply{}, err
	}
	l := newLeg(c)
	to := rcptTo(c.kind, r.user, r.folder, rec, false, t.reject(r))
	mail, rcpt, err := c.MailRcpt(t.sender, mailParams(c.kind, t.id, t.size, t.eightBit, t.utf8), []lmtp.Recipient{to})
	switch {
	case errors.Is(err, lmtp.ErrSyntax): // nothing was sent
		t.srv.homes.put(c)
		return l, replyUnwritable, nil
	case err != nil:
		c.Close()
		return l, lmtp.Reply{}, err
	case !mail.OK():
		c.Close()
		return l, mail, nil
	}
	t.legs[rec.Home] = l
	return l, rcpt[0], nil
}

// lose gives up a leg before the message: who was accepted there is for later.
func (t *transaction) lose(l *leg, why error) {
	l.Close()
	delete(t.legs, l.id)
	t.down[l.id] = why
	for _, r := range l.rcpts {
		t.setLater(r, "away", why)
	}
	t.log.Warn("home is lost", "home", l.id, "err", why)
}

// away is for a user whose home cannot be asked: it exists, so its mail is
// accepted, unless the directory itself says that it is disabled; for good only
// if its memory is not stale.
func (t *transaction) away(r *recipient, why error) {
	a, _, ok := t.srv.dir.Account(r.user)
	if !ok || !a.Disabled {
		t.setLater(r, "away", why)
		return
	}
	r.status, r.reply = refused, replyDisabled
	if _, _, stale := t.srv.dir.Location(r.user); stale {
		r.reply = replyMaybeOff
	}
}

func (t *transaction) setLater(r *recipient, reason string, why error) {
	r.status, r.reason, r.cause, r.leg = later, reason, why.Error(), nil
}

// close ends what is open at the homes, without delivering.
func (t *transaction) close() {
	for _, l := range t.legs {
		l.Close()
	}
	t.legs = nil
}
