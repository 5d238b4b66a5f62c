// Package search is IMAP's SEARCH, SORT and THREAD from the arguments to the answer: RFC 3501
// and 9051 (Section 6.4.4), ESEARCH (RFC 4731), SEARCHRES (RFC 5182), PARTIAL (RFC 9394), WITHIN
// (RFC 5032), CONDSTORE's MODSEQ (RFC 7162), SAVEDATE (RFC 8514), OBJECTID's keys (RFC
// 8474), SORT and THREAD (RFC 5256), ESORT and CONTEXT=SEARCH (RFC 5267), SORT=DISPLAY (RFC 5957), THREAD=REFS
// and I18NLEVEL=1 (RFC 5255), and what UIDONLY forbids of it (RFC 9586).
//
// Parse reads the arguments, Query.Run looks through a View, Result.Write answers. A Query
// and a Result hold no resources; a Query may run more than once, one run at a time is
// one goroutine. The package keeps no state and writes none.
//
// # What costs what
//
// A key is decided as cheaply as it can be, in rounds over the whole tree of keys with
// three-valued logic: first what is in memory (numbers, flags, sizes, mod-sequences); then dates,
// and the fields that the index keeps; then fields that it does not keep, for which the message is
// opened; at last texts. A message is opened once at most, and read through once for all
// strings of the search. Runs look at their context between messages, let others run, and hold
// one of Env.Slots while a message is open.
//
// # How texts are compared
//
// Strings are found as substrings under i;unicode-casemap (package collate), in header fields
// as readers see them (encoded words decoded) and in text parts with transfer encoding and
// charset undone. BODY looks into texts only; TEXT also into all headers, those of parts and enclosed
// messages included, names and values.
package search

import (
	"context"
	"errors"
	"iter"
	"time"

	"waypost/backend/imap/order"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// Span is a run of indices, Hi excluded.
type Span struct{ Lo, Hi int }

// View is what a session knows of its folder. It must not change while a Query runs, nor
// until the Result is written. Errors of its methods end the search, but for
// mailbox.ErrNoMessage: that message does not match.
type View interface {
	Len() int
	// From gives the messages from index i (sequence number - 1) on, with their flags as
	// the session knows them.
	From(i int) iter.Seq2[int, *mailbox.Message]
	// Resolve gives the messages that a set names, in order and not overlapping; numbers
	// that name nothing are passed over. A set that is Saved is the last result.
	Resolve(set syntax.Set, byUID bool) []Span
	Recent(uid mailbox.UID) bool
	InternalDate(uid mailbox.UID) (time.Time, error)
	// SaveDate is zero where the folder knows none.
	SaveDate(uid mailbox.UID) (time.Time, error)
	EmailID(uid mailbox.UID) (string, error)
	// ThreadID is "" where there is none (NIL).
	ThreadID(uid mailbox.UID) (string, error)
	Meta(uid mailbox.UID) (*mailbox.Meta, error)
	Open(uid mailbox.UID) (mailbox.Body, error)
}

// HeaderView is implemented by Views that get at some header fields for less than a
// whole Meta.
type HeaderView interface {
	// Headers prepares the reading of fields, all of them kept by the index (index.Kept),
	// given in lower case. The function calls each for every such field of a message, in the
	// header's order, Cut ones included; the Field and its strings are valid during the call
	// only, and it must not use the View.
	Headers(names []string) func(uid mailbox.UID, each func(*mime.Field)) error
}

// TextIndex is implemented by Views with an index of texts.
type TextIndex interface {
	// Candidates gives UIDs, rising: at least all messages of the view in which needle may
	// be found (body: without headers). It is prepared by collate.Key. ok is false where the
	// index cannot tell. What it gives is verified.
	Candidates(ctx context.Context, needle string, body bool) (uids []mailbox.UID, ok bool)
}

// Command is one of the three, UID or not.
type Command uint8

// The commands.
const (
	Search Command = iota
	Sort
	Thread
)

// Options are what the session's state says to a command.
type Options struct {
	// ByUID: the command is UID SEARCH, UID SORT or UID THREAD.
	ByUID bool
	// Rev2: IMAP4rev2 is enabled, SEARCH is answered by ESEARCH (RFC 9051, Section
	// 6.4.4).
	Rev2 bool
	// UTF8: UTF8=ACCEPT is enabled: SEARCH has no CHARSET (RFC 6855, Section 3).
	UTF8 bool
	// UIDOnly: sequence numbers are forbidden (RFC 9586).
	UIDOnly bool
}

// Errors of Parse, besides *syntax.SyntaxError (BAD) and those of the connection.
var (
	// ErrUIDRequired: BAD [UIDREQUIRED] (RFC 9586, Section 3).
	ErrUIDRequired = errors.New("message numbers are not to be used with UIDONLY")
	// ErrTooMuch: NO [LIMIT] (RFC 9051, Section 7.1).
	ErrTooMuch = errors.New("too many search keys")
)

// CharsetError is a charset that is not known: NO with Code.
type CharsetError struct{ Name string }

// Error implements error.
func (e *CharsetError) Error() string { return "the character set is not supported" }

// Env is what a run has from its caller.
type Env struct {
	// Slots is the user's share of what bounds how many messages are open at a time: a run has
	// one of it while it has a message open. Nil: no bound.
	Slots *Share
	// Progress, if not nil, is called now and then, with messages as the unit (RFC 9585).
	Progress func(done, total int)
	// Among, if not nil, are the only messages to look at.
	Among []Span
	// Now is what OLDER and YOUNGER count from; zero is the present.
	Now time.Time
}

// Query is a command's arguments.
type Query struct {
	command Command
	opts    Options
	ret     returns
	sort    []order.Criterion
	thread  algorithm
	keys    *key // an and
	modseq  bool
}

// ModSeq reports that the query has a MODSEQ key, which enables CONDSTORE (RFC 7162, Section
// 3.1).
func (q *Query) ModSeq() bool { return q.modseq }

// Save reports that the result is to be saved as "$" (RFC 5182): Result.Saved if the
// command is answered with OK, nothing at all if with NO.
func (q *Query) Save() bool { return q.ret.save }
