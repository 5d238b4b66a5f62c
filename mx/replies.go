package mx

import (
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"waypost/internal/lmtp"
)

// answer makes a reply of go-smtp's.
func answer(code int, enhanced, text string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: code, EnhancedCode: enhancedCode(code, enhanced), Message: text}
}

func enhancedCode(code int, s string) smtp.EnhancedCode {
	ec := smtp.EnhancedCode{code / 100, 0, 0}
	if parts := strings.Split(s, "."); len(parts) == 3 {
		for i := 1; i < 3; i++ {
			ec[i], _ = strconv.Atoi(parts[i])
		}
	}
	return ec
}

// The replies of the mx itself. Senders read them: they tell what to do, and
// nothing of the inside.
var (
	replyRelay        = answer(550, "5.7.1", "Relaying denied")
	replyNoOutbound   = answer(550, "5.7.1", "This cluster does not deliver to other domains: no smarthost is configured")
	replyNotYours     = answer(550, "5.7.1", "Sender is not an address of the account that is logged in")
	replyNoUser       = answer(550, "5.1.1", "No such user here")
	replyDisabled     = answer(550, "5.2.1", "Mailbox disabled")
	replyDirectory    = answer(451, "4.3.0", "Recipient cannot be looked up now, try again later")
	replyExpansion    = answer(451, "4.3.5", "Recipient is not set up rightly, try again later")
	replyTooManyUsers = answer(452, "4.5.3", "Too many recipients")
	replyLater        = answer(451, "4.3.0", "Try again later")
	replyShutdown     = answer(421, "4.3.2", "Shutting down, try again later")
	replyRefusals     = answer(421, "4.7.0", "Too many unknown recipients, closing")
	replyHello        = answer(503, "5.5.1", "EHLO first")
	replyNested       = answer(503, "5.5.1", "One message at a time: RSET first")
	replyNoMail       = answer(503, "5.5.1", "MAIL and RCPT first")
	replyNeedTLS      = answer(530, "5.7.0", "STARTTLS first")
	replyNeedAuth     = answer(530, "5.7.0", "Authentication required")
	replyBadMailbox   = answer(553, "5.1.3", "Recipient address is not usable")
	replyMaybeOff     = answer(450, "4.2.1", "Mailbox may be disabled, try again later")
	replyBadSender    = answer(553, "5.1.7", "Sender address is not usable")
	replyNeedUTF8     = answer(553, "5.6.7", "Address needs SMTPUTF8")
	replyBare         = answer(554, "5.6.0", "Bare CR or LF in the message (RFC 5321, Section 2.3.8), closing")
	replyLoop         = answer(554, "5.4.6", "Too many Received lines: a mail loop")
	replyLongLine     = answer(554, "5.6.0", "Line too long, closing")
	replyBroken       = answer(421, "4.4.2", "Connection failed inside the message")
	replyNoSpace      = answer(452, "4.3.1", "Insufficient system storage, try again later")
)

// texts are what senders read for a backend's enhanced code: ours, since a
// backend's own may tell too much.
var texts = map[string]string{
	"5.1.1": "No such user here",
	"5.1.3": "Recipient address is not usable",
	"5.2.1": "Mailbox disabled",
	"5.2.2": "Mailbox full",
	"4.2.2": "Mailbox full, try again later",
	"5.3.4": "Message too large",
	"4.3.1": "Insufficient system storage, try again later",
	"4.5.3": "Too many recipients",
	"5.6.0": "Message is malformed",
	"5.7.1": "Refused by the recipient",
}

// passOn makes the reply to the sender of a backend's refusal. What is not a
// refusal of the recipient or the message, but of our own commands, is not
// proven permanent.
func passOn(r lmtp.Reply) *smtp.SMTPError {
	ours := r.Code <= 504 || r.Code == 555 // 50z: syntax and sequence (RFC 5321, Section 4.2.2)
	if !r.Permanent() || ours {
		if r.Code/100 != 4 || r.Code == 421 {
			return replyLater
		}
		return answer(r.Code, orElse(r.Enhanced, "4.3.0"), orElse(texts[r.Enhanced], "Try again later"))
	}
	if r.Enhanced == "5.7.1" && sayable(r.Text) {
		return answer(r.Code, r.Enhanced, r.Text) // a user's script has its own words
	}
	return answer(r.Code, orElse(r.Enhanced, "5.0.0"), orElse(texts[r.Enhanced], "Refused by the recipient's server"))
}

// sayable tells whether a home's words can stand in a reply of ours.
func sayable(text string) bool {
	return text != "" && len(text) <= 400 && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func permanent(e *smtp.SMTPError) bool { return e.Code/100 == 5 }
