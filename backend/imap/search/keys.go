package search

import (
	"strings"
	"time"

	"waypost/backend/imap/collate"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// kind is what a key asks for.
type kind uint8

const (
	kAnd kind = iota // of all kids
	kOr
	kNot
	kAll
	kSet
	kFlag // one of the system's
	kKeyword
	kRecent
	kLarger
	kSmaller
	kModSeq
	kArrived // internal date
	kSaved
	kSent
	kOlder
	kYounger
	kSaveDates
	kEmailID
	kThreadID
	kHeader
	kBody
	kText
)

// key is a node of the tree of keys.
type key struct {
	kind kind
	kids []*key
	// set and byUID are of kSet.
	set   syntax.Set
	byUID bool
	flag  mailbox.System
	n     int64
	// since and before are days in UTC, before excluded, zero where there is no bound.
	since, before time.Time
	// name is a field in lower case, a keyword or an id; text is prepared by collate.
	name, text string
}

// all reads keys up to the command's end.
func (p *parser) all() (*key, error) {
	and := &key{kind: kAnd}
	for {
		k, err := p.key()
		if err != nil {
			return nil, err
		}
		and.kids = append(and.kids, k)
		if !p.More() {
			return and, nil
		}
		if err := p.SP(); err != nil {
			return nil, err
		}
	}
}

// key reads one key.
func (p *parser) key() (*key, error) {
	if p.keys++; p.keys > maxKeys {
		return nil, ErrTooMuch
	}
	switch c := p.Peek(); {
	case c == '(':
		and := &key{kind: kAnd}
		err := p.List(false, func() error {
			k, err := p.key()
			and.kids = append(and.kids, k)
			return err
		})
		return and, err
	case c >= '0' && c <= '9' || c == '*' || c == '$':
		return p.numbers(false)
	}
	name, err := p.Name()
	if err != nil {
		return nil, err
	}
	if k, ok := plain(name); ok {
		return k, nil
	}
	if err := p.SP(); err != nil {
		if !takesArgument(name) {
			return nil, syntax.Syntax("unknown search key %s", name)
		}
		return nil, err
	}
	return p.withArgument(name)
}

// numbers reads a set; in UIDONLY mode only UIDs, which "$" is of.
func (p *parser) numbers(byUID bool) (*key, error) {
	set, err := p.Set()
	if err != nil {
		return nil, err
	}
	if p.q.opts.UIDOnly && !byUID && !set.Saved {
		return nil, ErrUIDRequired
	}
	return &key{kind: kSet, set: set, byUID: byUID}, nil
}

func not(k *key) *key { return &key{kind: kNot, kids: []*key{k}} }

// plain are the keys without an argument.
func plain(name string) (*key, bool) {
	flag := func(s mailbox.System) *key { return &key{kind: kFlag, flag: s} }
	switch name {
	case "ALL":
		return &key{kind: kAll}, true
	case "ANSWERED":
		return flag(mailbox.Answered), true
	case "DELETED":
		return flag(mailbox.Deleted), true
	case "DRAFT":
		return flag(mailbox.Draft), true
	case "FLAGGED":
		return flag(mailbox.Flagged), true
	case "SEEN":
		return flag(mailbox.Seen), true
	case "UNANSWERED":
		return not(flag(mailbox.Answered)), true
	case "UNDELETED":
		return not(flag(mailbox.Deleted)), true
	case "UNDRAFT":
		return not(flag(mailbox.Draft)), true
	case "UNFLAGGED":
		return not(flag(mailbox.Flagged)), true
	case "UNSEEN":
		return not(flag(mailbox.Seen)), true
	case "RECENT":
		return &key{kind: kRecent}, true
	case "OLD":
		return not(&key{kind: kRecent}), true
	case "NEW":
		return &key{kind: kAnd, kids: []*key{{kind: kRecent}, not(flag(mailbox.Seen))}}, true
	case "SAVEDATESUPPORTED":
		return &key{kind: kSaveDates}, true
	}
	return nil, false
}

// dated are the keys with a date: which date it is, and which side of it.
var dated = map[string]struct {
	kind          kind
	since, before bool
}{
	"BEFORE": {kArrived, false, true}, "ON": {kArrived, true, true}, "SINCE": {kArrived, true, false},
	"SENTBEFORE": {kSent, false, true}, "SENTON": {kSent, true, true}, "SENTSINCE": {kSent, true, false},
	"SAVEDBEFORE": {kSaved, false, true}, "SAVEDON": {kSaved, true, true}, "SAVEDSINCE": {kSaved, true, false},
}

// fields are the keys that are fields' names.
var fields = map[string]bool{"BCC": true, "CC": true, "FROM": true, "SUBJECT": true, "TO": true}

func takesArgument(name string) bool {
	switch name {
	case "KEYWORD", "UNKEYWORD", "LARGER", "SMALLER", "OLDER", "YOUNGER", "MODSEQ", "EMAILID", "THREADID",
		"HEADER", "BODY", "TEXT", "NOT", "OR", "UID", "FUZZY":
		return true
	}
	_, ok := dated[name]
	return ok || fields[name]
}

// withArgument reads the rest of a key that has arguments.
func (p *parser) withArgument(name string) (*key, error) {
	if d, ok := dated[name]; ok {
		return p.date(d.kind, d.since, d.before)
	}
	if fields[name] {
		return p.header(strings.ToLower(name))
	}
	switch name {
	case "KEYWORD", "UNKEYWORD":
		return p.keyword(name == "UNKEYWORD")
	case "LARGER", "SMALLER", "OLDER", "YOUNGER":
		return p.number(name)
	case "MODSEQ":
		return p.modSeq()
	case "EMAILID", "THREADID":
		return p.objectID(name)
	case "HEADER":
		field, err := p.text()
		if err != nil {
			return nil, err
		}
		if err := p.SP(); err != nil {
			return nil, err
		}
		return p.header(strings.ToLower(field))
	case "BODY", "TEXT":
		return p.inText(name)
	case "NOT", "FUZZY":
		// FUZZY (RFC 6203, Section 3) may match as exactly as the server likes.
		return p.wrapped(name)
	case "OR":
		return p.or()
	case "UID":
		return p.numbers(true)
	}
	return nil, syntax.Syntax("unknown search key %s", name)
}

// text reads a string and makes it UTF-8.
func (p *parser) text() (string, error) {
	s, err := p.AString()
	if err != nil {
		return "", err
	}
	return p.charset(s)
}

func (p *parser) date(what kind, since, before bool) (*key, error) {
	day, err := p.Date()
	if err != nil {
		return nil, err
	}
	k := &key{kind: what}
	if since {
		k.since = day
	}
	if before && since {
		day = day.AddDate(0, 0, 1)
	}
	if before {
		k.before = day
	}
	return k, nil
}

func (p *parser) keyword(negated bool) (*key, error) {
	word, err := p.Flag()
	if err != nil {
		return nil, err
	}
	k := &key{kind: kKeyword, name: word}
	if negated {
		return not(k), nil
	}
	return k, nil
}

// number reads sizes, which RFC 9051 lets have 63 bits, and seconds, which are not 0 (RFC
// 5032, Section 3).
func (p *parser) number(name string) (*key, error) {
	n, err := p.Number64()
	if err != nil {
		return nil, err
	}
	k := &key{n: int64(n)}
	switch name {
	case "LARGER":
		k.kind = kLarger
	case "SMALLER":
		k.kind = kSmaller
	case "OLDER":
		k.kind = kOlder
	default:
		k.kind = kYounger
	}
	if (k.kind == kOlder || k.kind == kYounger) && (n == 0 || n > 1<<32-1) {
		return nil, syntax.Syntax("invalid number of seconds")
	}
	return k, nil
}

// modSeq reads a number, or before it the name of what has changed and whose that is (RFC 7162,
// Section 3.1.5). Mod-sequences are the whole message's here, which that section allows.
func (p *parser) modSeq() (*key, error) {
	if p.Peek() == '"' {
		if _, err := p.String(); err != nil {
			return nil, err
		}
		if err := p.SP(); err != nil {
			return nil, err
		}
		switch kind, err := p.Name(); {
		case err != nil:
			return nil, err
		case kind != "PRIV" && kind != "SHARED" && kind != "ALL":
			return nil, syntax.Syntax("invalid entry type")
		}
		if err := p.SP(); err != nil {
			return nil, err
		}
	}
	n, err := p.Number64()
	p.q.modseq = true
	return &key{kind: kModSeq, n: int64(n)}, err
}

// objectID reads EMAILID's or THREADID's (RFC 8474, Section 6).
func (p *parser) objectID(name string) (*key, error) {
	id, err := p.AString()
	if err != nil {
		return nil, err
	}
	k := &key{kind: kEmailID, name: id}
	if name == "THREADID" {
		k.kind = kThreadID
	}
	return k, nil
}

func (p *parser) header(name string) (*key, error) {
	text, err := p.text()
	return &key{kind: kHeader, name: name, text: collate.Key(text)}, err
}

func (p *parser) inText(name string) (*key, error) {
	text, err := p.text()
	if err != nil {
		return nil, err
	}
	if p.texts++; p.texts > maxTexts {
		return nil, ErrTooMuch
	}
	k := &key{kind: kBody, text: collate.Key(text)}
	if name == "TEXT" {
		k.kind = kText
	}
	return k, nil
}

// wrapped reads the key behind NOT or FUZZY.
func (p *parser) wrapped(name string) (*key, error) {
	if err := p.Enter(); err != nil {
		return nil, err
	}
	defer p.Leave()
	k, err := p.key()
	if err == nil && name == "NOT" {
		k = not(k)
	}
	return k, err
}

func (p *parser) or() (*key, error) {
	if err := p.Enter(); err != nil {
		return nil, err
	}
	defer p.Leave()
	a, err := p.key()
	if err != nil {
		return nil, err
	}
	if err := p.SP(); err != nil {
		return nil, err
	}
	b, err := p.key()
	return &key{kind: kOr, kids: []*key{a, b}}, err
}
