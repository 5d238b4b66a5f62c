package sieve

import (
	"maps"
	"slices"
	"strings"
)

// Script is a compiled script. It is immutable and safe for concurrent use:
// compile once, run for every message.
type Script struct {
	name     string
	body     []statement
	slots    int
	warnings Errors
}

// Name is what Compile was given.
func (s *Script) Name() string { return s.name }

// Warnings tells what is allowed but hardly meant.
func (s *Script) Warnings() []*Error { return slices.Clone(s.warnings) }

// statement is a command ready to be run.
type statement struct {
	line int
	op   op
}

// op is what a command does when it runs.
type op interface{ do(m *machine) error }

// check is a test.
type check interface {
	eval(m *machine) (bool, error)
}

// compiler turns the nodes of one script into ops.
type compiler struct {
	name       string
	limits     Limits
	extensions map[string]bool
	slots      map[string]int // local variables
	globals    map[string]bool
	isSet      map[string]bool // local variables that were set, by name
	used       bool            // a command other than require was there
	errors     Errors
	warnings   Errors
}

func (c *compiler) has(extension string) bool { return c.extensions[extension] }

// Compile checks and compiles a script. What is wrong comes as Errors.
func Compile(name string, src []byte, limits Limits) (*Script, error) {
	c := &compiler{name: name, limits: limits.filled(), extensions: map[string]bool{},
		slots: map[string]int{}, globals: map[string]bool{}, isSet: map[string]bool{}}
	// A byte order mark is tolerated: editors put it there unasked.
	nodes, fault := parse(strings.TrimPrefix(string(src), "\ufeff"), c.limits)
	if fault != nil {
		c.report(fault)
		return nil, c.errors
	}
	body := c.block(nodes)
	if len(c.errors) > 0 {
		return nil, c.errors
	}
	return &Script{name: name, body: body, slots: len(c.slots), warnings: c.warnings}, nil
}

func (c *compiler) report(e *Error) {
	e.Script = c.name
	if len(c.errors) < c.limits.Errors {
		c.errors = append(c.errors, e)
	}
}

func (c *compiler) warn(at position, format string, a ...any) {
	if e := at.fault(format, a...); len(c.warnings) < c.limits.Errors {
		e.Script = c.name
		c.warnings = append(c.warnings, e)
	}
}

// block compiles commands one after another; a faulty one does not hide the
// next one's faults.
func (c *compiler) block(nodes []*node) []statement {
	var out []statement
	var chain *ifOp // the if that an elsif or else would continue
	for i, n := range nodes {
		switch n.name {
		case "elsif", "else":
			if chain == nil {
				c.report(n.fault("%s must follow an if or an elsif", n.name))
				continue
			}
			if c.branch(chain, n); n.name == "else" {
				chain = nil
			}
			continue
		case "if":
			chain = &ifOp{}
			c.branch(chain, n)
			out = append(out, statement{n.line, chain})
			continue
		}
		chain = nil
		o, err := c.command(n)
		if err != nil && err.extension && c.has("ihave") {
			o, err = &failOp{err.Text}, nil
		}
		if err != nil {
			c.report(err)
			continue
		}
		if o != nil {
			out = append(out, statement{n.line, o})
		}
		if (n.name == "stop" || n.name == "return") && i+1 < len(nodes) {
			c.warn(nodes[i+1].position, "this is never reached: %s comes before it", n.name)
		}
	}
	return out
}

// branch compiles an if, elsif or else.
func (c *compiler) branch(chain *ifOp, n *node) {
	c.used = true
	s := &spec{tests: oneTest, block: true}
	if n.name == "else" {
		s.tests = noTests
	}
	b := branch{line: n.line}
	_, err := c.bind(n, s)
	if err == nil && n.name != "else" {
		b.test, err = c.test(n.tests[0])
	}
	if err != nil {
		c.report(err)
	}
	b.body = c.block(n.block)
	chain.branches = append(chain.branches, b)
}

