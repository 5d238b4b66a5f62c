package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"waypost/internal/telemetry"
	"waypost/mx/spool"
	"waypost/mx/spool/entries"
)

// action is what a report says (RFC 3464, Section 2.3.3).
type action string

const (
	actionFailed  action = "failed"
	actionDelayed action = "delayed"
	actionRelayed action = "relayed"
)

// maxReturned bounds a message that is returned whole; of a longer one the
// header is returned.
const maxReturned = 10 << 20

// maxReturnedHeader bounds a returned header.
const maxReturnedHeader = 64 << 10

// report makes a delivery status notification for the user, and has it durable
// in the spool. Its id comes of what it says, so that saying it again after a
// crash is a no-op.
func (a *attempt) report(what action, rs []reported) error {
	parts := []string{a.env.ID, string(what)}
	for _, r := range rs {
		parts = append(parts, r.To)
	}
	slices.Sort(parts[2:])
	n := notification{Envelope: a.env, action: what, recipients: rs, hostname: a.q.deps.Hostname,
		id: derivedID("dsn", parts...), now: time.Now(), giveUp: a.env.started().Add(a.q.cfg.GiveUpAfter)}
	msg, err := a.q.store.Message(entries.Queue, a.env.ID)
	if err != nil {
		return err
	}
	defer msg.Close()
	d := a.q.deps.Inward.Draft()
	defer d.Discard()
	if err := n.write(d, msg); err != nil {
		return err
	}
	e := spool.Envelope{ID: n.id, Received: n.now, EightBit: n.EightBit || n.utf8(), UTF8: n.utf8(),
		Recipients: []spool.Recipient{{User: a.env.User, AccountCreated: a.env.UserCreated}}}
	if err := a.q.deps.Inward.Add(d, e, 0); err != nil && !exists(err) {
		return err
	}
	a.q.met.reports.WithLabelValues(string(what)).Inc()
	a.log.Info("report made", "delivery", n.id, "action", what, "user", a.env.User, "rcpts", len(rs))
	return nil
}

// notification is a report to be written (RFC 3464, and RFC 6533 where
// addresses are not ASCII).
type notification struct {
	Envelope
	action     action
	recipients []reported
	hostname   string
	id         string
	now        time.Time
	giveUp     time.Time
}

// utf8 reports whether the notification itself needs SMTPUTF8.
func (n *notification) utf8() bool {
	return n.UTF8 || !ascii(n.From) || slices.ContainsFunc(n.recipients, func(r reported) bool { return !ascii(r.To) || !ascii(r.Original) })
}

const dateForm = "Mon, 02 Jan 2006 15:04:05 -0700"

// write writes it, with CRLF line ends, and returns what RET wants of the
// message.
func (n *notification) write(w io.Writer, original io.Reader) error {
	boundary := "report-" + telemetry.NewID()
	global := ""
	if n.utf8() {
		global = "global-"
	}
	encoding := "7bit"
	if n.EightBit || n.utf8() {
		encoding = "8bit"
	}
	b := bufio.NewWriter(w)
	head := func(lines ...string) {
		for _, l := range lines {
			b.WriteString(l + "\r\n")
		}
	}
	head("From: Mail Delivery System <MAILER-DAEMON@"+n.hostname+">", "To: <"+n.clean(n.From)+">", "Subject: "+n.subject(),
		"Date: "+n.now.Format(dateForm), "Message-ID: <"+n.id+"@"+n.hostname+">", "Auto-Submitted: auto-replied", "MIME-Version: 1.0",
		"Content-Type: multipart/report; report-type="+global+"delivery-status;", "\tboundary=\""+boundary+"\"", "Content-Transfer-Encoding: "+encoding, "")
	head("--"+boundary, "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: "+encoding, "")
	n.text(b)
	head("--"+boundary, "Content-Type: message/"+global+"delivery-status", "Content-Transfer-Encoding: "+encoding, "")
	n.status(b)
	head("", "--"+boundary) // the blank line ends the last recipient's fields
	full := n.Return == "FULL" && n.action == actionFailed && n.Size <= maxReturned
	switch {
	case full && global != "":
		head("Content-Type: message/global")
	case full:
		head("Content-Type: message/rfc822")
	case global != "":
		head("Content-Type: message/global-headers")
	default:
		head("Content-Type: text/rfc822-headers")
	}
	head("Content-Transfer-Encoding: "+encoding, "")
	if err := n.returned(b, original, full); err != nil {
		return err
	}
	head("", "--"+boundary+"--")
	return b.Flush()
}

