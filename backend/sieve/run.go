package sieve

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Run runs scripts in their order, site scripts before and after the user's,
// and says what is to be done with the message.
//
// A script is followed by the next as long as the message is still to be kept:
// nothing cancelled the implicit keep, or an explicit keep was done. Such a
// keep is put off: the last script that runs decides. Its flags are what the
// next script begins with. All other actions accumulate. A stop ends its own
// script only.
//
// The result can always be used. If a script fails, it says Failed, the error
// is a *RunError, no further script runs, what the failed script asked for is
// left out, and the message is kept as it came. If the message itself cannot
// be read the error is another.
func Run(ctx context.Context, scripts []*Script, msg Message, env *Environment, limits Limits) (Result, error) {
	m := &machine{ctx: ctx, msg: msg, env: env.filled(), limits: limits.filled()}
	if err := ctx.Err(); err != nil {
		return failed(m), fmt.Errorf("sieve: %w", err)
	}
	original, err := msg.Header()
	if err != nil {
		return failed(m), fmt.Errorf("sieve: %w", err)
	}
	m.current = original
	m.keep = true
	for i, s := range scripts {
		before := len(m.actions)
		if err := m.script(s); err != nil {
			m.actions = m.actions[:before]
			m.memories = nil
			return failed(m), err
		}
		if m.keepAction == nil && !m.keep {
			break
		}
		if i+1 < len(scripts) {
			m.deferKeep()
		}
	}
	return m.result(), nil
}

// failed keeps the message as it came, beside what earlier scripts asked for.
func failed(m *machine) Result {
	actions := slices.DeleteFunc(m.actions, func(a Action) bool { _, keep := a.(*Keep); return keep })
	return Result{Actions: append(actions, &Keep{Implicit: true}), Failed: true, Steps: m.steps, Memories: m.earlier}
}

// result works out the implicit keep (RFC 5228, Section 2.10.2).
func (m *machine) result() Result {
	if m.keep && m.keepAction == nil {
		m.actions = append(m.actions, &Keep{Flags: m.flagsNow(), Header: m.edited(), Implicit: true})
	}
	if len(m.actions) == 0 {
		m.actions = []Action{&Discard{}}
	}
	return Result{Actions: m.actions, Memories: append(m.earlier, m.memories...), Steps: m.steps}
}

// deferKeep leaves the keeping to the next script.
func (m *machine) deferKeep() {
	if m.keepAction != nil {
		m.flags = m.keepAction.Flags
		m.actions = slices.DeleteFunc(m.actions, func(a Action) bool { return a == Action(m.keepAction) })
		m.keepAction = nil
	}
	m.keep = true
	m.earlier = append(m.earlier, m.memories...)
	m.memories = nil
}

// machine is one run.
type machine struct {
	ctx    context.Context
	msg    Message
	env    *Environment
	limits Limits
	steps  int

	// The message as it looks now: edited header, decoded values by name in
	// lower case, and the body's texts.
	current *Header
	decoded map[string][]string
	parsed  map[string][][]address
	body    *bodyView

	// What the scripts asked for.
	actions           []Action
	memories, earlier []Memory
	keep              bool  // the implicit keep is in effect
	keepAction        *Keep // the explicit keep, if there is one
	flags             []string
	redirects         int
	notices           int
	edits, added      int
	vacations         int // of the script that runs

	// The script that runs, and the scripts included.
	frame    *frame
	globals  map[string]string
	included map[string]bool
	open     []string
	includes int
	first    int // the first action of the script that runs
}

// frame is a script's own memory.
type frame struct {
	script  *Script
	vars    []string
	matches []string
}

// script runs one script of the sequence.
func (m *machine) script(s *Script) error {
	m.globals, m.included, m.open = map[string]string{}, map[string]bool{}, nil
	m.first, m.vacations, m.includes = len(m.actions), 0, 0
	err := m.call(s)
	if errors.Is(err, errStop) || errors.Is(err, errReturn) {
		return nil
	}
	return err
}

// call runs a script with a memory of its own.
func (m *machine) call(s *Script) error {
	outer := m.frame
	m.frame = &frame{script: s, vars: make([]string, s.slots)}
	err := m.block(s.body)
	m.frame = outer
	return err
}

func (m *machine) block(body []statement) error {
	for i := range body {
		err := m.work(1)
		if err == nil {
			err = body[i].op.do(m)
		}
		if err != nil {
			return m.at(body[i].line, err)
		}
	}
	return nil
}

// at tells where an error came from, unless that is told already.
func (m *machine) at(line int, err error) error {
	if err == errStop || err == errReturn {
		return err
	}
	if _, ok := err.(*RunError); ok {
		return err
	}
	return &RunError{Script: m.frame.script.name, Line: line, Err: err}
}

// work counts steps, and looks at the context now and then.
func (m *machine) work(n int) error {
	before := m.steps
	if m.steps += n; m.steps > m.limits.Steps {
		return limitError("the script does more work than is allowed for one message")
	}
	if before>>10 != m.steps>>10 {
		return m.ctx.Err()
	}
	return nil
}

// left tells how many steps may still be done, and one more, so that whoever
// uses them up is over the limit.
func (m *machine) left() int { return m.limits.Steps - m.steps + 1 }

func (m *machine) get(v variable) string {
	switch v.source {
	case local:
		return m.frame.vars[v.slot]
	case global:
		return m.globals[v.name]
	}
	if v.slot < len(m.frame.matches) {
		return m.frame.matches[v.slot]
	}
	return ""
}

func (m *machine) set(v variable, s string) error {
	s = cut(s, m.limits.VariableBytes)
	if v.source == local {
		m.frame.vars[v.slot] = s
		return nil
	}
	if _, ok := m.globals[v.name]; !ok && len(m.globals) >= m.limits.Variables {
		return limitError("more than %d global variables", m.limits.Variables)
	}
	m.globals[v.name] = s
	return nil
}

// setMatches sets the match variables (RFC 5229, Section 3.2).
func (m *machine) setMatches(whole string, found []string) {
	found = found[:min(len(found), matchVariables)]
	list := make([]string, 0, 1+len(found))
	list = append(list, cut(whole, m.limits.VariableBytes))
	for _, s := range found {
		list = append(list, cut(s, m.limits.VariableBytes))
	}
	m.frame.matches = list
}

// header gives a field's decoded values; each name is looked up once.
func (m *machine) header(name string) []string {
	values, ok := m.decoded[name]
	if ok {
		return values
	}
	values = m.current.values(name)
	for i, v := range values {
		values[i] = decode(v)
	}
	if m.decoded == nil {
		m.decoded = make(map[string][]string, 8)
	}
	m.decoded[name] = values
	return values
}

// addresses gives the addresses of each field of a name, one list per field;
// they are parsed once.
func (m *machine) addresses(name string) [][]address {
	lists, ok := m.parsed[name]
	if ok {
		return lists
	}
	for _, v := range m.current.values(name) {
		lists = append(lists, parseAddresses(v))
	}
	if m.parsed == nil {
		m.parsed = make(map[string][][]address, 4)
	}
	m.parsed[name] = lists
	return lists
}

// edited gives the header if a script changed it.
func (m *machine) edited() *Header {
	if m.current.Edited() {
		return m.current
	}
	return nil
}

// specialUse gives the mailbox with a special use.
func (m *machine) specialUse(use string) (string, bool, error) {
	if m.env.SpecialUse == nil {
		return "", false, nil
	}
	return m.env.SpecialUse(m.ctx, use)
}