// command compiles one command that is no if.
func (c *compiler) command(n *node) (op, *Error) {
	if n.name == "require" {
		return nil, c.require(n)
	}
	c.used = true
	d, ok := commandNamed(n.name)
	if !ok {
		if _, isTest := testNamed(n.name); isTest {
			return nil, n.fault("%q is a test, not a command: it stands behind if or elsif", n.name)
		}
		return nil, n.missing("there is no command %q", n.name)
	}
	if err := c.need(n.position, n.name, d.extension); err != nil {
		return nil, err
	}
	b, err := c.bind(n, &d.spec)
	if err != nil {
		return nil, err
	}
	return d.compile(c, b)
}

// test compiles a test; one that "ihave" puts off fails when it is run.
func (c *compiler) test(n *node) (check, *Error) {
	t, err := c.strictTest(n)
	if err != nil && err.extension && c.has("ihave") {
		return &failOp{err.Text}, nil
	}
	return t, err
}

func (c *compiler) strictTest(n *node) (check, *Error) {
	d, ok := testNamed(n.name)
	if !ok {
		if _, isCommand := commandNamed(n.name); isCommand {
			return nil, n.fault("%q is a command, not a test", n.name)
		}
		return nil, n.missing("there is no test %q", n.name)
	}
	if n.name != "spamtest" || !c.has("spamtestplus") { // RFC 5235, Section 3.2: either will do
		if err := c.need(n.position, n.name, d.extension); err != nil {
			return nil, err
		}
	}
	b, err := c.bind(n, &d.spec)
	if err != nil {
		return nil, err
	}
	return d.compile(c, b)
}

func (c *compiler) tests(nodes []*node) ([]check, *Error) {
	var out []check
	for _, n := range nodes {
		t, err := c.test(n)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// require takes in the extensions a script asks for (RFC 5228, Section 3.2).
func (c *compiler) require(n *node) *Error {
	b, err := c.bind(n, &spec{args: []argKind{argList}, least: 1})
	if err != nil {
		return err
	}
	if c.used {
		return n.fault("require must stand before all other commands")
	}
	for _, t := range b.pos[0].list {
		if !known(t.text) {
			c.report(t.fault("the extension %q is not supported here", t.text))
			continue
		}
		c.extensions[t.text] = true
	}
	return nil
}

// always are capabilities that are there without being listed.
var always = []string{"comparator-i;octet", "comparator-i;ascii-casemap"}

// extensions are the capabilities, as "require" and ManageSieve name them.
var extensions = []string{
	"body", "comparator-i;ascii-numeric", "comparator-i;unicode-casemap", "copy", "date", "duplicate",
	"editheader", "encoded-character", "enotify", "envelope", "environment", "ereject", "extlists",
	"fileinto", "ihave", "imap4flags", "include", "index", "mailbox", "regex", "reject", "relational",
	"spamtest", "spamtestplus", "special-use", "subaddress", "vacation", "vacation-seconds", "variables",
	"virustest",
}

func known(extension string) bool {
	return slices.Contains(extensions, extension) || slices.Contains(always, extension)
}

// Extensions gives the capabilities for ManageSieve's SIEVE line (RFC 5804,
// Section 1.7), sorted.
func Extensions() []string { return slices.Clone(extensions) }

// NotifyMethods gives the notification methods for ManageSieve's NOTIFY line.
func NotifyMethods() []string { return []string{"mailto"} }

// commandDef and testDef say what a command or a test is.
type commandDef struct {
	extension string
	spec      spec
	compile   func(c *compiler, b *call) (op, *Error)
}

type testDef struct {
	extension string
	spec      spec
	compile   func(c *compiler, b *call) (check, *Error)
}

// tagsOf makes the tags of a command out of several sets.
func tagsOf(sets ...map[string]tagSpec) map[string]tagSpec {
	out := map[string]tagSpec{}
	for _, s := range sets {
		maps.Copy(out, s)
	}
	return out
}
