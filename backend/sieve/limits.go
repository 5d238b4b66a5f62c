package sieve

import "cmp"

// Limits bound what one script, or one run of a sequence, may use. A field
// that is zero has its default.
type Limits struct {
	ScriptBytes int // size of a script's source; default 1 MiB
	Nesting     int // blocks or tests within each other; default 32
	Errors      int // errors and warnings told of, each; default 20
	Commands    int // commands and tests in one script; default 20,000

	Steps         int // work of one run: a test or action is a step, so are some 64 bytes compared; default 1,000,000
	Actions       int // deliveries, redirects, replies and notices of one run; default 64
	Redirects     int // default 4
	Notices       int // notify actions of one run; default 4
	HeaderEdits   int // addheader and deleteheader actions of one run; default 64
	AddedBytes    int // header text added in one run; default 64 KiB
	IncludeDepth  int // scripts including each other; default 10
	Includes      int // include commands done in one run; default 100
	Variables     int // variables of one script, and globals of one run; default 256
	VariableBytes int // what a variable holds; more is cut off (RFC 5229, Section 6); default 4 KiB
	StringBytes   int // a string after its variables are put in; default 256 KiB
	RegexBytes    int // a pattern's source; default 1 KiB
	RegexSize     int // a pattern's size as a program; default 2,000 instructions
	BodyBytes     int // what body tests look at of a message; default 2 MiB
}

func (l Limits) filled() Limits {
	return Limits{
		ScriptBytes: cmp.Or(l.ScriptBytes, 1<<20), Nesting: cmp.Or(l.Nesting, 32),
		Errors: cmp.Or(l.Errors, 20), Commands: cmp.Or(l.Commands, 20_000),
		Steps: cmp.Or(l.Steps, 1_000_000), Actions: cmp.Or(l.Actions, 64),
		Redirects: cmp.Or(l.Redirects, 4), Notices: cmp.Or(l.Notices, 4),
		HeaderEdits: cmp.Or(l.HeaderEdits, 64), AddedBytes: cmp.Or(l.AddedBytes, 64<<10),
		IncludeDepth: cmp.Or(l.IncludeDepth, 10), Includes: cmp.Or(l.Includes, 100),
		Variables: cmp.Or(l.Variables, 256), VariableBytes: cmp.Or(l.VariableBytes, 4<<10),
		StringBytes: cmp.Or(l.StringBytes, 256<<10), RegexBytes: cmp.Or(l.RegexBytes, 1<<10),
		RegexSize: cmp.Or(l.RegexSize, 2000), BodyBytes: cmp.Or(l.BodyBytes, 2<<20),
	}
}
