package lmtp

import (
	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/wire"
)

// transaction is what MAIL and RCPT have said. Its boxes are open until close.
type transaction struct {
	sender string
	mailParams
	rcpts []recipient
	// failed is the answer of a BDAT chunk that could not be stored: the rest
	// of the message is discarded and ends in that answer.
	failed *reply
}

// recipient is one accepted RCPT. The same user may be there several times.
type recipient struct {
	box    mailbox.Box
	to     string
	folder string
	force  bool
	// tooLate: a rejection could not be said to anybody any more.
	tooLate bool
}

func (tx *transaction) close() {
	for _, r := range tx.rcpts {
		r.box.Close()
	}
	tx.rcpts = nil
}

// mail begins a transaction (RFC 5321, Section 4.1.1.2).
func (s *session) mail(args string) {
	if !s.greeted || s.tx != nil {
		s.say(replySequence)
		return
	}
	rest, ok := cutPrefixFold(args, "FROM:")
	if !ok {
		s.say(syntax("MAIL FROM:<address>"))
		return
	}
	sender, rest, ok := parsePath(rest)
	if !ok {
		s.say(reply{code: 501, enhanced: "5.1.7", text: "malformed sender"})
		return
	}
	params, bad, ok := parseMailParams(rest)
	switch {
	case !ok:
		s.say(bad)
	case params.delivery == "":
		// Without an id a repetition would be a second copy.
		s.say(reply{code: 451, enhanced: "4.3.0", text: wire.WordRefused + " the delivery id is missing"})
	case !params.utf8 && !isASCII(sender):
		s.say(reply{code: 553, enhanced: "5.6.7", text: "the sender needs SMTPUTF8"})
	case s.tooLarge(params.size):
		s.say(replyTooLarge)
	default:
		s.tx = &transaction{sender: sender, mailParams: params}
		s.say(reply{code: 250, enhanced: "2.1.0", text: "OK"})
	}
}

func (s *session) tooLarge(size int64) bool {
	limit := s.srv.opt.MaxMessage
	return limit > 0 && size > limit
}

// rcpt answers for one recipient (RFC 5321, Section 4.1.1.3).
func (s *session) rcpt(args string) {
	if s.tx == nil || s.tx.failed != nil {
		s.say(replyNoMail)
		return
	}
	r := s.recipient(args)
	s.srv.met.recipients.WithLabelValues(r.result).Inc()
	if r.code >= 300 {
		s.log.Info("recipient refused", "id", s.tx.delivery, "reply", r.String(), "result", r.result)
	}
	s.say(r)
}

// recipient adds a recipient to the transaction, or says why not.
func (s *session) recipient(args string) reply {
	rest, ok := cutPrefixFold(args, "TO:")
	if !ok {
		return syntax("RCPT TO:<address>")
	}
	path, rest, ok := parsePath(rest)
	if !ok || path == "" {
		return replyBadMailbox
	}
	params, bad, ok := parseRcptParams(rest)
	if !ok {
		return bad
	}
	if len(s.tx.rcpts) >= s.srv.opt.Limits.Recipients {
		return replyTooMany
	}
	base, folder := director.SplitSubaddress(unquote(path))
	user, err := director.ParseUser(base)
	if err != nil {
		return replyBadMailbox
	}
	if !params.looked {
		return replyMissing
	}
	return s.admit(user, unquote(path), folder, params)
}

// admit opens the box and asks it. What an mx has accepted before is neither
// disabled nor over quota any more.
func (s *session) admit(user director.User, to, folder string, p rcptParams) reply {
	box, err := s.srv.opt.Store.Open(s.ctx, user, p.home, p.epoch)
	if err != nil {
		s.unexpected("open", user, err)
		return errReply(err)
	}
	// After Open: only where the user lives is it said for good.
	if disabled, known := s.srv.opt.Accounts(user); known && disabled && !p.accepted {
		box.Close()
		return replyDisabled
	}
	if !p.accepted {
		if err := box.Fits(s.tx.size); err != nil {
			box.Close()
			s.unexpected("quota", user, err)
			return errReply(err)
		}
	}
	r := recipient{box: box, to: to, folder: folder, force: p.accepted, tooLate: p.accepted || p.reject == wire.RejectNever}
	mayReject := !r.tooLate && s.srv.opt.Filter != nil && s.srv.opt.Filter.MayReject(box)
	if mayReject && p.reject == wire.RejectLater {
		box.Close()
		return replyAlone
	}
	s.tx.rcpts = append(s.tx.rcpts, r)
	if mayReject {
		return reply{250, "2.1.5", wire.WordMayReject + " OK", resultOK}
	}
	return reply{250, "2.1.5", "OK", resultOK}
}

// unexpected logs what the reply does not tell.
func (s *session) unexpected(op string, user director.User, err error) {
	if errReply(err).result == resultError {
		s.log.Error("lmtp: "+op+" failed", "user", string(user), "err", err)
	}
}
