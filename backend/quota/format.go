package quota

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// ErrCorrupt says that the log is not a quota log, or that its sum cannot be
// right. Recount mends it.
var ErrCorrupt = errors.New("quota log is corrupt")

// Usage is what a mailbox holds, or a change of that: bytes on disk, as counted
// by the S= of the file names, and messages.
type Usage struct{ Bytes, Messages int64 }

// Limit is what a mailbox may hold; 0 is no limit.
type Limit struct{ Bytes, Messages int64 }

// Exceeded reports whether u with the additions would be above the limit.
// Exactly at the limit is not above it.
func (l Limit) Exceeded(u Usage, addBytes, addMessages int64) bool {
	return above(l.Bytes, u.Bytes, addBytes) || above(l.Messages, u.Messages, addMessages)
}

func above(limit, used, add int64) bool {
	if limit <= 0 {
		return false
	}
	sum, ok := plus(used, add)
	if !ok {
		return add > 0
	}
	return sum > limit
}

// Contents is what a quota log says.
type Contents struct {
	Limit Limit
	Usage Usage

	// CompleteBytes is the length up to and with the last newline. What lies
	// behind it is a torn line and is not in Usage.
	CompleteBytes int
}

// Parse reads a quota log. Unknown kinds of limits are passed over; numbers may
// have a sign and any blanks around them. Whatever else departs from the form,
// and a sum outside 64 bits, is ErrCorrupt.
func Parse(data []byte) (Contents, error) {
	end := bytes.LastIndexByte(data, '\n') + 1
	if end == 0 {
		return Contents{}, fmt.Errorf("%w: no complete line", ErrCorrupt)
	}
	header, lines, _ := bytes.Cut(data[:end], []byte("\n"))
	limit, ok := parseLimit(header)
	if !ok {
		return Contents{}, fmt.Errorf("%w: first line is no limit", ErrCorrupt)
	}
	usage, err := sumLines(lines)
	if err != nil {
		return Contents{}, err
	}
	return Contents{limit, usage, end}, nil
}

// parseLimit reads "1000S,10C".
func parseLimit(line []byte) (l Limit, ok bool) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return l, true
	}
	for part := range bytes.SplitSeq(line, []byte(",")) {
		part = bytes.TrimSpace(part)
		if len(part) < 2 {
			return l, false
		}
		n, err := strconv.ParseUint(string(part[:len(part)-1]), 10, 63)
		if err != nil {
			return l, false
		}
		switch kind := part[len(part)-1]; {
		case kind == 'S':
			l.Bytes = int64(n)
		case kind == 'C':
			l.Messages = int64(n)
		case kind < 'A' || kind > 'Z':
			return l, false
		}
	}
	return l, true
}

// sumLines adds up complete lines of changes.
func sumLines(lines []byte) (sum Usage, err error) {
	for line := range bytes.Lines(lines) {
		u, ok := parseChange(line)
		if ok {
			sum, ok = sum.plus(u)
		}
		if !ok {
			return Usage{}, fmt.Errorf("%w: bad line %.60q", ErrCorrupt, line)
		}
	}
	return sum, nil
}

func parseChange(line []byte) (u Usage, ok bool) {
	fields := bytes.Fields(line)
	if len(fields) != 2 {
		return u, false
	}
	var err1, err2 error
	u.Bytes, err1 = strconv.ParseInt(string(fields[0]), 10, 64)
	u.Messages, err2 = strconv.ParseInt(string(fields[1]), 10, 64)
	return u, err1 == nil && err2 == nil
}

// plus adds, unless that overflows.
func (u Usage) plus(v Usage) (sum Usage, ok bool) {
	b, ok1 := plus(u.Bytes, v.Bytes)
	m, ok2 := plus(u.Messages, v.Messages)
	return Usage{b, m}, ok1 && ok2
}

func plus(a, b int64) (int64, bool) {
	if b > 0 && a > math.MaxInt64-b || b < 0 && a < math.MinInt64-b {
		return 0, false
	}
	return a + b, true
}

// header is the first line. Without limits it is empty, as Dovecot writes it.
func (l Limit) header() []byte {
	var b []byte
	if l.Bytes > 0 {
		b = append(strconv.AppendInt(b, l.Bytes, 10), 'S')
	}
	if l.Messages > 0 {
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(b, l.Messages, 10), 'C')
	}
	return append(b, '\n')
}

func (u Usage) line() []byte {
	b := strconv.AppendInt(nil, u.Bytes, 10)
	b = strconv.AppendInt(append(b, ' '), u.Messages, 10)
	return append(b, '\n')
}
