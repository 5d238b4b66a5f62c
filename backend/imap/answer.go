package imap

import (
	"errors"
	"strings"

	"waypost/backend/imap/fetch"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// answer is a tagged response that is not OK, as an error of the command.
type answer struct {
	kind string // "NO" or "BAD"
	code string // a response code without its brackets (RFC 5530; RFC 9051, Section 7.1), or ""
	text string
}

// Error implements error.
func (a *answer) Error() string { return a.kind + " " + a.text }

// no is a NO that is the client's affair.
func no(code, text string) error { return &answer{"NO", code, text} }

// bad is a command that can never be right.
func bad(text string) error { return &answer{"BAD", "", text} }

// fenced reports that the mailbox is not this session's any more.
func fenced(err error) bool {
	return errors.Is(err, mailbox.ErrStale) || errors.Is(err, mailbox.ErrFrozen) ||
		errors.Is(err, mailbox.ErrRefused) || errors.Is(err, mailbox.ErrClosed)
}

// renumbered reports that the UIDs the client knows are not the folder's.
func renumbered(err error) bool {
	return errors.Is(err, errView) || errors.Is(err, mailbox.ErrRenumbered)
}

// plain are the mailbox's errors that a client can do something about, or that
// at least concern it.
func plain(err error) error {
	for _, c := range []struct {
		err        error
		code, text string
	}{
		{mailbox.ErrAway, "UNAVAILABLE", "the mailbox's owner is being moved, please try again"},
		{mailbox.ErrNoFolder, "NONEXISTENT", "no such mailbox"},
		{mailbox.ErrFolderExists, "ALREADYEXISTS", "mailbox exists already"},
		{mailbox.ErrTooManyFolders, "LIMIT", "too many mailboxes"},
		{mailbox.ErrBadName, "CANNOT", "mailbox name not possible"},
		{mailbox.ErrOverQuota, "OVERQUOTA", "over quota"},
		{mailbox.ErrTooLarge, "TOOBIG", "message too large"},
		{mailbox.ErrNoMessage, "EXPUNGEISSUED", "some of the messages no longer exist"},
		{mailbox.ErrReadOnly, "NOPERM", "the mailbox is read-only"},
		{mailbox.ErrNoRight, "NOPERM", "permission denied"},
		{mailbox.ErrUse, "USEATTR", "special use not possible"},
		{mailbox.ErrTooMuchMetadata, "METADATA TOOMANY", "too many or too large entries"},
	} {
		if errors.Is(err, c.err) {
			return no(c.code, c.text)
		}
	}
	return nil
}

// fail turns an error of the mailbox into the answer to a command: errEnded, where the
// session must end.
func (s *session) fail(err error) error {
	var a *answer
	var se *syntax.SyntaxError
	var ce *connError
	switch {
	case err == nil, errors.As(err, &a), errors.As(err, &se), errors.As(err, &ce):
		return err
	case errors.Is(err, errEnded), errors.Is(err, errLogout), errors.Is(err, syntax.ErrLiteral),
		errors.Is(err, syntax.ErrTooBig), errors.Is(err, fetch.ErrBroken):
		return err
	case s.out.Err() != nil:
		return s.out.Err()
	case fenced(err):
		return s.end(endMoving)
	case renumbered(err):
		return s.end(endFolder)
	}
	if a := plain(err); a != nil {
		return a
	}
	if s.c.ending() != endNone {
		return s.end(endStopping) // it failed because the session must end
	}
	s.srv.metrics.failures.Inc()
	s.log.Warn("imap command failed", "command", s.running, "error", err)
	if errors.Is(err, mailbox.ErrNoSpace) {
		return no("UNAVAILABLE", "no space, please try again later")
	}
	return no("UNAVAILABLE", "temporary failure, please try again")
}

// failInto is fail where a missing folder could be made (RFC 9051, Section
// 6.3.12: TRYCREATE).
func (s *session) failInto(err error) error {
	if errors.Is(err, mailbox.ErrNoFolder) && !errors.Is(err, mailbox.ErrAway) {
		return no("TRYCREATE", "no such mailbox")
	}
	return s.fail(err)
}

// end gives the error that ends the session with a BYE.
func (s *session) end(why ending) error {
	s.c.end(why)
	return errEnded
}

// folderName takes INBOX in any case, also as the first part of a name.
func folderName(name string) string {
	first, rest, sub := strings.Cut(name, string(mailbox.Separator))
	if !strings.EqualFold(first, mailbox.Inbox) {
		return name
	}
	if sub {
		return mailbox.Inbox + string(mailbox.Separator) + rest
	}
	return mailbox.Inbox
}
