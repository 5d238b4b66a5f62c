package archive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
	"waypost/internal/headerfield"
)

// found is a message as a scan finds it.
type found struct {
	// key names the message in its folder, for good; ref says where it is now.
	key, ref   string
	size, wire int64
	date       time.Time
	flags      mailbox.System
}

// hashed is how much of a message tells whether it is still the same.
const hashed = 1 << 10

// splitter takes an mbox apart, in one pass.
type splitter struct {
	file io.ReaderAt
	size int64
	// quoted: lines of the text that begin with "From " are quoted, and ">From " as
	// well (mboxrd), so that nothing else tells where a message ends.
	quoted bool
	emit   func(found) error

	// at is where the line under way begins.
	at int64
	// began: the first separator was seen. loose is its shape if it has no date: then all that
	// look like it, behind a blank line, are separators.
	began bool
	loose fromShape
	// empty: the line before was blank, or there was none.
	empty bool
	// in: a message is under way, from from; its text begins at body and ends, as
	// far as is known, at end. Behind that there may be one blank line, held, that
	// belongs to the mbox if a separator follows.
	in              bool
	from, body, end int64
	held            []byte
	header          bool
	// claimed is what Content-Length says, and then where the message ends by that, or
	// −1.
	claimed int64
	count   lineend.Counter
	date    time.Time
	flags   mailbox.System
}

// errNoMbox: a file that is not empty, and does not begin as an mbox does. It is not shown as an
// empty folder: clients would remove what they have of it.
var errNoMbox = errors.New("not an mbox: it does not begin with a From line")

// split gives emit the messages of an mbox of size bytes. Before the first separator there may be
// blank lines and a byte order mark. errNoMbox.
func split(file io.ReaderAt, size int64, quoted bool, emit func(found) error) error {
	s := &splitter{file: file, size: size, quoted: quoted, emit: emit, empty: true}
	l := newLines(io.NewSectionReader(file, 0, size))
	for {
		text, start, err := l.next()
		if errors.Is(err, io.EOF) {
			return s.finish()
		}
		if err == nil && s.at == 0 {
			mark := len(text) - len(bytes.TrimPrefix(text, byteOrderMark))
			text, s.at = text[mark:], int64(mark)
		}
		if err == nil {
			err = s.line(text, start, !l.inside)
		}
		if err != nil {
			return err
		}
		s.at += int64(len(text))
	}
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// line takes a line, or a fragment of one.
func (s *splitter) line(text []byte, start, whole bool) error {
	if start && whole {
		if date, ok := s.separates(text); ok {
			if err := s.finish(); err != nil {
				return err
			}
			s.in, s.header, s.claimed, s.empty = true, true, -1, false
			s.from, s.body = s.at, s.at+int64(len(text))
			s.end, s.date, s.flags, s.count = s.body, date, 0, lineend.Counter{}
			return nil
		}
	}
	s.empty = start && whole && blank(text)
	if !s.in && !s.empty {
		return errNoMbox
	}
	if !s.in {
		return nil
	}
	s.take(s.held)
	s.held = s.held[:0]
	switch {
	case s.header && s.empty:
		// It ends the header and belongs to the message, even if nothing follows.
		s.header = false
		s.take(text)
		s.claim()
	case s.empty:
		s.held = append(s.held, text...)
	default:
		if s.header && start {
			s.field(text)
		}
		if s.quoted && start {
			s.end += int64(len(text) - len(unquoted(text)))
			text = unquoted(text)
		}
		s.take(text)
	}
	return nil
}

// take counts text as the message's.
func (s *splitter) take(text []byte) {
	_, _ = s.count.Write(text) // never fails
	s.end += int64(len(text))
}

// separates reports a line that begins a message: one with a date, not before the end that
// Content-Length tells; behind a blank line or not, as Dovecot has it, too. The first line of all
// needs no date, and neither do those behind a blank one that are like it then.
func (s *splitter) separates(text []byte) (date time.Time, ok bool) {
	if !bytes.HasPrefix(text, fromMark) || s.in && !s.header && s.claimed >= 0 && s.at < s.claimed {
		return date, false
	}
	if date, ok = parseFrom(text); ok {
		s.began = true
		return date, true
	}
	if !s.began {
		s.began, s.loose = true, shapeOf(text)
		return date, true
	}
	return date, s.empty && s.loose != fromShape{} && s.loose == shapeOf(text)
}

// field looks at a field of the header.
func (s *splitter) field(text []byte) {
	name, value, ok := strings.Cut(string(text[:min(len(text), 200)]), ":")
	if !ok {
		return
	}
	value = strings.TrimSpace(value)
	switch strings.ToLower(name) {
	case "content-length":
		if n, err := strconv.ParseInt(value, 10, 62); err == nil && n >= 0 && !s.quoted {
			s.claimed = n
		}
	case "date":
		if s.date.IsZero() { // the separator has none
			s.date, _ = headerfield.Date(value)
		}
	case "status":
		s.flags |= systemOf(value, "R", mailbox.Seen)
	case "x-status":
		s.flags |= systemOf(value, "AFDT", mailbox.Answered, mailbox.Flagged, mailbox.Deleted, mailbox.Draft)
	}
}

// systemOf gives the flags that letters among known stand for.
func systemOf(letters, known string, flags ...mailbox.System) (set mailbox.System) {
	for i, f := range flags {
		if strings.IndexByte(letters, known[i]) >= 0 {
			set |= f
		}
	}
	return set
}

// claim makes an end of the length that the header told, if a separator or the end
// of the file is there: otherwise it is wrong.
func (s *splitter) claim() {
	if s.claimed < 0 {
		return
	}
	end := s.end + s.claimed
	s.claimed = -1
	if end > s.size || end < s.end {
		return
	}
	buf := make([]byte, min(maxFrom+4, s.size-end))
	n, err := s.file.ReadAt(buf, end)
	if err != nil && !errors.Is(err, io.EOF) {
		return // reading on will tell
	}
	rest := buf[:n]
	for range 2 {
		rest = bytes.TrimPrefix(bytes.TrimPrefix(rest, []byte("\r")), []byte("\n"))
	}
	if len(rest) > 0 {
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if _, ok := parseFrom(line); !ok && (s.loose == fromShape{} || s.loose != shapeOf(line)) {
			return
		}
	}
	s.claimed = end
}

// finish gives the message under way.
func (s *splitter) finish() error {
	if !s.in {
		return nil
	}
	s.in, s.held = false, s.held[:0]
	sum, err := hashAt(s.file, s.from, s.end)
	if err != nil {
		return err
	}
	return s.emit(found{
		key: fmt.Sprintf("%d-%s-%d", s.from, sum, s.end-s.from), ref: fmt.Sprintf("%d %d %d", s.from, s.body, s.end),
		size: s.count.Size, wire: s.count.Wire, date: s.date, flags: s.flags,
	})
}

// hashAt tells the beginning of what is from start to end.
func hashAt(file io.ReaderAt, start, end int64) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(file, start, min(end-start, hashed))); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:12]), nil
}
