package sieve

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// act notes an action.
func (m *machine) act(a Action) error {
	if len(m.actions) >= m.limits.Actions {
		return limitError("more than %d actions", m.limits.Actions)
	}
	m.actions = append(m.actions, a)
	return nil
}

// conflict refuses an action beside a reject, and a reject beside an action
// that delivers or answers (RFC 5429, Section 2.5; RFC 5230, Section 4.7), in
// one script.
func (m *machine) conflict(rejects bool, what string) error {
	for _, a := range m.actions[m.first:] {
		switch a.(type) {
		case *Reject:
			return fmt.Errorf("%s cannot be used with reject: the message was refused already", what)
		case *Keep, *FileInto, *Redirect, *Vacation:
			if rejects {
				return fmt.Errorf("%s cannot be used with keep, fileinto, redirect or vacation, which were done already", what)
			}
		}
	}
	return nil
}

// optionalFlags compiles ":flags"; nil if it is not there.
func (c *compiler) optionalFlags(b *call) (*texts, *Error) {
	if !b.tagged("flags") {
		return nil, nil
	}
	list, err := c.strings(b.tags["flags"][0])
	return &list, err
}

// flagsFor gives the flags of an action: those named, or the current ones.
func (m *machine) flagsFor(named *texts) ([]string, error) {
	if named == nil {
		return m.flagsNow(), nil
	}
	values, err := named.values(m)
	if err != nil {
		return nil, err
	}
	return m.addFlags(nil, values)
}

type keepOp struct{ flags *texts }

func compileKeep(c *compiler, b *call) (op, *Error) {
	flags, err := c.optionalFlags(b)
	return &keepOp{flags}, err
}

func (o *keepOp) do(m *machine) error {
	flags, err := m.flagsFor(o.flags)
	if err != nil {
		return err
	}
	return m.keepNow(flags)
}

// keepNow keeps the message; a second keep only brings its flags and header
// (RFC 5232, Section 3: the last flags win).
func (m *machine) keepNow(flags []string) error {
	if err := m.conflict(false, "keep"); err != nil {
		return err
	}
	m.keep = false
	if m.keepAction != nil {
		m.keepAction.Flags, m.keepAction.Header = flags, m.edited()
		return nil
	}
	m.keepAction = &Keep{Flags: flags, Header: m.edited()}
	return m.act(m.keepAction)
}

type discardOp struct{}

func compileDiscard(*compiler, *call) (op, *Error) { return discardOp{}, nil }

func (discardOp) do(m *machine) error {
	m.keep = false
	return nil
}

type fileIntoOp struct {
	folder       text
	flags        *texts
	use          *text
	copy, create bool
}

func compileFileInto(c *compiler, b *call) (op, *Error) {
	o := &fileIntoOp{copy: b.tagged("copy"), create: b.tagged("create")}
	var err *Error
	if o.flags, err = c.optionalFlags(b); err != nil {
		return nil, err
	}
	if b.tagged("specialuse") {
		use, err := c.string(b.tags["specialuse"][0])
		if err != nil {
			return nil, err
		}
		o.use = &use
	}
	if o.folder, err = c.string(b.pos[0]); err != nil {
		return nil, err
	}
	if o.folder.isConstant() {
		if err := checkFolder(o.folder.constant); err != nil {
			return nil, b.pos[0].fault("%v", err)
		}
	}
	return o, nil
}

// checkFolder refuses what can be no mailbox's name.
func checkFolder(name string) error {
	switch {
	case name == "":
		return errors.New("the name of a folder is empty")
	case len(name) > 1024:
		return errors.New("the name of a folder is longer than 1024 bytes")
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("the name of the folder %q has control characters", cut(name, 100))
	}
	return nil
}

func (o *fileIntoOp) do(m *machine) error {
	if err := m.conflict(false, "fileinto"); err != nil {
		return err
	}
	name, err := o.folder.value(m)
	if err != nil {
		return err
	}
	if name = strings.ToValidUTF8(name, string(utf8.RuneError)); checkFolder(name) != nil {
		return checkFolder(name)
	}
	f := &FileInto{Folder: name, Create: o.create, Copy: o.copy, Header: m.edited()}
	if f.Flags, err = m.flagsFor(o.flags); err != nil {
		return err
	}
	if err := o.specialUse(m, f); err != nil {
		return err
	}
	if equalFold(f.Folder, inbox) {
		keep := m.keep && o.copy
		err := m.keepNow(f.Flags)
		m.keep = keep
		return err
	}
	if !o.copy {
		m.keep = false
	}
	for _, a := range m.actions {
		if old, ok := a.(*FileInto); ok && old.Folder == f.Folder {
			old.Flags, old.Header, old.Create = f.Flags, f.Header, old.Create || f.Create
			return nil
		}
	}
	return m.act(f)
}

