package imap

import "strings"

// maxCommand bounds a command's bytes outside of literals. It is below the
// protocol library's own bound, because that one runs the rest of an overlong
// line as commands. RFC 2683, Section 3.2.1.5 asks for 8,000 at least.
const maxCommand = 48 << 10

// maxShortLiteral bounds literals that do not wait for leave (RFC 7888,
// Section 5), and all but APPEND's.
const maxShortLiteral = 4096

// frame tells commands apart in what a client sends: lines, and the literals
// that lines announce at their end (RFC 9051, Section 4.3). It exists because
// the protocol library loses its place after some refusals: it would run the
// bytes of a refused literal as commands. With frame the connection notices.
type frame struct {
	// text is the beginning of the command, for SEARCH all of it without its
	// literals.
	text   []byte
	search bool
	size   int

	inLine  bool  // some of a line was taken, not its end
	quoted  bool  // inside a quoted string
	escaped bool  // behind its backslash
	cr      bool  // behind a CR
	marker  int   // how far a literal's announcement has come
	number  int64 // the literal's size so far
	plus    bool

	pending bool  // a literal was announced and has not begun
	nonSync bool  // it follows without waiting for leave
	left    int64 // bytes of a literal that are not taken yet
}

// The steps of `{123+} CRLF`; a space may stand before the line end because
// the library takes one there.
const (
	markNone = iota
	markNumber
	markPlus
	markClosed
)

// command is what the client sent, as far as text keeps it, in upper case.
func (f *frame) command() string { return strings.ToUpper(string(f.text)) }

// verb is the second word of the command.
func (f *frame) verb() string {
	_, rest, _ := strings.Cut(f.command(), " ")
	v, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return v
}

// reset begins a new command.
func (f *frame) reset() {
	text := f.text[:0]
	if cap(text) > 1024 {
		text = nil // a long SEARCH's
	}
	*f = frame{text: text}
}

// unfinished reports that a command has begun whose end was not taken.
func (f *frame) unfinished() bool { return f.inLine || f.left > 0 || f.pending }

// tooBig reports a literal that comes without leave and that the library
// refuses.
func (f *frame) tooBig() bool { return f.pending && f.nonSync && f.number > maxShortLiteral }

// begin starts the announced literal.
func (f *frame) begin() {
	f.left, f.pending, f.nonSync = f.number, false, false
	f.number = 0
}

// line takes bytes up to and including a line end and gives their number; bad
// says why the connection must end.
func (f *frame) line(b []byte) (n int, bad string) {
	for i, c := range b {
		f.size++
		if f.size > maxCommand {
			return i, "the command is too long"
		}
		f.keep(c)
		f.inLine = true
		switch {
		case c == '\n':
			return i + 1, f.endLine()
		case f.cr || c == 0:
			// A CR alone ends no line, but the library stops there.
			return i, "a control character in a command"
		}
		f.step(c)
	}
	return len(b), ""
}

// step follows quoted strings and the announcement of a literal.
func (f *frame) step(c byte) {
	if f.cr = c == '\r'; f.cr {
		return
	}
	if f.quoted {
		switch {
		case f.escaped:
			f.escaped = false
		case c == '\\':
			f.escaped = true
		case c == '"':
			f.quoted = false
		}
		return
	}
	switch {
	case c == '"':
		f.quoted, f.marker = true, markNone
	case c == '{':
		f.marker, f.number, f.plus = markNumber, 0, false
	case f.marker == markNumber && c >= '0' && c <= '9':
		f.number = min(f.number*10+int64(c-'0'), 1<<50)
	case f.marker == markNumber && c == '+':
		f.marker, f.plus = markPlus, true
	case (f.marker == markNumber || f.marker == markPlus) && c == '}':
		f.marker = markClosed
	case f.marker == markClosed && c == ' ':
	default:
		f.marker = markNone
	}
}

func (f *frame) endLine() (bad string) {
	if f.quoted {
		return "a quoted string without its end"
	}
	f.pending = f.marker == markClosed
	f.nonSync = f.pending && f.plus
	f.inLine, f.cr, f.marker = false, false, markNone
	return ""
}

// keep stores what verb and the check of SEARCH need.
func (f *frame) keep(c byte) {
	if f.search || len(f.text) < 64 {
		f.text = append(f.text, c)
	}
	if !f.search && c == ' ' && len(f.text) < 64 {
		words := strings.Fields(f.command())
		f.search = len(words) == 2 && words[1] == "SEARCH" ||
			len(words) == 3 && words[1] == "UID" && words[2] == "SEARCH"
	}
}
