package sieve

import (
	"strings"
	"unicode/utf8"
)

type argKind byte

const (
	argTag argKind = iota
	argNumber
	argString
	argList
)

// arg is one argument as it is written.
type arg struct {
	position
	kind   argKind
	text   string // a tag's name, a string's value
	number int64
	list   []token // the strings of a list, or the one string
}

// node is a command or a test as it is written (RFC 5228, Section 8.2).
type node struct {
	position
	name     string
	args     []arg
	tests    []*node
	block    []*node
	hasBlock bool
}

// parser builds the nodes of a script, knowing nothing of what they mean.
type parser struct {
	lexer
	limits Limits
	tok    token
	depth  int
	nodes  int
}

// parse reads a whole script. A script with an error of grammar gives that
// error alone: what follows it cannot be trusted.
func parse(src string, limits Limits) ([]*node, *Error) {
	p := &parser{lexer: lexer{src: src, line: 1}, limits: limits}
	if len(src) > limits.ScriptBytes {
		return nil, p.here().fault("the script has %d bytes; at most %d are allowed", len(src), limits.ScriptBytes)
	}
	if err := p.checkText(); err != nil {
		return nil, err
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	var out []*node
	for p.tok.kind != tokenEnd {
		n, err := p.command()
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// checkText finds what may be in no script: octets that are not UTF-8, and NUL.
func (p *parser) checkText() *Error {
	bad := strings.IndexByte(p.src, 0)
	if bad < 0 && !utf8.ValidString(p.src) {
		for i, r := range p.src {
			if _, n := utf8.DecodeRuneInString(p.src[i:]); r == utf8.RuneError && n == 1 {
				bad = i
				break
			}
		}
	}
	if bad < 0 {
		return nil
	}
	before := p.src[:bad]
	at := position{1 + strings.Count(before, "\n"), bad - strings.LastIndexByte(before, '\n')}
	return at.fault("the octet %#02x is not allowed: scripts are UTF-8 text", p.src[bad])
}

func (p *parser) advance() (err *Error) {
	p.tok, err = p.next()
	return err
}

func (p *parser) isMark(mark string) bool { return p.tok.kind == tokenMark && p.tok.text == mark }

// deeper is called on entering a block or a test; the caller counts depth down.
func (p *parser) deeper() *Error {
	if p.depth++; p.depth > p.limits.Nesting {
		return p.tok.fault("blocks and tests are nested too deep: at most %d levels are allowed", p.limits.Nesting)
	}
	return nil
}

// head reads what commands and tests have in common: name, arguments, tests.
func (p *parser) head(what string) (*node, *Error) {
	if p.tok.kind != tokenName {
		return nil, p.tok.fault("expected the name of a %s here, not %s", what, p.tok.describe())
	}
	if p.nodes++; p.nodes > p.limits.Commands {
		return nil, p.tok.fault("the script is too long: at most %d commands and tests are allowed", p.limits.Commands)
	}
	n := &node{position: p.tok.position, name: p.tok.text}
	if err := p.advance(); err != nil {
		return nil, err
	}
	for {
		a, ok, err := p.argument()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		n.args = append(n.args, a)
	}
	return n, p.testsOf(n)
}

func (p *parser) command() (*node, *Error) {
	n, err := p.head("command")
	if err != nil {
		return nil, err
	}
	switch {
	case p.isMark(";"):
		return n, p.advance()
	case p.isMark("{"):
		return n, p.blockOf(n)
	}
	return nil, p.tok.fault("expected a semicolon or a block behind %q, not %s", n.name, p.tok.describe())
}

func (p *parser) blockOf(n *node) *Error {
	n.hasBlock = true
	open := p.tok
	if err := p.deeper(); err != nil {
		return err
	}
	defer func() { p.depth-- }()
	if err := p.advance(); err != nil {
		return err
	}
	for !p.isMark("}") {
		if p.tok.kind == tokenEnd {
			return open.fault("this block has no end: } is missing")
		}
		inner, err := p.command()
		if err != nil {
			return err
		}
		n.block = append(n.block, inner)
	}
	return p.advance()
}

// testsOf reads one test, or a list of them, where there is one.
func (p *parser) testsOf(n *node) *Error {
	if p.tok.kind != tokenName && !p.isMark("(") {
		return nil
	}
	if err := p.deeper(); err != nil {
		return err
	}
	defer func() { p.depth-- }()
	if p.tok.kind == tokenName {
		inner, err := p.head("test")
		n.tests = append(n.tests, inner)
		return err
	}
	for {
		if err := p.advance(); err != nil {
			return err
		}
		inner, err := p.head("test")
		if err != nil {
			return err
		}
		n.tests = append(n.tests, inner)
		if p.isMark(",") {
			continue
		}
		if p.isMark(")") {
			return p.advance()
		}
		return p.tok.fault("expected , or ) in the list of tests, not %s", p.tok.describe())
	}
}

func (p *parser) argument() (a arg, ok bool, err *Error) {
	a = arg{position: p.tok.position, text: p.tok.text, number: p.tok.number}
	switch {
	case p.tok.kind == tokenTag:
		a.kind = argTag
	case p.tok.kind == tokenNumber:
		a.kind = argNumber
	case p.tok.kind == tokenString:
		a.kind, a.list = argString, []token{p.tok}
	case p.isMark("["):
		a.kind = argList
		a.list, err = p.stringList()
	default:
		return a, false, nil
	}
	if err != nil {
		return a, false, err
	}
	return a, true, p.advance()
}

// stringList reads up to, not including, the closing bracket.
func (p *parser) stringList() (list []token, err *Error) {
	for {
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.tok.kind != tokenString {
			return nil, p.tok.fault("expected a string in the list, not %s", p.tok.describe())
		}
		list = append(list, p.tok)
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.isMark("]") {
			return list, nil
		}
		if !p.isMark(",") {
			return nil, p.tok.fault("expected , or ] in the list of strings, not %s", p.tok.describe())
		}
	}
}
