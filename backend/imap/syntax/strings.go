package syntax

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"waypost/backend/mutf7"
)

// Characters of tokens (RFC 9051, Section 9).
var (
	atomChars    = chars(`(){ %*"\]`, "")
	nameChars    = chars(`(){ %*"\]<[`, "")
	tagChars     = chars(`(){ %*"\+`, "]")
	astringChars = chars(`(){ %*"\`, "]")
	listChars    = chars(`(){ "\`, "]%*")
)

// chars are the printable ASCII characters without those of not; of also are some that
// not's author should not overlook.
func chars(not, also string) (t [256]bool) {
	for c := 0x21; c < 0x7f; c++ {
		t[c] = !bytes.Contains([]byte(not), []byte{byte(c)})
	}
	for _, c := range []byte(also) {
		t[c] = true
	}
	return t
}

// String takes a quoted string or a literal, into memory. It has no NUL.
func (p *Parser) String() (string, error) {
	switch p.Peek() {
	case '"':
		return p.quoted()
	case '{':
		return p.literal()
	}
	return "", Syntax("expected a string")
}

// AString takes an atom (with ']') or a string.
func (p *Parser) AString() (string, error) { return p.either(&astringChars) }

// ListMailbox takes a pattern of LIST, which may have '%' and '*' bare.
func (p *Parser) ListMailbox() (string, error) {
	s, err := p.either(&listChars)
	if err != nil {
		return "", err
	}
	return p.decodeName(s)
}

func (p *Parser) either(bare *[256]bool) (string, error) {
	if c := p.Peek(); c == '"' || c == '{' {
		return p.String()
	}
	a := p.while(bare)
	// Clients send UTF-8 bare, too, once it is accepted (RFC 6855); an atom does not
	// allow it, and nothing else it could mean begins so.
	if len(a) == 0 {
		return "", Syntax("expected a string or an atom")
	}
	return string(a), nil
}

// NString takes NIL or a string; ok is false for NIL.
func (p *Parser) NString() (s string, ok bool, err error) {
	if p.TakeName("NIL") {
		return "", false, nil
	}
	s, err = p.String()
	return s, err == nil, err
}

// NBytes takes NIL, a string or a literal8 of at most max bytes, which may have NULs;
// ok is false for NIL.
func (p *Parser) NBytes(max int) (s string, ok bool, err error) {
	c := p.Peek()
	if c != '{' && c != '~' {
		s, ok, err = p.NString()
		if err == nil && len(s) > max {
			err = Syntax("string too long")
		}
		return s, ok, err
	}
	p.extra = max // beside all else that the command says
	lit, err := p.Stream(int64(max), nil)
	if err != nil {
		return "", false, err
	}
	if p.size += int(lit.Size); p.size > p.limits.Command+max {
		p.open = lit
		return "", false, fmt.Errorf("%d bytes: %w", p.size, ErrLiteral)
	}
	b := make([]byte, lit.Size)
	if _, err := io.ReadFull(lit, b); err != nil {
		return "", false, err
	}
	return string(b), true, lit.Close()
}

// Ahead gives at most n bytes of what is next.
func (p *Parser) Ahead(n int) string { return string(p.line[p.pos:min(len(p.line), p.pos+n)]) }

// Mailbox takes a mailbox's name and gives it as UTF-8: names come in modified UTF-7
// (RFC 3501, Section 5.1.3), or as UTF-8 (RFC 9051, RFC 6855), which is told by its bytes.
func (p *Parser) Mailbox() (string, error) {
	s, err := p.AString()
	if err != nil {
		return "", err
	}
	return p.decodeName(s)
}

func (p *Parser) decodeName(s string) (string, error) {
	name, err := p.fromWire(s)
	if err != nil || p.Naming == nil {
		return name, err
	}
	return p.Naming(name), nil
}

func (p *Parser) fromWire(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", Syntax("a mailbox name that is not UTF-8")
	}
	if p.UTF8 {
		return s, nil
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			// Not to be sent here; those who do (go-imap, where it sees IMAP4rev2) leave out
			// the base64, not the escape.
			return strings.ReplaceAll(s, "&-", "&"), nil
		}
	}
	if name, err := mutf7.Decode(s); err == nil {
		return name, nil
	}
	// '&' as in "R&D", sent by a client that takes names for ASCII or UTF-8.
	return s, nil
}

func (p *Parser) quoted() (string, error) {
	p.pos++
	rest := p.line[p.pos:]
	if bytes.IndexByte(rest, '\r') >= 0 {
		return "", Syntax("a CR in a quoted string")
	}
	end := bytes.IndexAny(rest, "\"\\")
	if end >= 0 && rest[end] == '"' {
		p.pos += end + 1
		return p.text(rest[:end])
	}
	var out []byte
	for p.pos < len(p.line) {
		c := p.line[p.pos]
		p.pos++
		switch c {
		case '"':
			return p.text(out)
		case '\\':
			if p.pos == len(p.line) {
				return "", Syntax("a quoted string without its end")
			}
			// Only '"' and '\' need it; clients that escape more mean the character.
			c = p.line[p.pos]
			p.pos++
		}
		out = append(out, c)
	}
	return "", Syntax("a quoted string without its end")
}

func (p *Parser) text(b []byte) (string, error) {
	if bytes.IndexByte(b, 0) >= 0 {
		return "", Syntax("a NUL in a string")
	}
	return string(b), nil
}

