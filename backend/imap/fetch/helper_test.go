package fetch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"waypost/backend/imap/syntax"
	"waypost/backend/index"
	"waypost/backend/mailbox"
)

// lines is a syntax.Input of text.
type lines struct{ *bufio.Reader }

func (l lines) Line(max int) ([]byte, error) {
	line, err := l.ReadBytes('\n')
	if len(line) == 0 {
		return nil, err
	}
	if len(line) > max {
		return nil, syntax.ErrTooBig
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), nil
}

func (l lines) Continue() error { return nil }

// parsed gives the Request of an item list.
func parsed(text string, o Options) (*Request, error) {
	p := syntax.New(lines{bufio.NewReader(strings.NewReader(text + "\r\n"))}, syntax.Limits{})
	if err := p.Next(); err != nil {
		return nil, err
	}
	r, err := Parse(p, o)
	if err != nil {
		return nil, err
	}
	return r, p.End()
}

func request(t testing.TB, text string, o Options) *Request {
	t.Helper()
	r, err := parsed(text, o)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

// wired gives LF data CRLF line ends; a CRLF in the data stays one.
func wired(data []byte) []byte {
	out := make([]byte, 0, len(data)+bytes.Count(data, []byte("\n")))
	for i, c := range data {
		if c == '\n' && (i == 0 || data[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, c)
	}
	return out
}

var (
	arrived = time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", 3600))
	saved   = time.Date(2026, 3, 5, 5, 6, 7, 0, time.UTC)
)

// one is a Source of one message, and counts what is asked of it.
type one struct {
	wire  []byte
	meta  *mailbox.Meta
	metas int
	opens int
	shuts int
	// fail is given by Open, cut ends reading there (0: never).
	fail error
	cut  int64
}

func newOne(t testing.TB, wire []byte) *one {
	t.Helper()
	m, err := index.Read(bytes.NewReader(wire), arrived)
	if err != nil {
		t.Fatal(err)
	}
	return &one{wire: wire, meta: m}
}

func (o *one) Meta(mailbox.UID) (*mailbox.Meta, error) { o.metas++; return o.meta, nil }

func (o *one) Open(mailbox.UID) (mailbox.Body, error) {
	if o.fail != nil {
		return nil, o.fail
	}
	o.opens++
	return &memoryBody{bytes.NewReader(o.wire), o}, nil
}
func (o *one) InternalDate(mailbox.UID) (time.Time, error) { return arrived, nil }
func (o *one) SaveDate(mailbox.UID) (time.Time, error)     { return saved, nil }
func (o *one) EmailID(mailbox.UID) (string, error)         { return "M1", nil }

type memoryBody struct {
	*bytes.Reader
	o *one
}

func (b *memoryBody) WireSize() int64 { return b.Size() }
func (b *memoryBody) Close() error    { b.o.shuts++; return nil }

var errDisk = errors.New("disk gone")

func (b *memoryBody) Read(p []byte) (int, error) {
	if b.o.cut > 0 {
		at := b.Size() - int64(b.Len())
		if at >= b.o.cut {
			return 0, errDisk
		}
		p = p[:min(int64(len(p)), b.o.cut-at)]
	}
	return b.Reader.Read(p)
}

func (o *one) message() Message {
	return Message{Seq: 3, UID: 7, Flags: []string{`\Seen`, "$Junk"}, ModSeq: 99, Size: int64(len(o.wire))}
}

// written gives what Write makes.
func written(r *Request, o *one, m Message) (string, error) {
	var out bytes.Buffer
	e := syntax.NewEncoder(&out, syntax.Buffers())
	err := r.Write(e, o, m)
	err = errors.Join(err, e.Flush())
	return out.String(), err
}

// value is an IMAP value: a list, NIL, or a string in any form.
type value struct {
	list   []value
	isList bool
	isNil  bool
	text   string
}

func (v value) String() string {
	switch {
	case v.isNil:
		return "NIL"
	case v.isList:
		parts := make([]string, len(v.list))
		for i := range v.list {
			parts[i] = v.list[i].String()
		}
		return "(" + strings.Join(parts, " ") + ")"
	}
	return strconv.Quote(v.text)
}

// checker reads responses, strictly.
type checker struct{ r *bufio.Reader }

var errSyntax = errors.New("malformed answer")

func (c checker) byte(want byte) error {
	got, err := c.r.ReadByte()
	if err == nil && got != want {
		rest, _ := c.r.Peek(min(c.r.Buffered(), 40))
		err = fmt.Errorf("%w: %q for %q before %q", errSyntax, got, want, rest)
	}
	return err
}

func (c checker) peek() byte {
	b, err := c.r.Peek(1)
	if err != nil {
		return 0
	}
	return b[0]
}

// word takes a word: an atom, or a data item's name with its section.
func (c checker) word() (string, error) {
	var b strings.Builder
	inside := false
	for {
		ch, err := c.r.ReadByte()
		if err != nil {
			return "", err
		}
		if !inside && (ch == ' ' || ch == '(' || ch == ')' || ch == '\r' || ch == '"') {
			if b.Len() == 0 {
				return "", fmt.Errorf("%w: no word at %q", errSyntax, ch)
			}
			return b.String(), c.r.UnreadByte()
		}
		if ch == '\r' || ch == '\n' || ch == 0 || ch >= 0x7f {
			return "", fmt.Errorf("%w: %q in a word", errSyntax, ch)
		}
		switch ch {
		case '[':
			inside = true
		case ']':
			inside = false
		}
		b.WriteByte(ch)
	}
}

func (c checker) value(depth int) (v value, err error) {
	if depth > 300 {
		return v, fmt.Errorf("%w: too deep", errSyntax)
	}
	switch c.peek() {
	case '(':
		v.isList = true
		if err = c.byte('('); err != nil {
			return v, err
		}
		for c.peek() != ')' {
			// Bodies and addresses have no spaces between them.
			if n := len(v.list); n > 0 && !(v.list[n-1].isList && c.peek() == '(') {
				if err = c.byte(' '); err != nil {
					return v, err
				}
			}
			m, err := c.value(depth + 1)
			if err != nil {
				return v, err
			}
			v.list = append(v.list, m)
		}
		return v, c.byte(')')
	case '"':
		v.text, err = c.quoted()
	case '{', '~':
		v.text, err = c.literal()
	default:
		v.text, err = c.word()
		v.isNil = v.text == "NIL"
	}
	return v, err
}

func (c checker) quoted() (string, error) {
	var b strings.Builder
	if err := c.byte('"'); err != nil {
		return "", err
	}
	for {
		ch, err := c.r.ReadByte()
		switch {
		case err != nil:
			return "", err
		case ch == '"':
			return b.String(), nil
		case ch == '\\':
			if ch, err = c.r.ReadByte(); err != nil || ch != '"' && ch != '\\' {
				return "", fmt.Errorf("%w: escaped %q", errSyntax, ch)
			}
		case ch == '\r' || ch == '\n' || ch == 0 || ch >= 0x80:
			return "", fmt.Errorf("%w: %q in a quoted string", errSyntax, ch)
		}
		b.WriteByte(ch)
	}
}

func (c checker) literal() (string, error) {
	binary := c.peek() == '~'
	if binary {
		if err := c.byte('~'); err != nil {
			return "", err
		}
	}
	head, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(head, "{"), "}\r\n"))
	if err != nil || n < 0 || n > 1<<28 {
		return "", fmt.Errorf("%w: literal %q", errSyntax, head)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(c.r, b)
	return string(b), err
}

// line takes "* n FETCH (...)".
func (c checker) line(verb string) (n string, items map[string]value, order []string, err error) {
	if err = errors.Join(c.byte('*'), c.byte(' ')); err != nil {
		return "", nil, nil, err
	}
	if n, err = c.word(); err != nil {
		return n, nil, nil, err
	}
	_ = c.byte(' ')
	if got, err := c.word(); err != nil || got != verb {
		return n, nil, nil, fmt.Errorf("%w: %s", errSyntax, got)
	}
	if err = errors.Join(c.byte(' '), c.byte('(')); err != nil {
		return n, nil, nil, err
	}
	items = make(map[string]value)
	for len(order) == 0 || c.peek() != ')' {
		if len(order) > 0 {
			if err = c.byte(' '); err != nil {
				return n, nil, nil, err
			}
		}
		name, err := c.word()
		if err != nil {
			return n, nil, nil, err
		}
		// BODY[HEADER.FIELDS (a "b")] is a word, spaces and all.
		if err = c.byte(' '); err != nil {
			return n, nil, nil, err
		}
		if items[name], err = c.value(0); err != nil {
			return n, nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		order = append(order, name)
	}
	return n, items, order, errors.Join(c.byte(')'), c.byte('\r'), c.byte('\n'))
}

// items gives what Write makes, taken apart.
func items(r *Request, o *one, m Message) (map[string]value, []string, error) {
	text, err := written(r, o, m)
	if err != nil {
		return nil, nil, err
	}
	c := checker{bufio.NewReader(strings.NewReader(text))}
	verb := "FETCH"
	if r.uidOnly {
		verb = "UIDFETCH"
	}
	_, all, order, err := c.line(verb)
	if err == nil && c.peek() != 0 {
		err = fmt.Errorf("%w: text behind the line", errSyntax)
	}
	return all, order, err
}