// specialUse files by special use where a mailbox has it (RFC 8579, Section 5).
func (o *fileIntoOp) specialUse(m *machine, f *FileInto) error {
	if o.use == nil {
		return nil
	}
	use, err := o.use.value(m)
	if err != nil {
		return err
	}
	name, ok, err := m.specialUse(use)
	if err != nil {
		return err
	}
	if ok {
		f.Folder = name
	} else {
		f.SpecialUse = use
	}
	return nil
}

type redirectOp struct {
	to         text
	copy, list bool
}

func compileRedirect(c *compiler, b *call) (op, *Error) {
	o := &redirectOp{copy: b.tagged("copy"), list: b.tagged("list")}
	var err *Error
	if o.to, err = c.string(b.pos[0]); err != nil {
		return nil, err
	}
	if _, ok := parseAddress(o.to.constant); !ok && o.to.isConstant() && !o.list {
		return nil, b.pos[0].fault("%q is no address to redirect to", o.to.constant)
	}
	return o, nil
}

func (o *redirectOp) do(m *machine) error {
	if err := m.conflict(false, "redirect"); err != nil {
		return err
	}
	to, err := o.to.value(m)
	if err != nil {
		return err
	}
	all := []string{to}
	if o.list {
		if m.env.Lists == nil || !m.env.Lists.Valid(to) {
			return fmt.Errorf("there is no list %q to redirect to", cut(to, 200))
		}
		if all, err = m.env.Lists.Members(m.ctx, to); err != nil {
			return fmt.Errorf("list %q: %w", cut(to, 200), err)
		}
	}
	for _, one := range all {
		if err := m.redirect(one, o.copy); err != nil {
			return err
		}
	}
	if !o.copy {
		m.keep = false
	}
	return nil
}

func (m *machine) redirect(to string, copied bool) error {
	a, ok := parseAddress(to)
	if !ok {
		return fmt.Errorf("%q is no address to redirect to", cut(to, 200))
	}
	for _, done := range m.actions {
		old, ok := done.(*Redirect)
		if !ok {
			continue
		}
		// Only the domain is without case (RFC 5321, Section 2.4).
		if was := envelopeAddress(old.Address); was.local == a.local && equalFold(was.domain, a.domain) {
			old.Header = m.edited()
			return nil
		}
	}
	if m.redirects++; m.redirects > m.limits.Redirects {
		return limitError("more than %d redirects", m.limits.Redirects)
	}
	return m.act(&Redirect{Address: quoteAddress(a), Header: m.edited(), Copy: copied})
}

// quoteAddress writes an address as SMTP wants it: the local part quoted where
// it must be (RFC 5321, Section 4.1.2).
func quoteAddress(a address) string {
	plain := a.local != "" && a.local[0] != '.' && !strings.HasSuffix(a.local, ".") && !strings.Contains(a.local, "..")
	for _, c := range []byte(a.local) {
		if c <= ' ' || strings.IndexByte(`()<>[]:;@\,"`, c) >= 0 || c == 0x7f {
			plain = false
		}
	}
	if plain {
		return a.String()
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a.local) + `"@` + a.domain
}

type rejectOp struct {
	reason   text
	extended bool
}

func compileReject(c *compiler, b *call) (op, *Error) {
	reason, err := c.string(b.pos[0])
	return &rejectOp{reason, b.name == "ereject"}, err
}

func (o *rejectOp) do(m *machine) error {
	if err := m.conflict(true, "reject"); err != nil {
		return err
	}
	reason, err := o.reason.value(m)
	if err != nil {
		return err
	}
	m.keep = false
	return m.act(&Reject{Reason: strings.ToValidUTF8(reason, string(utf8.RuneError)), Extended: o.extended})
}
