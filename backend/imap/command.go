package imap

import (
	"errors"
	"fmt"

	"waypost/backend/imap/syntax"
)

// cmd is a command that runs: its parser stands behind its name.
type cmd struct {
	*syntax.Parser
	tag, name string
	uid       bool // it was "UID <name>"
	// code is the response code of its OK, or "".
	code string
	// highest: the OK tells HIGHESTMODSEQ (RFC 7162, Section 3.2.7).
	highest bool
	// done: the OK was written by the command itself.
	done bool
}

// states in which a command may be given (RFC 9051, Section 3).
type states uint8

const (
	before   states = 1 << iota // not authenticated
	after                       // authenticated
	selected                    // a mailbox is selected
	anytime  = before | after | selected
	loggedIn = after | selected
)

// command is what the server knows of one.
type command struct {
	run func(*session, *cmd) error
	in  states
	// withUID: there is a form with UID before it; onlyUID: no other.
	withUID bool
	// numbers: its answers have sequence numbers that an EXPUNGE among them would make
	// wrong (RFC 9051, Section 7.5.1). The form with UID may have them.
	numbers bool
	// sets: it names messages by their numbers, though none are in its answers.
	sets bool
	// expunges: it is what makes messages go, and tells so whatever NOTIFY says.
	expunges bool
	// again: its answers change nothing here, and are taken back where it is to be executed again.
	again bool
}

// commands is the table of all commands.
func commands() map[string]command {
	return map[string]command{
		"CAPABILITY":   {run: (*session).capability, in: anytime},
		"NOOP":         {run: (*session).noop, in: anytime},
		"LOGOUT":       {run: (*session).logout, in: anytime},
		"ID":           {run: (*session).id, in: anytime},
		"STARTTLS":     {run: (*session).startTLS, in: before},
		"LOGIN":        {run: (*session).login, in: before},
		"AUTHENTICATE": {run: (*session).authenticate, in: before},

		"ENABLE":       {run: (*session).enable, in: loggedIn},
		"COMPRESS":     {run: (*session).compress, in: loggedIn},
		"NAMESPACE":    {run: (*session).namespace, in: loggedIn},
		"SELECT":       {run: (*session).selectBox, in: loggedIn},
		"EXAMINE":      {run: (*session).selectBox, in: loggedIn},
		"CREATE":       {run: (*session).create, in: loggedIn},
		"DELETE":       {run: (*session).delete, in: loggedIn},
		"RENAME":       {run: (*session).rename, in: loggedIn},
		"SUBSCRIBE":    {run: (*session).subscribe, in: loggedIn},
		"UNSUBSCRIBE":  {run: (*session).subscribe, in: loggedIn},
		"LIST":         {run: (*session).list, in: loggedIn, again: true},
		"LSUB":         {run: (*session).lsub, in: loggedIn, again: true},
		"STATUS":       {run: (*session).status, in: loggedIn, again: true},
		"APPEND":       {run: (*session).append, in: loggedIn},
		"IDLE":         {run: (*session).idle, in: loggedIn},
		"NOTIFY":       {run: (*session).notifyCommand, in: loggedIn},
		"GETQUOTA":     {run: (*session).getQuota, in: loggedIn, again: true},
		"GETQUOTAROOT": {run: (*session).getQuotaRoot, in: loggedIn, again: true},
		"SETQUOTA":     {run: (*session).setQuota, in: loggedIn},
		"GETMETADATA":  {run: (*session).getMetadata, in: loggedIn, again: true},
		"SETMETADATA":  {run: (*session).setMetadata, in: loggedIn},
		"GETACL":       {run: (*session).getACL, in: loggedIn, again: true},
		"SETACL":       {run: (*session).setACL, in: loggedIn},
		"DELETEACL":    {run: (*session).deleteACL, in: loggedIn},
		"LISTRIGHTS":   {run: (*session).listRights, in: loggedIn, again: true},
		"MYRIGHTS":     {run: (*session).myRights, in: loggedIn, again: true},

		"CHECK":    {run: (*session).noop, in: selected},
		"CLOSE":    {run: (*session).closeBox, in: selected},
		"UNSELECT": {run: (*session).closeBox, in: selected},
		"EXPUNGE":  {run: (*session).expunge, in: selected, withUID: true, expunges: true},
		"FETCH":    {run: (*session).fetch, in: selected, withUID: true, numbers: true},
		"STORE":    {run: (*session).store, in: selected, withUID: true, numbers: true},
		"SEARCH":   {run: (*session).search, in: selected, withUID: true, numbers: true},
		"SORT":     {run: (*session).search, in: selected, withUID: true, numbers: true},
		"THREAD":   {run: (*session).search, in: selected, withUID: true, numbers: true},
		"COPY":     {run: (*session).copy, in: selected, withUID: true, sets: true},
		"MOVE":     {run: (*session).move, in: selected, withUID: true, sets: true, expunges: true},
		"REPLACE":  {run: (*session).replace, in: selected, withUID: true, sets: true, expunges: true},

		"CANCELUPDATE": {run: (*session).cancelUpdate, in: selected},
	}
}

