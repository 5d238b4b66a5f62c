package managesieve

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// lineBytes bounds a line, so that a name of 512 bytes fits with every one of
	// them escaped, and a quoted string of 1024 (RFC 5804, Section 4).
	lineBytes = 4 << 10
	// stringBytes bounds a literal that is no script.
	stringBytes = 1024
	// discardBytes is the longest literal that is read only to be refused.
	discardBytes = 16 << 20
	// maxArgs is one more than any command takes.
	maxArgs = 3
)

// arg is an argument: a string, or a number.
type arg struct {
	text   string
	number uint32
	kind   byte // 's' or 'n'
	// tooLong: a literal over its limit, whose bytes were dropped.
	tooLong bool
}

// command is a command as read; name is in upper case.
type command struct {
	name string
	args []arg
}

// syntaxError is answered with NO; the connection goes on.
type syntaxError string

func (e syntaxError) Error() string { return string(e) }

// parser reads commands. Its errors are a syntaxError, after which the next
// command can be read, ErrAbuse, or the reader's.
type parser struct {
	br          *bufio.Reader
	scriptBytes int64
	// onLine is called before a command is waited for, onLiteral before each of
	// its literals.
	onLine, onLiteral func()

	// record is what was read of the command under way, in case that another backend has
	// to read it again: without those bytes of literals that were dropped, which are counted
	// here for each literal.
	record  bytes.Buffer
	dropped []int64
}

// forget ends a command: it was executed.
func (p *parser) forget() { p.record, p.dropped = bytes.Buffer{}, nil }

// read reads a command with its literals, to the end of its last line, whatever
// is wrong with it.
func (p *parser) read() (command, error) {
	p.onLine()
	line, err := p.line()
	if err != nil {
		return command{}, err
	}
	name, rest := head(line)
	cmd := command{name: name}
	var bad error
	if name == "" {
		bad = syntaxError("That is no command.")
	}
	for literals := 0; ; literals++ {
		text, n, more := cutLiteral(rest)
		if bad == nil {
			bad = cmd.parse(text, more)
		}
		if !more {
			return cmd, bad
		}
		if literals == maxArgs {
			return cmd, fmt.Errorf("%w: %d literals in a command", ErrAbuse, literals+1)
		}
		got, err := p.literal(literals, n, cmd.room(p.scriptBytes))
		if err != nil {
			return cmd, err
		}
		cmd.args = append(cmd.args, got)
		if rest, err = p.line(); err != nil {
			return cmd, err
		}
	}
}

// line reads a line without its end. A bare LF ends it too: a client that is
// logged in can smuggle nothing but its own commands.
func (p *parser) line() (string, error) {
	line, err := p.br.ReadSlice('\n')
	p.record.Write(line) // half a line, too
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("%w: a line of over %d bytes", ErrAbuse, len(line))
	case err == io.EOF && len(line) > 0:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	return string(bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))), nil
}

// head takes the name off the first line; "" where there is none. A literal is one
// even where the space before it is missing.
func head(line string) (name, rest string) {
	end := strings.IndexAny(line, " {")
	if end < 0 {
		end = len(line)
	}
	name = strings.ToUpper(line[:end])
	if len(name) > 32 || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "", line[end:]
	}
	return name, line[end:]
}

// cutLiteral splits the announcement of a literal, {n+}, off the end of a line
// (RFC 5804, Section 4). {n} is taken too, as other servers do: nothing asks
// the client to go on, so neither may be waited for. Within quotes it ends in a
// quote, so that what looks like one here is one. A length that is no number we
// can hold is reported as the largest one.
func cutLiteral(line string) (text string, n int64, literal bool) {
	open := strings.LastIndexByte(line, '{')
	if open < 0 || !strings.HasSuffix(line, "}") {
		return line, 0, false
	}
	digits := strings.TrimSuffix(line[open+1:len(line)-1], "+")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return line, 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		n = 1<<63 - 1
	}
	return line[:open], n, true
}

// room is how long a literal may be as the next argument.
func (c *command) room(scriptBytes int64) int64 {
	if c.name == "PUTSCRIPT" && len(c.args) == 1 || c.name == "CHECKSCRIPT" && len(c.args) == 0 {
		return scriptBytes
	}
	return stringBytes
}

// literal reads n bytes, and keeps them if they are at most room, and if none were dropped
// elsewhere. Memory grows with what has come, not with what was announced. i counts the
// command's literals.
func (p *parser) literal(i int, n, room int64) (arg, error) {
	p.onLiteral()
	for len(p.dropped) <= i {
		p.dropped = append(p.dropped, 0)
	}
	before := p.dropped[i]
	if n > max(discardBytes, room) || before > n {
		return arg{}, fmt.Errorf("%w: a literal of %d bytes", ErrAbuse, n)
	}
	start := p.record.Len()
	tooLong := n > room || before > 0
	var err error
	if tooLong {
		var more int64
		more, err = io.CopyN(io.Discard, p.br, n-before)
		p.dropped[i] += more
	} else {
		_, err = io.CopyN(&p.record, p.br, n)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return arg{kind: 's', text: string(p.record.Bytes()[start:]), tooLong: tooLong}, err
}

// parse takes the arguments of one line. literal: one follows, which must be set
// off by a space.
func (c *command) parse(text string, literal bool) error {
	if literal && !strings.HasSuffix(text, " ") {
		return syntaxError("A space must come before a string.")
	}
	for {
		rest := strings.TrimLeft(text, " ")
		switch {
		case rest == "":
			return nil
		case len(rest) == len(text):
			return syntaxError("Arguments must be set off by spaces.")
		case len(c.args) == maxArgs:
			return syntaxError("Too many arguments.")
		}
		a, after, err := argument(rest)
		if err != nil {
			return err
		}
		c.args = append(c.args, a)
		text = after
	}
}

// argument reads a quoted string or a number off the beginning of text.
func argument(text string) (a arg, rest string, err error) {
	if text[0] == '"' {
		s, rest, ok := unquote(text[1:])
		if !ok {
			return a, "", syntaxError("Malformed string.")
		}
		return arg{kind: 's', text: s}, rest, nil
	}
	end := strings.IndexByte(text, ' ')
	if end < 0 {
		end = len(text)
	}
	// number = 1*DIGIT, of 32 bits (RFC 5804, Section 4).
	n, perr := strconv.ParseUint(text[:end], 10, 32)
	if perr != nil || text[0] == '+' {
		return a, "", syntaxError("Want a string or a number.")
	}
	return arg{kind: 'n', number: uint32(n)}, text[end:], nil
}

// unquote reads a quoted string after its first quote (RFC 5804, Section 4).
func unquote(text string) (s, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return b.String(), text[i+1:], true
		case 0, '\r':
			return "", "", false
		case '\\':
			if i++; i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", "", false
			}
		}
		b.WriteByte(text[i])
	}
	return "", "", false
}
