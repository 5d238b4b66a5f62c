package imap

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"waypost/proxy/prelogin"
)

// command is one command as read: tag, name in upper case, and the arguments.
type command struct {
	tag  string
	name string
	args args
}

// badCommand is answered with BAD, refusedCommand with NO; the connection goes
// on after both.
type badCommand struct{ tag, text string }

func (b badCommand) Error() string { return "bad command: " + b.text }

type refusedCommand struct{ tag, text string }

func (r refusedCommand) Error() string { return "refused command: " + r.text }

// errLiteral: a literal without synchronisation was too long. Its bytes are on
// their way and must not run as commands, so the connection ends.
var errLiteral = errors.New("literal too long")

const maxTagBytes = 128

// read reads a command with its literals. A client that waits for our "+" is
// told at once where the command will be refused anyhow.
func (e *engine) read() (command, error) {
	line, err := e.c.ReadLine(e.limits.LineBytes)
	if err != nil {
		return command{}, err
	}
	text, length, sync, literal := cutLiteral(string(line))
	cmd, err := parseHead(text)
	room, left := maxLiteralBytes, e.limits.LineBytes-len(line)
	for literal {
		switch {
		case length > room && sync:
			return cmd, badCommand{cmd.respondTo(), "Literal too long."}
		case length > room:
			return cmd, fmt.Errorf("%w: %w", prelogin.ErrLimits, errLiteral)
		case sync && err != nil:
			return cmd, err
		case sync:
			if refused := e.early(cmd); refused != nil {
				return cmd, refused
			}
			if err := e.c.Write("+ OK\r\n"); err != nil {
				return cmd, err
			}
		}
		body, rerr := e.c.ReadFull(length)
		if rerr != nil {
			return cmd, rerr
		}
		room -= length
		if line, rerr = e.c.ReadLine(left); rerr != nil {
			return cmd, rerr
		}
		left -= len(line)
		text, length, sync, literal = cutLiteral(string(line))
		cmd.args.more = append(cmd.args.more, part{literal: string(body), text: text})
	}
	return cmd, err
}

// early says whether a command is refused whatever its literals hold.
func (e *engine) early(cmd command) error {
	switch cmd.name {
	case "LOGIN":
		if !e.mayLogin() {
			return refusedCommand{cmd.tag, needTLS}
		}
		return nil
	case "ID":
		return nil
	}
	return badCommand{cmd.tag, "No literal is taken here."}
}

func (c command) respondTo() string {
	if c.tag == "" {
		return "*"
	}
	return c.tag
}

// cutLiteral splits the announcement of a literal, {n}, {n+} or {n-}, from the
// end of a line (RFC 9051, Section 4.3; RFC 7888). A length that is no number
// we can hold is reported as the largest one.
func cutLiteral(line string) (text string, length int, sync, literal bool) {
	if !strings.HasSuffix(line, "}") {
		return line, 0, false, false
	}
	open := strings.LastIndexByte(line, '{')
	if open < 0 {
		return line, 0, false, false
	}
	digits, nonSync := strings.CutSuffix(line[open+1:len(line)-1], "+")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return line, 0, false, false
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		n = 1<<31 - 1
	}
	return line[:open], int(n), !nonSync, true
}

// parseHead takes tag and name off the first line.
func parseHead(line string) (command, error) {
	tag, rest, _ := strings.Cut(line, " ")
	if !validTag(tag) {
		return command{}, badCommand{"*", "Malformed tag."}
	}
	end := strings.IndexByte(rest, ' ')
	if end < 0 {
		end = len(rest)
	}
	name := strings.ToUpper(rest[:end])
	if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return command{tag: tag}, badCommand{tag, "Malformed command."}
	}
	return command{tag: tag, name: name, args: args{text: rest[end:]}}, nil
}

// validTag: 1*<any ASTRING-CHAR except "+"> (RFC 9051, Section 9).
func validTag(tag string) bool {
	if tag == "" || len(tag) > maxTagBytes {
		return false
	}
	for i := range len(tag) {
		if !astringChar(tag[i]) || tag[i] == '+' {
			return false
		}
	}
	return true
}

func astringChar(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune(`(){%*"\`, rune(c))
}

// args is a cursor over a command's arguments: text, then literals each
// followed by text. Every method consumes what it takes and reports whether it
// was there.
type args struct {
	text string
	more []part
}

type part struct{ literal, text string }

func (a *args) end() bool { return a.text == "" && len(a.more) == 0 }

func (a *args) char(c byte) bool {
	if a.text == "" || a.text[0] != c {
		return false
	}
	a.text = a.text[1:]
	return true
}

func (a *args) space() bool { return a.char(' ') }

// word takes everything up to a space.
func (a *args) word(into *string) bool {
	word, rest := a.text, ""
	if i := strings.IndexByte(a.text, ' '); i >= 0 {
		word, rest = a.text[:i], a.text[i:]
	}
	*into, a.text = word, rest
	return word != ""
}

func (a *args) astring(into *string) bool {
	if a.text == "" || a.text[0] == '"' {
		return a.string(into)
	}
	n := 0
	for n < len(a.text) && astringChar(a.text[n]) {
		n++
	}
	*into, a.text = a.text[:n], a.text[n:]
	return n > 0
}

// string takes a quoted string or a literal. Octets above 127 are taken in
// both (RFC 9051, Section 4.3), NUL, CR and LF in neither.
func (a *args) string(into *string) bool {
	if a.text == "" {
		if len(a.more) == 0 {
			return false
		}
		*into, a.text, a.more = a.more[0].literal, a.more[0].text, a.more[1:]
		return !strings.ContainsAny(*into, "\x00\r\n")
	}
	if !a.char('"') {
		return false
	}
	var b strings.Builder
	for i := 0; i < len(a.text); i++ {
		switch c := a.text[i]; c {
		case '"':
			*into, a.text = b.String(), a.text[i+1:]
			return true
		case 0, '\r':
			return false
		case '\\':
			i++
			if i == len(a.text) || a.text[i] != '"' && a.text[i] != '\\' {
				return false
			}
			b.WriteByte(a.text[i])
		default:
			b.WriteByte(c)
		}
	}
	return false
}

func (a *args) null() bool {
	if len(a.text) < 3 || !strings.EqualFold(a.text[:3], "NIL") {
		return false
	}
	a.text = a.text[3:]
	return true
}

// maxIDPairs: RFC 2971, Section 3.3.
const maxIDPairs = 30

// id takes the argument of ID: SP (NIL / "(" [string SP nstring ...] ")").
func (a *args) id() bool {
	if !a.space() {
		return false
	}
	if a.null() {
		return a.end()
	}
	if !a.char('(') {
		return false
	}
	for pairs := 0; !a.char(')'); pairs++ {
		if pairs == maxIDPairs || pairs > 0 && !a.space() {
			return false
		}
		var field, value string
		if !a.string(&field) || !a.space() {
			return false
		}
		if !a.null() && !a.string(&value) {
			return false
		}
	}
	return a.end()
}