// state is the session's.
func (s *session) state() states {
	switch {
	case s.box == nil:
		return before
	case s.view == nil:
		return after
	}
	return selected
}

// execute runs the command on the parser's line and answers it. An error ends the session.
func (s *session) execute() error {
	tag, err := s.p.Tag()
	if err != nil {
		tag = "*"
	}
	c := &cmd{Parser: s.p, tag: tag}
	if err == nil {
		err = s.dispatch(c)
	}
	return s.complete(c, s.fail(err))
}

// complete writes the tagged response.
func (s *session) complete(c *cmd, err error) error {
	var a *answer
	var se *syntax.SyntaxError
	switch {
	case err == nil:
		s.bads = 0
		if !c.done {
			s.ok(c)
		}
		return s.out.Err()
	case errors.Is(err, syntax.ErrLiteral):
		a = &answer{"NO", "TOOBIG", "the literal is too long"}
	case errors.As(err, &se):
		a = &answer{"BAD", "", se.Text}
	case !errors.As(err, &a):
		return err
	}
	s.out.Raw(c.tag).SP().Raw(a.kind).SP()
	if a.code != "" {
		s.out.Byte('[').Raw(a.code).Raw("] ")
	}
	s.out.Raw(a.text).CRLF()
	if a.kind == "BAD" {
		if s.bads++; s.bads >= maxBad {
			s.c.forget()
			return s.end(endBug)
		}
	}
	// From here on it must not be executed again.
	s.c.forget()
	s.way.Answered = true
	return s.p.Drain()
}

func (s *session) ok(c *cmd) {
	s.out.Raw(c.tag).Raw(" OK ")
	if c.highest && s.view != nil && s.enabled.condstore {
		c.code = fmt.Sprintf("HIGHESTMODSEQ %d", s.view.highest)
	}
	if c.code != "" {
		s.out.Byte('[').Raw(c.code).Raw("] ")
	}
	s.out.Raw(c.name).Raw(" completed").CRLF()
}

// dispatch finds the command and runs it.
func (s *session) dispatch(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	name, err := c.Name()
	if err == nil && name == "UID" {
		c.uid = true
		if err = c.SP(); err == nil {
			name, err = c.Name()
		}
	}
	if err != nil {
		return err
	}
	known, ok := s.srv.commands[name]
	switch {
	case !ok || c.uid && !known.withUID:
		return bad("unknown command")
	case known.in&s.state() == 0:
		return s.misplaced(known)
	}
	c.name = name
	if c.uid {
		c.name = "UID " + name
	}
	s.running = c.name
	if (known.numbers || known.sets) && !c.uid && s.enabled.uidOnly {
		return &answer{"BAD", "UIDREQUIRED", "message numbers are not allowed once UIDONLY is enabled"}
	}
	if name != "FETCH" {
		s.drop()
	}
	s.way.again = known.again
	had := s.view
	err = known.run(s, c)
	if s.view != nil && s.view == had && s.settled(err) {
		t := s.notify.telling(!known.numbers || c.uid)
		t.expunged = t.expunged || known.expunges
		if err := s.sync(t); err != nil {
			return err
		}
	}
	return err
}

// settled reports that the command has ended so that news may be told before its answer.
func (s *session) settled(err error) bool {
	var a *answer
	return err == nil || errors.As(err, &a)
}

func (s *session) misplaced(known command) error {
	switch {
	case s.state() == before:
		return bad("please log in first")
	case known.in == before:
		return bad("already authenticated")
	}
	return bad("no mailbox is selected")
}
