package search

import (
	"slices"

	"waypost/backend/imap/order"
	"waypost/backend/imap/syntax"
)

// Bounds of a command.
const (
	// maxKeys bounds search keys, maxTexts those that look into messages, each of which
	// costs a pass over all texts.
	maxKeys  = 1000
	maxTexts = 100
)

// algorithm is THREAD's.
type algorithm uint8

const (
	orderedSubject algorithm = iota
	references
	refs
)

// Algorithms are THREAD's, for the capabilities.
func Algorithms() []string { return []string{"ORDEREDSUBJECT", "REFERENCES", "REFS"} }

// parser is a command being read.
type parser struct {
	*syntax.Parser
	q       *Query
	keys    int
	texts   int
	charset func(string) (string, error)
}

// Parse reads a command's arguments from behind its name to its end. Errors: a
// *syntax.SyntaxError, ErrUIDRequired, ErrTooMuch, a *CharsetError, or one of the connection.
// After any of them the caller drains the command; the Query then tells of Save what was read.
func Parse(in *syntax.Parser, c Command, opts Options) (*Query, error) {
	p := &parser{Parser: in, q: &Query{command: c, opts: opts}, charset: utf8Only}
	if opts.UIDOnly && !opts.ByUID {
		return p.q, ErrUIDRequired
	}
	if err := p.SP(); err != nil {
		return p.q, err
	}
	if err := p.arguments(); err != nil {
		return p.q, err
	}
	all, err := p.all()
	if err != nil {
		return p.q, err
	}
	p.q.keys = all
	return p.q, p.End()
}

// arguments reads what comes before the keys, with the space behind it.
func (p *parser) arguments() error {
	if p.q.command != Thread && p.TakeName("RETURN") {
		if err := p.returns(); err != nil {
			return err
		}
	}
	switch p.q.command {
	case Search:
		if !p.TakeName("CHARSET") {
			return nil
		}
		if p.q.opts.UTF8 {
			return syntax.Syntax("no CHARSET with UTF8=ACCEPT")
		}
		if err := p.SP(); err != nil {
			return err
		}
	case Sort:
		if err := p.criteria(); err != nil {
			return err
		}
	case Thread:
		if err := p.algorithm(); err != nil {
			return err
		}
	}
	return p.readCharset()
}

func (p *parser) readCharset() error {
	name, err := p.AString()
	if err != nil {
		return err
	}
	if p.charset, err = charset(name); err != nil {
		return err
	}
	return p.SP()
}

// returns reads RETURN's list (RFC 4466, Section 2.6.1), with the space behind it.
func (p *parser) returns() error {
	r := &p.q.ret
	r.given = true
	if err := p.SP(); err != nil {
		return err
	}
	if err := p.List(true, p.returnOption); err != nil {
		return err
	}
	if r.all && r.partial != nil {
		return syntax.Syntax("ALL and PARTIAL exclude each other") // RFC 9394, Section 3.1
	}
	if !r.min && !r.max && !r.all && !r.count && !r.save && !r.update && r.partial == nil {
		r.all = true // RFC 4731, Section 3.1
	}
	return p.SP()
}

func (p *parser) returnOption() error {
	name, err := p.Name()
	if err != nil {
		return err
	}
	r := &p.q.ret
	switch name {
	case "MIN":
		r.min = true
	case "MAX":
		r.max = true
	case "ALL":
		r.all = true
	case "COUNT":
		r.count = true
	case "SAVE":
		r.save = true
	case "UPDATE":
		r.update = true
	case "CONTEXT": // a hint (RFC 5267, Section 4.2), of no use here
	case "PARTIAL":
		if r.partial != nil {
			return syntax.Syntax("PARTIAL is given twice")
		}
		if err := p.SP(); err != nil {
			return err
		}
		r.partial, err = p.window()
		return err
	default:
		return syntax.Syntax("unknown return option %s", name)
	}
	return nil
}

// window reads "1:100" or "-1:-100" (RFC 9394, Section 4).
func (p *parser) window() (*window, error) {
	w := &window{fromEnd: p.Peek() == '-'}
	for _, n := range []*uint32{&w.from, &w.to} {
		if w.fromEnd {
			if err := p.Expect('-'); err != nil {
				return nil, err
			}
		}
		var err error
		if *n, err = p.Positive(); err != nil {
			return nil, err
		}
		if n == &w.from {
			if err := p.Expect(':'); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

// criteria reads SORT's (RFC 5256, Section 5), with the space behind them.
func (p *parser) criteria() error {
	err := p.List(false, func() error {
		c := order.Criterion{Reverse: p.TakeName("REVERSE")}
		if c.Reverse {
			if err := p.SP(); err != nil {
				return err
			}
		}
		name, err := p.Name()
		if err != nil {
			return err
		}
		var ok bool
		if c.Key, ok = order.ParseKey(name); !ok {
			return syntax.Syntax("unknown sort key %s", name)
		}
		// What comes again could only tell those apart that are equal in it.
		if !slices.ContainsFunc(p.q.sort, func(had order.Criterion) bool { return had.Key == c.Key }) {
			p.q.sort = append(p.q.sort, c)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.SP()
}

func (p *parser) algorithm() error {
	name, err := p.Name()
	if err != nil {
		return err
	}
	for i, known := range Algorithms() {
		if name == known {
			p.q.thread = algorithm(i)
			return p.SP()
		}
	}
	return syntax.Syntax("unknown threading algorithm %s", name)
}
