package pop3

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"waypost/backend/mailbox"
)

// copyBuffer is the piece in which messages are read.
const copyBuffer = 32 << 10

func (s *session) retr(args []int) error {
	i, ok, err := s.index(args[0])
	if !ok {
		return err
	}
	return s.send(i, -1)
}

func (s *session) top(args []int) error {
	i, ok, err := s.index(args[0])
	if !ok {
		return err
	}
	return s.send(i, args[1])
}

// send answers with a message, or with its header and the given number of
// lines. After the +OK there is no way to tell an error but to end the
// connection without the final dot.
func (s *session) send(i, lines int) error {
	body, err := s.folder.Open(s.messages.At(i).UID)
	if err != nil {
		return s.fail("open", err)
	}
	defer body.Close()
	title := "top of message follows"
	if lines < 0 {
		title = fmt.Sprintf("%d octets", body.WireSize())
	}
	s.midway = true
	if err := s.say("+OK %s", title); err != nil {
		return err
	}
	if err := s.copy(body, lines); err != nil {
		return err
	}
	s.midway = false
	if lines < 0 {
		s.retrieved++
		s.srv.met.retrieved.Inc()
		s.noteSeen(i)
	}
	return nil
}

// copy sends body, dot-stuffed and with the final dot.
func (s *session) copy(body mailbox.Body, lines int) error {
	buf := s.srv.buffers.Get().(*[copyBuffer]byte)
	defer s.srv.buffers.Put(buf)
	w := newDotWriter(s.out)
	limit := topLimit{lines: lines, blank: true}
	piece, err := s.first(body, buf[:])
	for done := false; !done; {
		if lines >= 0 {
			piece, done = limit.cut(piece)
		}
		if werr := w.write(piece); werr != nil {
			return werr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read message: %w", err)
		}
		var n int
		n, err = body.Read(buf[:])
		piece = buf[:n]
	}
	return w.close()
}

// noteSeen remembers that message i has been read.
func (s *session) noteSeen(i int) {
	if s.messages.At(i).Flags.Has(mailbox.Seen) || slices.Contains(s.unseen, i) {
		return
	}
	s.unseen = append(s.unseen, i)
	if len(s.unseen) >= seenBatch {
		_ = s.markSeen(false) // the end will find what is still to be set
	}
}

// dotWriter sends a multi-line answer (RFC 1939, Section 3): a dot before
// lines that begin with one, CRLF at the end whatever the message has, and the
// final dot.
type dotWriter struct {
	out output
	bol bool // the next byte begins a line
}

func newDotWriter(out output) *dotWriter { return &dotWriter{out: out, bol: true} }

func (w *dotWriter) write(p []byte) error {
	for len(p) > 0 {
		if w.bol && p[0] == '.' {
			if err := w.out.WriteByte('.'); err != nil {
				return err
			}
		}
		line := p
		if i := bytes.Index(p, []byte("\n.")); i >= 0 {
			line = p[:i+1]
		}
		if _, err := w.out.Write(line); err != nil {
			return err
		}
		w.bol = line[len(line)-1] == '\n'
		p = p[len(line):]
	}
	return nil
}

func (w *dotWriter) close() error {
	end := "\r\n.\r\n"
	if w.bol {
		end = ".\r\n"
	}
	_, err := w.out.WriteString(end)
	return err
}

// topLimit finds where TOP ends: after the header, the blank line, and so many
// lines.
type topLimit struct {
	lines int
	// body: the header is over. blank: the line so far is empty.
	body, blank bool
}

// cut gives the part of p that belongs to the answer, and whether it ends there.
func (t *topLimit) cut(p []byte) ([]byte, bool) {
	for at := 0; at < len(p); {
		i := bytes.IndexByte(p[at:], '\n')
		line := p[at:]
		if i >= 0 {
			line = line[:i]
		}
		t.blank = t.blank && len(bytes.Trim(line, "\r")) == 0
		if i < 0 {
			return p, false
		}
		at += i + 1
		if t.body {
			t.lines--
		} else {
			t.body = t.blank
		}
		if t.body && t.lines <= 0 {
			return p[:at], true
		}
		t.blank = true
	}
	return p, false
}
