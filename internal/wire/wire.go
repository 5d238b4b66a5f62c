// Package wire holds the words that tiers say to one another: the greeting a
// proxy sends when it opens a session on a backend, and the LMTP extension by
// which an mx names the home and epoch it looked up. Both sides import it; it
// knows nothing of either.
package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Hello opens a session: one JSON line from proxy to backend, answered by one
// Welcome line. After an ok come the protocol's own bytes: IMAP begins with the
// backend's PREAUTH greeting line (RFC 9051, Section 7.1.4), POP3 in the
// TRANSACTION state without a line.
//
// A connection (ALPN waypost-session/1) begins with a Hello of ProtocolFrames, which
// names no user: many sessions share it, each with a Hello of its own (package
// frames). A backend of before refuses that with a Welcome without a version; the
// proxy then takes a connection for each session, as one of before does, whose bytes
// follow the Welcome as they are. Backends serve both.
type Hello struct {
	Version  int    `json:"v"`
	Protocol string `json:"protocol"` // "imap" or "pop3"
	User     string `json:"user"`
	Home     string `json:"home"`
	Epoch    uint64 `json:"epoch"`
	// Client is the client's address, "ip:port".
	Client string `json:"client"`
	// Session ties the tiers' logs together.
	Session string `json:"session"`
	// POP3 is what was settled before the login; nil in other protocols.
	POP3 *POP3 `json:"pop3,omitempty"`
	// HandOff, in a Hello of ProtocolFrames: this proxy takes hand-offs. Unless the
	// Welcome has it as well, sessions end with their backend.
	HandOff bool `json:"handoff,omitempty"`
	// Try rises with each Hello of one session: one that comes late, after its proxy has given
	// it up and asked again, must not end the session that the proxy has. 0: a proxy of before.
	Try uint64 `json:"try,omitempty"`
}

// POP3 is what a proxy and a client of POP3 have settled in the AUTHORIZATION
// state, and what holds in the TRANSACTION state.
type POP3 struct {
	// UTF8: the client has said UTF8 (RFC 6856, Section 2.1).
	UTF8 bool `json:"utf8,omitempty"`
	// Capabilities are those of the login, as the proxy announced them: CAPA
	// shows them after it too (RFC 2449, Section 5).
	Capabilities []string `json:"capabilities,omitempty"`
}

// Status is a backend's answer to Hello.
type Status string

const (
	// StatusOK: the session has begun.
	StatusOK Status = "ok"
	// StatusStale: (home, epoch) is not served; re-read the directory.
	StatusStale Status = "stale"
	// StatusBusy: the user is being moved; wait until the record is active.
	StatusBusy Status = "busy"
	// StatusInUse: another session holds the POP3 maildrop (RFC 1939, Section 4).
	StatusInUse Status = "in_use"
	// StatusRefused: not now; hold, do not loop.
	StatusRefused Status = "refused"
	// StatusUnresumable: the session that was handed off cannot go on, here or
	// elsewhere, now or later; Text is the reason, one word for metrics.
	StatusUnresumable Status = "unresumable"
)

// Welcome answers a Hello. Text is for logs and metrics, never for clients.
type Welcome struct {
	Status Status `json:"status"`
	Text   string `json:"text,omitempty"`
	// Version is VersionFrames in the answer to a Hello of ProtocolFrames.
	Version int `json:"v,omitempty"`
	// HandOff, in that answer: this backend makes and takes hand-offs.
	HandOff bool `json:"handoff,omitempty"`
}

// MaxLine bounds a Hello or Welcome line in bytes.
const MaxLine = 4096

// Versions of Hello that are spoken: of one session, and of a connection of frames.
const (
	Version       = 1
	VersionFrames = 2
)

// ProtocolFrames is the Hello's protocol for a connection of frames.
const ProtocolFrames = "frames"

// ErrLine is a line that is not a Hello or Welcome.
var ErrLine = errors.New("malformed session line")

// Write sends v, a Hello or a Welcome, as one line.
func Write(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b)+1 > MaxLine {
		return fmt.Errorf("%d bytes: %w", len(b), ErrLine)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Read receives a Hello or a Welcome into v. r keeps what follows the line.
func Read(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxLine {
			return ErrLine
		}
		if err == nil {
			break
		}
		if err != bufio.ErrBufferFull {
			return err
		}
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: %w", ErrLine, err)
	}
	return nil
}

// The LMTP extension between mx and backend (ALPN waypost-lmtp/1). The backend
// announces ExtWaypost in its LHLO answer; all parameters are required there.
const (
	ExtWaypost = "XWAYPOST"
	// ParamDelivery on MAIL FROM: the delivery id (RFC 5321 esmtp-value).
	ParamDelivery = "XDELIVERY"
	// ParamHome and ParamEpoch on RCPT TO: what the sender looked up.
	ParamHome  = "XHOME"
	ParamEpoch = "XEPOCH"
	// ParamAccepted on RCPT TO: "1" when an mx has said 250 for this message
	// before, so that quota and disabling refuse it no more.
	ParamAccepted = "XACCEPTED"
	// ParamReject on RCPT TO says what a rejection by the user's script would
	// meet: RejectLater, there are other recipients, so a user whose script may
	// reject is to be refused with 452 4.5.3 for now; RejectNever, nobody could be
	// told, so such a message is kept. Absent: it can be said.
	ParamReject = "XREJECT"
	RejectLater = "later"
	RejectNever = "never"
)

// Replies of the extension start their text with one of these words, after the
// enhanced code, so that the mx needs to guess nothing.
const (
	// WordStale: as StatusStale. "451 4.3.0 [STALE] ..."
	WordStale = "[STALE]"
	// WordBusy: as StatusBusy. "450 4.2.1 [BUSY] ..."
	WordBusy = "[BUSY]"
	// WordRefused: as StatusRefused. "451 4.3.0 [REFUSED] ..."
	WordRefused = "[REFUSED]"
	// WordMayReject in the 250 of a RCPT: the user's script may refuse the
	// message at its end, so the mx takes no other recipient beside this one.
	WordMayReject = "[MAYREJECT]"
)

// ReplyWord finds the extension's word in a reply text, or "".
func ReplyWord(text string) string {
	for _, w := range []string{WordStale, WordBusy, WordRefused, WordMayReject} {
		if strings.Contains(text, w) {
			return w
		}
	}
	return ""
}
