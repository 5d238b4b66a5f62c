// Package reply writes the messages that Sieve actions ask for: vacation
// replies (RFC 5230, Section 5) and mailto notifications (RFC 5436, Section 2.7). A
// reject needs none: it is said in the sender's session.
//
// It owns nothing and keeps no state. Each function gives a whole message (RFC
// 5322) with CRLF line ends, 7-bit unless an address or the entity of
// "vacation :mime" is not, with Date, Message-ID and Auto-Submitted, so that no
// other machine answers it. Who the envelope sender is, each function says.
// Nothing a script or a message brings can add header fields of its own.
package reply

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"time"

	"waypost/backend/sieve"
)

// Meta is what a message needs beside the action.
type Meta struct {
	// Now is the message's date; zero is the present, in UTC.
	Now time.Time
	// Domain stands behind the @ of the Message-ID: this host's name.
	Domain string
}

// ErrNullSender: whoever has no return path gets no reply (RFC 5321, Section
// 4.5.5).
var ErrNullSender = errors.New("the message has no sender to reply to")

// message is a message being written.
type message struct{ bytes.Buffer }

// BuildVacation writes a vacation reply; its envelope sender is null.
func BuildVacation(v *sieve.Vacation, meta Meta) ([]byte, error) {
	if v.To == "" {
		return nil, ErrNullSender
	}
	var m message
	m.start(meta)
	m.address("From", v.From)
	m.address("To", v.To)
	m.text("Subject", v.Subject)
	m.plain("In-Reply-To", v.InReplyTo)
	m.plain("References", v.References)
	m.plain("Auto-Submitted", "auto-replied (vacation)")
	m.plain("MIME-Version", "1.0")
	if !v.MIME {
		m.body(v.Reason)
		return m.Bytes(), nil
	}
	err := m.entity(v.Reason)
	return m.Bytes(), err
}

// BuildNotify writes a notification. Its envelope sender is null if
// n.NullSender says so, else n.From; it goes to n.To.
func BuildNotify(n *sieve.Notify, meta Meta) ([]byte, error) {
	if len(n.To) == 0 {
		return nil, errors.New("the notification has no recipient")
	}
	var m message
	// The owner lets whoever gets it find out where it comes from.
	owner := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(clean(n.Owner))
	m.plain("Auto-Submitted", `auto-notified; owner-email="`+owner+`"`)
	m.start(meta)
	m.address("From", n.From)
	m.addresses("To", n.HeaderTo)
	m.addresses("Cc", n.HeaderCc)
	if len(n.HeaderTo)+len(n.HeaderCc) == 0 {
		m.plain("To", "undisclosed-recipients:;")
	}
	m.text("Subject", n.Subject)
	m.plain("References", n.References)
	switch n.Importance {
	case '1':
		m.plain("Importance", "high")
		m.plain("X-Priority", "1 (Highest)")
	case '3':
		m.plain("Importance", "low")
		m.plain("X-Priority", "5 (Lowest)")
	}
	for _, f := range n.Fields {
		m.text(f.Name, f.Value)
	}
	m.plain("MIME-Version", "1.0")
	m.body(n.Body)
	return m.Bytes(), nil
}

func (m *message) start(meta Meta) {
	now := meta.Now
	if now.IsZero() {
		now = time.Now().UTC()
	}
	m.plain("Date", now.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	m.plain("Message-ID", "<"+strings.ToLower(rand.Text())+"@"+clean(meta.Domain)+">")
}

// plain writes a field that needs no encoding; an empty one is left out.
func (m *message) plain(name, value string) {
	if value != "" {
		m.WriteString(name + ": " + value + "\r\n")
	}
}

// text writes a field of free text, folded and encoded (RFC 2047).
func (m *message) text(name, value string) {
	value = clean(value)
	if !ascii(value) || strings.Contains(value, "=?") {
		value = mime.QEncoding.Encode("utf-8", value)
	}
	line := len(name) + 1
	m.WriteString(name + ":")
	for i, word := range strings.Split(value, " ") {
		if i > 0 && word != "" && line+1+len(word) > 78 {
			m.WriteString("\r\n")
			line = 0
		}
		m.WriteString(" " + word)
		line += 1 + len(word)
	}
	m.WriteString("\r\n")
}

func (m *message) address(name, value string) { m.addresses(name, []string{value}) }

// addresses writes addresses, one a line, display names encoded.
func (m *message) addresses(name string, list []string) {
	var out []string
	for _, s := range list {
		s = clean(s)
		if a, err := mail.ParseAddress(s); err == nil && a.Name != "" {
			s = a.String()
		}
		if s != "" {
			out = append(out, s)
		}
	}
	m.plain(name, strings.Join(out, ",\r\n "))
}

// body writes a text body with the fields that describe it.
func (m *message) body(s string) {
	m.plain("Content-Type", "text/plain; charset=utf-8")
	m.encoded(s)
}

// encoded writes the transfer encoding's field, the empty line and the body.
func (m *message) encoded(s string) {
	s = crlf(s)
	if ascii(s) && !hasLongLine(s) {
		m.WriteString("Content-Transfer-Encoding: 7bit\r\n\r\n" + s)
		return
	}
	m.WriteString("Content-Transfer-Encoding: quoted-printable\r\n\r\n")
	w := quotedprintable.NewWriter(&m.Buffer)
	// A bytes.Buffer takes everything: there are no errors to see.
	_, _ = io.WriteString(w, s)
	_ = w.Close()
}

// entity writes the fields and the body of a MIME entity.
func (m *message) entity(entity string) error {
	entity = crlf(entity)
	h, err := sieve.ReadHeader(strings.NewReader(entity))
	if err != nil {
		return err
	}
	for _, f := range h.Fields() {
		if !strings.HasPrefix(strings.ToLower(f.Name), "content-") && !strings.EqualFold(f.Name, "MIME-Version") {
			return fmt.Errorf("the entity of a :mime reply has %q, which is no MIME field", f.Name)
		}
		if !strings.EqualFold(f.Name, "MIME-Version") {
			m.Write(f.Raw)
		}
	}
	m.WriteString("\r\n" + entity[h.Length():])
	return nil
}

// clean takes out what would end a field.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 || r == 0 })
}

func hasLongLine(s string) bool {
	return slices.ContainsFunc(strings.Split(s, "\r\n"), func(l string) bool { return len(l) > 78 })
}

// crlf makes all line ends CRLF, the last one included.
func crlf(s string) string {
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return strings.ReplaceAll(s, "\n", "\r\n")
}
