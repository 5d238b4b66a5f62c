package mime

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// lineReader gives a stream in lines, very long ones in pieces.
type lineReader struct {
	br *bufio.Reader
	// first: the last piece began a line. off: the offset behind it.
	first bool
	off   int64
	// newlines counts line ends up to off; eol is the length of the line end
	// right before the line of the last piece, eolNow that of its own, if any.
	newlines    int64
	eol, eolNow int64
	mid         bool
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{br: bufio.NewReaderSize(r, bufferSize)}
}

// next gives a piece, valid until the next call. Only io.EOF ends the stream
// well; a piece is never empty.
func (l *lineReader) next() ([]byte, error) {
	piece, err := l.br.ReadSlice('\n')
	if len(piece) == 0 {
		return nil, err
	}
	if err != nil && err != io.EOF && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, err
	}
	l.first = !l.mid
	if l.first {
		l.eol = l.eolNow
	}
	l.eolNow = 0
	l.off += int64(len(piece))
	l.mid = piece[len(piece)-1] != '\n'
	if !l.mid {
		l.newlines++
		l.eolNow = 1
		if bytes.HasSuffix(piece, []byte("\r\n")) {
			l.eolNow = 2
		}
	}
	return piece, nil
}

// blank reports an empty line.
func blank(piece []byte) bool {
	return len(piece) == 1 && piece[0] == '\n' || len(piece) == 2 && piece[0] == '\r' && piece[1] == '\n'
}

// fieldName gives the name of the field that a header line begins.
func fieldName(line []byte) ([]byte, bool) {
	i := bytes.IndexByte(line, ':')
	if i <= 0 {
		return nil, false
	}
	name := bytes.TrimRight(line[:i], " \t")
	if len(name) == 0 || bytes.IndexByte(name, ' ') >= 0 || bytes.IndexByte(name, '\t') >= 0 {
		return nil, false
	}
	return name, true
}

// lowerName appends a field's name in lower case to room. It is not ok for one that is lower case
// only with other letters than ASCII's: CopyFields knows no others.
func lowerName(room, name []byte) (lower []byte, ok bool) {
	for _, c := range name {
		switch {
		case c >= 0x80:
			lower = bytes.ToLower(name)
			return lower, len(lower) == len(name)
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		room = append(room, c)
	}
	return room, true
}

// nameBytes is room for the names of fields; longer ones are rare.
const nameBytes = 64

func equalFold(a string, b []byte) bool { return len(a) == len(b) && strings.EqualFold(a, string(b)) }