// returned copies the message, or its header, whose 8-bit bytes have no place
// in a notification that is not for them.
func (n *notification) returned(w *bufio.Writer, original io.Reader, full bool) error {
	if full {
		_, err := io.Copy(w, original)
		return err
	}
	r := bufio.NewReader(io.LimitReader(original, maxReturnedHeader))
	for {
		line, err := r.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		text := bytes.TrimRight(line, "\r\n")
		if len(text) == 0 || err != nil && len(line) < 1 {
			return nil
		}
		if !n.EightBit && !n.utf8() {
			text = bytes.Map(func(r rune) rune {
				if r >= utf8.RuneSelf {
					return '?'
				}
				return r
			}, text)
		}
		w.Write(text)
		w.WriteString("\r\n")
		if err != nil {
			return nil
		}
	}
}

func (n *notification) subject() string {
	switch n.action {
	case actionDelayed:
		return "Your message is delayed"
	case actionRelayed:
		return "Your message was sent on"
	}
	return "Your message could not be delivered"
}

// text is the part for people.
func (n *notification) text(b *bufio.Writer) {
	line := func(format string, a ...any) { fmt.Fprintf(b, format+"\r\n", a...) }
	line("This is the mail system at %s.", n.hostname)
	line("")
	switch n.action {
	case actionDelayed:
		line("Your message of %s has not been", n.Received.Format(dateForm))
		line("delivered yet to the recipients below. You need not send it again:")
		line("it is tried until %s.", n.giveUp.Format(dateForm))
	case actionRelayed:
		line("Your message was handed on for the recipients below. Their mail")
		line("system may send no further report.")
	default:
		line("Your message could not be delivered to the recipients below, and is")
		line("not tried again.")
	}
	for _, r := range n.recipients {
		line("")
		line("<%s>", n.clean(r.To))
		if r.remote {
			line("    the next mail system said: %s", n.clean(r.text))
		} else {
			line("    %s", n.clean(r.text))
		}
	}
	line("")
}

// status is the part for programs (RFC 3464, Section 2).
func (n *notification) status(b *bufio.Writer) {
	field := func(name, value string) { b.WriteString(name + ": " + value + "\r\n") }
	if n.EnvelopeID != "" {
		field("Original-Envelope-Id", n.clean(n.EnvelopeID))
	}
	field("Reporting-MTA", "dns; "+n.hostname)
	field("Arrival-Date", n.Received.Format(dateForm))
	for _, r := range n.recipients {
		b.WriteString("\r\n")
		if kind, address, ok := strings.Cut(r.Original, ";"); ok {
			field("Original-Recipient", n.clean(kind)+"; "+n.clean(address))
		}
		kind := "rfc822; "
		if !ascii(r.To) {
			kind = "utf-8; "
		}
		field("Final-Recipient", kind+n.clean(r.To))
		field("Action", string(n.action))
		field("Status", statusCode(r.status))
		if r.remote {
			field("Diagnostic-Code", "smtp; "+n.clean(r.text))
		} else if r.text != "" {
			field("Diagnostic-Code", "X-Waypost; "+n.clean(r.text))
		}
		field("Last-Attempt-Date", n.now.Format(dateForm))
		if n.action == actionDelayed {
			field("Will-Retry-Until", n.giveUp.Format(dateForm))
		}
	}
}

// statusCode is an enhanced code, which what is not one is replaced by.
func statusCode(s string) string {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || !strings.Contains("245", parts[0]) || len(parts[0]) != 1 {
		return "5.0.0"
	}
	for _, p := range parts[1:] {
		if len(p) == 0 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return "5.0.0"
		}
	}
	return s
}

// maxText bounds what others said in a report, in bytes.
const maxText = 500

// clean makes a foreign text fit for one line: no control characters, not too
// long, and ASCII unless the notification is for more.
func (n *notification) clean(s string) string {
	wide := n.utf8()
	s = strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r == 0x7f:
			return ' '
		case r >= utf8.RuneSelf && !wide, r == utf8.RuneError:
			return '?'
		}
		return r
	}, s)
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