// Literal is a literal as a stream. It must be read to its end before the next token is taken;
// Drain passes over what was not.
type Literal struct {
	// Size is its length in bytes.
	Size int64
	// Binary: it is a literal8, which may have NULs (RFC 3516, Section 4.4).
	Binary bool

	p    *Parser
	left int64
}

// Read implements io.Reader. A connection that ends inside is io.ErrUnexpectedEOF.
func (l *Literal) Read(b []byte) (int, error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.p.in.Read(b[:min(int64(len(b)), l.left)])
	l.left -= int64(n)
	if err == io.EOF && l.left > 0 {
		err = io.ErrUnexpectedEOF
	} else if err == io.EOF {
		err = nil
	}
	return n, err
}

// announcement reads "{123}", "{123+}" (RFC 7888) or "~{123}" (RFC 3516) at the line's end.
func (p *Parser) announcement() (lit *Literal, sync bool, err error) {
	lit = &Literal{p: p, Binary: p.Take('~')}
	if err := p.Expect('{'); err != nil {
		return nil, false, err
	}
	n, err := p.Number64()
	if err != nil {
		return nil, false, err
	}
	sync = !p.Take('+')
	if err := p.Expect('}'); err != nil {
		return nil, false, err
	}
	if p.More() {
		return nil, false, Syntax("text after a literal's announcement")
	}
	lit.Size, lit.left = int64(n), int64(n)
	return lit, sync, nil
}

// literal takes a literal into memory.
func (p *Parser) literal() (string, error) {
	lit, sync, err := p.announcement()
	if err != nil {
		return "", err
	}
	if lit.Size > int64(p.limits.Literal) || p.size+int(lit.Size) > p.limits.Command+p.extra {
		return "", p.refuse(lit, sync)
	}
	if err := p.accept(lit, sync); err != nil {
		return "", err
	}
	b := make([]byte, lit.Size)
	if _, err := io.ReadFull(lit, b); err != nil {
		return "", err
	}
	p.size += len(b)
	if err := p.closeLiteral(); err != nil {
		return "", err
	}
	return p.text(b)
}

// Stream takes a literal as a stream. One over max is refused: a *SyntaxError where
// the client waits for leave, else an ErrLiteral. check, if not nil, is asked before the
// client is told to send; its error refuses the literal.
func (p *Parser) Stream(max int64, check func(*Literal) error) (*Literal, error) {
	lit, sync, err := p.announcement()
	if err != nil {
		return nil, err
	}
	if lit.Size > max {
		return nil, p.refuse(lit, sync)
	}
	if check != nil {
		if err := check(lit); err != nil {
			p.hold(lit, sync)
			return nil, err
		}
	}
	return lit, p.accept(lit, sync)
}

// hold leaves a literal unread: Drain passes over it.
func (p *Parser) hold(lit *Literal, sync bool) {
	if p.refused = sync && !p.Grant(); !p.refused {
		p.open = lit
	}
}

// Grant reports that the client was told to go on before, and counts that.
func (p *Parser) Grant() bool {
	if p.Granted == 0 {
		return false
	}
	p.Granted--
	return true
}

func (p *Parser) refuse(lit *Literal, sync bool) error {
	p.hold(lit, sync)
	return fmt.Errorf("%d bytes: %w", lit.Size, ErrLiteral)
}

func (p *Parser) accept(lit *Literal, sync bool) error {
	p.open = lit
	if sync && !p.Grant() {
		return p.in.Continue()
	}
	return nil
}

// Close ends a stream, which must have been read to its end, and goes on with the line
// behind it.
func (l *Literal) Close() error { return l.p.closeLiteral() }

func (p *Parser) closeLiteral() error {
	if p.open != nil && p.open.left > 0 {
		return Syntax("a literal that was not read")
	}
	p.open = nil
	return p.readLine()
}

// Drain passes over what is left of a command that failed, so that none of it is taken
// for another: literals that the client sends without waiting. Beyond the limit it is
// ErrTooBig.
func (p *Parser) Drain() error {
	if !p.began {
		return nil
	}
	budget := p.limits.Drain
	for !p.refused {
		if p.open == nil {
			lit, sync := p.trailing()
			if lit == nil || sync && !p.Grant() {
				break
			}
			p.open = lit
		}
		if p.open.left > budget {
			return ErrTooBig
		}
		budget -= p.open.left
		if _, err := io.Copy(io.Discard, p.open); err != nil {
			return err
		}
		p.open, p.size = nil, 0
		if err := p.readLine(); err != nil {
			return err
		}
		budget -= int64(len(p.line))
	}
	p.line, p.pos, p.began = nil, 0, false
	return nil
}

// Left is what Drain has not passed over where it failed: the rest of a literal, in bytes, behind
// which a line follows.
func (p *Parser) Left() int64 {
	if p.open == nil {
		return 0
	}
	return p.open.left
}

// Skip goes on where Drain failed elsewhere, with what was Left there.
func (p *Parser) Skip(left int64) error {
	p.line, p.pos, p.size, p.extra, p.refused, p.began = nil, 0, 0, 0, false, true
	p.open = &Literal{p: p, Size: left, left: left}
	return p.Drain()
}

// trailing is the literal that the present line announces at its end, whatever stands
// before it.
func (p *Parser) trailing() (lit *Literal, sync bool) {
	at := bytes.LastIndexByte(p.line, '{')
	if at < 0 {
		return nil, false
	}
	was, line := p.pos, p.line
	p.pos, p.line = at, bytes.TrimRight(p.line, " ")
	lit, sync, err := p.announcement()
	p.pos, p.line = was, line
	if err != nil {
		return nil, false
	}
	return lit, sync
}
