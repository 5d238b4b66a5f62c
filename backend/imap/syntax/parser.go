// Package syntax is IMAP's formal syntax (RFC 9051, Section 9; RFC 3501, Section 9): a Parser for
// what clients send and an Encoder for what servers answer. It knows tokens, not commands.
//
// A Parser pulls: the caller asks for what a command may have next, and gets it or a
// *SyntaxError, which is the client's fault and answered with BAD. Literals are taken
// where they stand: short ones into memory, a message's as a stream. All other errors are
// the connection's. Memory is bounded by Limits for each command; a client's bytes never run as
// commands where they were sent as a literal (Drain).
package syntax

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// SyntaxError is a command that is not as it must be.
type SyntaxError struct{ Text string }

// Error implements error.
func (e *SyntaxError) Error() string { return e.Text }

// Syntax makes a SyntaxError.
func Syntax(format string, args ...any) error {
	return &SyntaxError{fmt.Sprintf(format, args...)}
}

// ErrTooBig: the client sends more, without waiting for leave, than is read for
// nothing. The connection must end.
var ErrTooBig = errors.New("command too long")

// ErrLiteral: a literal that does not wait for leave is over its limit; it was not
// read. Drain decides whether the connection can go on.
var ErrLiteral = errors.New("literal too long")

// Input is a client's connection.
type Input interface {
	// Line gives the next line without its line end (CRLF; a bare LF is taken as
	// one). It is valid until the next call of any method. A line over max bytes is
	// ErrTooBig.
	Line(max int) ([]byte, error)
	// Continue asks a client that waits for it to send its literal.
	Continue() error
	// Read gives bytes of a literal.
	io.Reader
}

// Limits bound a command. Zero values stand for the defaults.
type Limits struct {
	// Command bounds all lines and literals in memory of one command, in bytes (64
	// KiB; RFC 2683, Section 3.2.1.5 asks for 8,000 at least).
	Command int
	// Literal bounds one literal in memory (32 KiB), Drain what is read for nothing
	// after an error (1 MiB).
	Literal int
	Drain   int64
	// Depth bounds parentheses in one another (64).
	Depth int
}

// WithDefaults fills in zero values.
func (l Limits) WithDefaults() Limits {
	if l.Command <= 0 {
		l.Command = 64 << 10
	}
	if l.Literal <= 0 {
		l.Literal = 32 << 10
	}
	if l.Drain <= 0 {
		l.Drain = 1 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 64
	}
	return l
}

// Parser reads one command after the other. The zero value is not ready; see New.
type Parser struct {
	// UTF8: mailbox names are UTF-8 as they stand; otherwise '&' shifts (RFC 3501, Section
	// 5.1.3; RFC 6855, Section 3; RFC 9051, Section 5.1).
	UTF8 bool
	// Naming, if not nil, gives the server's name for that of the wire, and for a pattern.
	Naming func(string) string
	// Granted is how many literals of the next command the client was told to send before, by
	// who began to read it elsewhere: it is not told again, and sends them whether they are
	// wanted here or not.
	Granted int

	in     Input
	limits Limits
	line   []byte
	pos    int
	size   int // bytes of the command so far
	extra  int // how many more than limits.Command it may have
	depth  int
	// open is the stream that is not read to its end.
	open *Literal
	// refused: the client waits for an answer to the literal at the line's end.
	refused bool
	began   bool
}

// New makes a Parser on in.
func New(in Input, limits Limits) *Parser {
	return &Parser{in: in, limits: limits.WithDefaults()}
}

// Next reads the first line of a command.
func (p *Parser) Next() error {
	p.size, p.extra, p.depth, p.refused, p.open, p.began = 0, 0, 0, false, nil, true
	return p.readLine()
}

func (p *Parser) readLine() error {
	line, err := p.in.Line(min(p.limits.Command+p.extra-p.size, p.limits.Command))
	if err != nil {
		return err
	}
	p.line, p.pos = line, 0
	p.size += len(line) + 2
	return nil
}

// Line is the present line, for logs of the command's name and for tests.
func (p *Parser) Line() []byte { return p.line }

// More reports that the command has more bytes.
func (p *Parser) More() bool { return p.pos < len(p.line) }

// Peek is the next byte, or 0 at the end of the command's line.
func (p *Parser) Peek() byte {
	if p.pos < len(p.line) {
		return p.line[p.pos]
	}
	return 0
}

// End checks that the command ends here. It must be called before a command is executed.
func (p *Parser) End() error {
	if p.More() {
		return Syntax("unexpected text after the command's arguments")
	}
	return nil
}

