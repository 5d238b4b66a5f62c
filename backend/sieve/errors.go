package sieve

import (
	"errors"
	"fmt"
	"strings"
)

// Error is one thing wrong with a script, or a warning about it. Line and
// Column count from 1, Column in bytes.
type Error struct {
	Script       string
	Line, Column int
	Text         string
	// extension marks what "ihave" puts off until the script runs (RFC 5463,
	// Section 4): the use of an extension that was not asked for.
	extension bool
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.Script, e.Line, e.Column, e.Text)
}

// Errors is all that is wrong with a script, in the order of its lines; at
// most Limits.Errors of them.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// RunError tells where in which script a run failed, and why.
type RunError struct {
	Script string
	Line   int
	Err    error
}

func (e *RunError) Error() string {
	return fmt.Sprintf("sieve script %s, line %d: %v", e.Script, e.Line, e.Err)
}

func (e *RunError) Unwrap() error { return e.Err }

// ErrLimit is what a run fails with that used more than Limits allow.
var ErrLimit = errors.New("limit reached")

func limitError(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrLimit, fmt.Sprintf(format, a...))
}

// position is where in the source something stands.
type position struct{ line, column int }

// fault is an error at a position, before it has its script's name.
func (p position) fault(format string, a ...any) *Error {
	return &Error{Line: p.line, Column: p.column, Text: fmt.Sprintf(format, a...)}
}

// missing is a fault that "ihave" may put off.
func (p position) missing(format string, a ...any) *Error {
	e := p.fault(format, a...)
	e.extension = true
	return e
}
