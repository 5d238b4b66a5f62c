package lmtp

import (
	"errors"
	"strconv"
	"strings"

	"waypost/backend/mailbox"
	"waypost/internal/wire"
)

// reply is an answer with its enhanced code (RFC 2034, RFC 3463). result is
// the label it is counted by.
type reply struct {
	code     int
	enhanced string
	text     string
	result   string
}

func (r reply) String() string { return string(r.append(nil)) }

// append adds the line as it is sent.
func (r reply) append(b []byte) []byte {
	b = append(strconv.AppendInt(b, int64(r.code), 10), ' ')
	if r.enhanced != "" {
		b = append(append(b, r.enhanced...), ' ')
	}
	return append(append(b, r.text...), crlf...)
}

// The results that are counted.
const (
	resultOK        = "ok"
	resultStale     = "stale"
	resultBusy      = "busy"
	resultRefused   = "refused"
	resultDisabled  = "disabled"
	resultOverQuota = "over_quota"
	resultTooLarge  = "too_large"
	resultNoSpace   = "no_space"
	resultMalformed = "malformed"
	resultRejected  = "rejected"
	resultError     = "error"
)

var (
	replyOK         = reply{code: 250, enhanced: "2.0.0", text: "OK"}
	replyMissing    = reply{451, "4.3.0", wire.WordStale + " home and epoch are missing", resultStale}
	replyDisabled   = reply{550, "5.2.1", "mailbox disabled", resultDisabled}
	replyTooLarge   = reply{552, "5.3.4", "message too large", resultTooLarge}
	replyLineEnds   = reply{554, "5.6.0", "bare CR or LF in the message", resultMalformed}
	replyBadMailbox = reply{553, "5.1.3", "not a mailbox address", resultMalformed}
	replyAlone      = reply{452, "4.5.3", wire.WordMayReject + " in a transaction of its own", resultRefused}
	replyTooMany    = reply{452, "4.5.3", "too many recipients", resultRefused}
	replySequence   = reply{code: 503, enhanced: "5.5.1", text: "bad sequence of commands"}
	replyNoMail     = reply{code: 503, enhanced: "5.5.1", text: "MAIL first"}
	replyNoRcpt     = reply{code: 503, enhanced: "5.5.1", text: "no valid recipients"}
)

// syntax is the answer to a command that cannot be read (RFC 5321, Section 4.2.2).
func syntax(text string) reply {
	return reply{code: 501, enhanced: "5.5.4", text: text, result: resultMalformed}
}

// errReply turns an error of the store into the answer for a recipient. What
// is not proven permanent is temporary, and no inner detail leaves the backend.
func errReply(err error) reply {
	switch {
	case err == nil:
		return reply{250, "2.0.0", "delivered", resultOK}
	case errors.Is(err, mailbox.ErrStale):
		return reply{451, "4.3.0", wire.WordStale + " look the user up again", resultStale}
	case errors.Is(err, mailbox.ErrFrozen):
		return reply{450, "4.2.1", wire.WordBusy + " the user is being moved", resultBusy}
	case errors.Is(err, mailbox.ErrRefused):
		return reply{451, "4.3.0", wire.WordRefused + " not now", resultRefused}
	case errors.Is(err, mailbox.ErrOverQuota):
		return reply{552, "5.2.2", "mailbox full", resultOverQuota}
	case errors.Is(err, mailbox.ErrTooLarge):
		return replyTooLarge
	case errors.Is(err, mailbox.ErrNoSpace):
		return reply{452, "4.3.1", "insufficient system storage", resultNoSpace}
	default:
		return reply{451, "4.3.0", "local error, try again later", resultError}
	}
}

// maxReason bounds what a script may say in a reply, in bytes of one line.
const maxReason = 400

// replyRejected is a script's refusal (RFC 5429, Section 2.1). What it says
// becomes one line: line ends, controls and what is not ASCII cannot stand in an
// SMTP reply.
func replyRejected(reason string) reply {
	text := strings.Map(func(r rune) rune {
		switch {
		case r == '\r' || r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, reason)
	text = strings.Join(strings.Fields(text), " ")
	return reply{550, "5.7.1", text[:min(len(text), maxReason)], resultRejected}
}