// Take takes c if it is next.
func (p *Parser) Take(c byte) bool {
	if p.Peek() == c && p.More() {
		p.pos++
		return true
	}
	return false
}

// Expect takes c or fails.
func (p *Parser) Expect(c byte) error {
	if p.Take(c) {
		return nil
	}
	if c == ' ' {
		return Syntax("missing space or argument")
	}
	return Syntax("expected %q", string(c))
}

// SP takes one space.
func (p *Parser) SP() error { return p.Expect(' ') }

// while takes bytes that ok accepts; valid until the next line is read.
func (p *Parser) while(ok *[256]bool) []byte {
	start := p.pos
	for p.pos < len(p.line) && ok[p.line[p.pos]] {
		p.pos++
	}
	return p.line[start:p.pos]
}

// Tag takes a command's tag.
func (p *Parser) Tag() (string, error) {
	tag := p.while(&tagChars)
	if len(tag) == 0 || len(tag) > 128 {
		return "", Syntax("invalid tag")
	}
	return string(tag), nil
}

// Atom takes an atom.
func (p *Parser) Atom() (string, error) {
	a := p.while(&atomChars)
	if len(a) == 0 {
		return "", Syntax("expected an atom")
	}
	return string(a), nil
}

// Name takes an atom and gives it in upper case: a command's, a data item's or a key's.
func (p *Parser) Name() (string, error) {
	a := p.while(&nameChars)
	if len(a) == 0 {
		return "", Syntax("expected a name")
	}
	return upper(a), nil
}

// TakeName takes name, given in upper case, if it is the whole next name.
func (p *Parser) TakeName(name string) bool {
	start := p.pos
	if upper(p.while(&nameChars)) == name {
		return true
	}
	p.pos = start
	return false
}

// TakeText takes text, given in upper case, if it is next in any case, whatever follows.
func (p *Parser) TakeText(text string) bool {
	rest := p.line[p.pos:]
	if len(rest) < len(text) || upper(rest[:len(text)]) != text {
		return false
	}
	p.pos += len(text)
	return true
}

// PeekName is the next name in upper case, or "".
func (p *Parser) PeekName() string {
	start := p.pos
	name := upper(p.while(&nameChars))
	p.pos = start
	return name
}

// upper gives b in upper case; for names that are so already it is a plain copy.
func upper(b []byte) string { return strings.ToUpper(string(b)) }

// Number takes a number of 32 bits.
func (p *Parser) Number() (uint32, error) {
	n, err := p.Number64()
	if err == nil && n > 1<<32-1 {
		err = Syntax("number too large")
	}
	return uint32(n), err
}

// Positive takes a number of 32 bits that is not 0.
func (p *Parser) Positive() (uint32, error) {
	n, err := p.Number()
	if err == nil && n == 0 {
		err = Syntax("a number must not be 0 here")
	}
	return n, err
}

// Number64 takes a number of 63 bits.
func (p *Parser) Number64() (uint64, error) {
	start, n := p.pos, uint64(0)
	for p.pos < len(p.line) && p.line[p.pos] >= '0' && p.line[p.pos] <= '9' {
		d := uint64(p.line[p.pos] - '0')
		if n > (1<<63-1-d)/10 {
			return 0, Syntax("number too large")
		}
		n = n*10 + d
		p.pos++
	}
	if p.pos == start {
		return 0, Syntax("expected a number")
	}
	return n, nil
}

// List takes a parenthesised list: item is called for each of its members. An empty
// list is none at all where empty is false.
func (p *Parser) List(empty bool, item func() error) error {
	if err := p.Expect('('); err != nil {
		return err
	}
	if err := p.Enter(); err != nil {
		return err
	}
	defer p.Leave()
	if p.Take(')') {
		if !empty {
			return Syntax("the list is empty")
		}
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if p.Take(')') {
			return nil
		}
		if err := p.SP(); err != nil {
			return err
		}
	}
}

// Enter and Leave count nesting, for callers that recurse by themselves.
func (p *Parser) Enter() error {
	p.depth++
	if p.depth > p.limits.Depth {
		return Syntax("too deeply nested")
	}
	return nil
}

// Leave undoes an Enter that succeeded.
func (p *Parser) Leave() { p.depth-- }

// One takes a member alone or a parenthesised list of them.
func (p *Parser) One(item func() error) error {
	if p.Peek() == '(' {
		return p.List(false, item)
	}
	return item()
}
