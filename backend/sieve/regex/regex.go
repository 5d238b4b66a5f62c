// Package regex gives Sieve's ":regex" match type (draft-ietf-sieve-regex) the
// extended regular expressions of POSIX, on an engine whose time is linear in
// the length of the text, whatever the pattern.
//
// It owns nothing and keeps no state; a Regex is immutable and safe for
// concurrent use. No pattern makes it panic.
//
// What differs from POSIX and from the C library's engine:
//   - Back references (\1) are refused: no engine matches them in linear time.
//   - Between alternatives the longest match wins, as POSIX says; which text a
//     group inside a repetition holds may differ in rare cases.
//   - Collating elements and equivalence classes ([.a.], [=a=]) stand for the one
//     character they name.
//   - Letters, in classes too, are those of ASCII, except that patterns that
//     ignore case fold beyond ASCII. "." is one UTF-8 character.
//   - \w \W \s \S \b \B \` \' mean what they mean to the GNU C library, as do {,n}, a repetition
//     of a repetition, and a closing parenthesis that closes nothing. \< and \> are both \b.
//   - A repetition counts to 255 (POSIX's RE_DUP_MAX), and the program a pattern
//     becomes is bounded.
package regex

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// Regex is a compiled pattern.
type Regex struct {
	re   *regexp.Regexp
	size int
}

// repeatMax is POSIX's RE_DUP_MAX.
const repeatMax = 255

// Compile compiles a POSIX extended regular expression. fold makes it ignore
// case; maxSize bounds the size of the program (Size).
func Compile(pattern string, fold bool, maxSize int) (*Regex, error) {
	t := translator{in: pattern}
	t.write("(?s")
	if fold {
		t.write("i")
	}
	t.write(")")
	if err := t.run(); err != nil {
		return nil, err
	}
	source := string(t.out)
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil, explain(err)
	}
	// The tree is measured before repetitions are written out, so that a small
	// pattern cannot become a huge program first.
	size := measure(tree)
	if size > maxSize {
		return nil, fmt.Errorf("the pattern is too large: it needs %d steps, %d are allowed", size, maxSize)
	}
	re, err := regexp.Compile(source)
	if err != nil {
		return nil, explain(err)
	}
	re.Longest()
	return &Regex{re: re, size: size}, nil
}

func explain(err error) error {
	if e, ok := err.(*syntax.Error); ok {
		return fmt.Errorf("%s: %q", e.Code, e.Expr)
	}
	return err
}

// measure estimates how many instructions a pattern becomes.
func measure(n *syntax.Regexp) int {
	size := 1
	for _, sub := range n.Sub {
		size += measure(sub)
	}
	switch n.Op {
	case syntax.OpLiteral:
		size += len(n.Rune)
	case syntax.OpRepeat:
		size *= max(n.Max, n.Min+1, 1)
	}
	return min(size, 1<<30)
}

// Size tells how large the program is: matching takes time in proportion to
// Size times the length of the text.
func (r *Regex) Size() int { return r.size }

// Match reports whether s has a match.
func (r *Regex) Match(s string) bool { return r.re.MatchString(s) }

// Groups gives the match and its groups, empty where a group took no part; nil
// if s has no match.
func (r *Regex) Groups(s string) []string { return r.re.FindStringSubmatch(s) }

// Quote puts a backslash before all characters that mean something.
func Quote(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte(`\.^$|()[]{}*+?`, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
