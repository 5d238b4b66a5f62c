package archive

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// lineBuffer bounds what is held of a line. A longer one comes in fragments of just
// this length, always the same, whoever reads it.
const lineBuffer = 16 << 10

// lines reads line by line.
type lines struct {
	r *bufio.Reader
	// inside: the next fragment continues a line.
	inside bool
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, lineBuffer)} }

// next gives a line with its end, or a fragment; start says whether it begins a
// line. What it gives is valid up to the next call.
func (l *lines) next() (text []byte, start bool, err error) {
	text, err = l.r.ReadSlice('\n')
	start = !l.inside
	l.inside = errors.Is(err, bufio.ErrBufferFull)
	if l.inside || errors.Is(err, io.EOF) && len(text) > 0 {
		err = nil
	}
	return text, start, err
}

// blank reports an empty line.
func blank(line []byte) bool { return len(line) <= 2 && len(bytes.TrimRight(line, "\r\n")) == 0 }

// unquoted takes one ">" from what was ">From " or ">>From " and so on (mboxrd).
func unquoted(line []byte) []byte {
	if len(line) > 0 && line[0] == '>' && bytes.HasPrefix(bytes.TrimLeft(line, ">"), fromMark) {
		return line[1:]
	}
	return line
}

// unquoter is a message of an mboxrd as it was.
type unquoter struct {
	lines *lines
	rest  []byte
}

// Read is io.Reader's.
func (u *unquoter) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		text, start, err := u.lines.next()
		if err != nil {
			return 0, err
		}
		if start {
			text = unquoted(text)
		}
		u.rest = text
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}
