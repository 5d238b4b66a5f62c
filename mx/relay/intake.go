package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"waypost/director"
	"waypost/mx/spool/entries"
)

// Errors of Take, all for good.
var (
	// ErrLoop: the message came by here too often, or the same user has
	// redirected it before.
	ErrLoop = errors.New("a mail loop")
	// ErrTooLarge: more bytes than may be.
	ErrTooLarge = errors.New("message too large")
	// ErrHeader: the header is none, or too long.
	ErrHeader = errors.New("unusable header")
)

const (
	// LoopField marks a message that a user's script has redirected.
	LoopField = "X-Waypost-Loop"
	// maxReceived is how many Received lines are taken for a loop (RFC 5321,
	// Section 6.3).
	maxReceived = 50
	// maxHeader bounds a header in bytes.
	maxHeader = 256 << 10
)

// Take reads a message that a program of ours hands over, as a draft of the
// queue: with CRLF line ends whatever it had, and in front the trace line and
// the marks of its kind. It sets what e says of the content. The draft is the
// caller's to discard.
func (q *Queue) Take(r io.Reader, e *Envelope, trace string, maxBytes int64) (*entries.Draft, error) {
	br := bufio.NewReader(r)
	header, err := readHeader(br)
	if err != nil {
		return nil, err
	}
	facts := scanHeader(header)
	switch {
	case facts.received > maxReceived:
		return nil, fmt.Errorf("%d Received lines: %w", facts.received, ErrLoop)
	case e.Kind == Redirect && facts.redirectedBy(e.User):
		return nil, fmt.Errorf("redirected by %s before: %w", e.User, ErrLoop)
	}
	if e.Kind == Redirect {
		trace += LoopField + ": " + string(e.User) + "\r\n"
	}
	if e.Kind.Automatic() && !facts.autoSubmitted {
		trace += "Auto-Submitted: auto-replied\r\n" // RFC 3834, Section 5
	}
	d := q.store.Draft()
	w := &lineEnds{w: d, left: maxBytes}
	_, err = io.WriteString(w, trace)
	if err == nil {
		_, err = w.Write(header)
	}
	if err == nil {
		_, err = io.Copy(w, br)
	}
	if err == nil {
		err = w.end()
	}
	if err != nil {
		d.Discard()
		return nil, err
	}
	e.EightBit = e.EightBit || w.eightBit
	return d, nil
}

// readHeader reads up to and with the empty line; a message that is all header
// ends it too.
func readHeader(r *bufio.Reader) ([]byte, error) {
	var header []byte
	for start := true; ; {
		part, err := r.ReadSlice('\n')
		header = append(header, part...)
		switch {
		case len(header) > maxHeader:
			return nil, fmt.Errorf("over %d bytes: %w", maxHeader, ErrHeader)
		case errors.Is(err, bufio.ErrBufferFull):
			start = false
			continue
		case errors.Is(err, io.EOF) && len(header) > 0:
			return header, nil
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("no message: %w", ErrHeader)
		case err != nil:
			return nil, err
		case start && len(bytes.TrimRight(part, "\r\n")) == 0:
			return header, nil
		}
		start = true
	}
}

// headerFacts is what a header tells.
type headerFacts struct {
	received      int
	autoSubmitted bool
	loops         []string // who has redirected it
}

func (f headerFacts) redirectedBy(u director.User) bool {
	for _, l := range f.loops {
		if strings.EqualFold(l, string(u)) {
			return true
		}
	}
	return false
}

// scanHeader reads the fields; lines that are none are passed over.
func scanHeader(header []byte) (f headerFacts) {
	for len(header) > 0 {
		var line []byte
		line, header, _ = bytes.Cut(header, []byte("\n"))
		line = bytes.TrimRight(line, "\r")
		if len(line) == 0 {
			return f
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		switch strings.ToLower(string(bytes.TrimRight(name, " \t"))) {
		case "received":
			f.received++
		case "auto-submitted":
			f.autoSubmitted = true
		case strings.ToLower(LoopField):
			f.loops = append(f.loops, strings.TrimSpace(string(value)))
		}
	}
	return f
}

// lineEnds makes every CR, LF and CRLF a CRLF: what stands alone would be the
// seed of SMTP smuggling at the next server (RFC 5321, Section 2.3.8).
type lineEnds struct {
	w        io.Writer
	left     int64
	cr       bool // the last byte was a CR, and is written with what follows
	eightBit bool
	buf      []byte
}

// Write takes p whole, or fails.
func (l *lineEnds) Write(p []byte) (int, error) {
	l.buf = l.buf[:0]
	for _, c := range p {
		if l.cr || c == '\n' {
			l.buf = append(l.buf, '\r', '\n')
		}
		switch {
		case c == '\r':
			l.cr = true
			continue
		case c != '\n':
			l.buf = append(l.buf, c)
			l.eightBit = l.eightBit || c >= 0x80
		}
		l.cr = false
	}
	if err := l.flush(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (l *lineEnds) flush() error {
	if l.left -= int64(len(l.buf)); l.left < 0 {
		return ErrTooLarge
	}
	_, err := l.w.Write(l.buf)
	return err
}

func (l *lineEnds) end() error {
	if !l.cr {
		return nil
	}
	l.buf, l.cr = append(l.buf[:0], '\r', '\n'), false
	return l.flush()
}
