package regex

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// translator writes a POSIX extended regular expression in Go's syntax.
type translator struct {
	in  string
	at  int
	out strings.Builder
	// atom is set where there is something a repetition can apply to.
	atom bool
}

func (t *translator) run() error {
	for t.at < len(t.in) {
		if err := t.one(); err != nil {
			return err
		}
	}
	return nil
}

func (t *translator) one() error {
	r, n := utf8.DecodeRuneInString(t.in[t.at:])
	switch r {
	case '\\':
		return t.escape()
	case '[':
		return t.bracket()
	case '*', '+', '?':
		return t.repeat(string(r), 1)
	case '{':
		return t.braces()
	case '(', '|', '^':
		t.atom = false
		t.out.WriteRune(r)
	case ')', '.':
		t.atom = true
		t.out.WriteRune(r)
	case '$':
		t.atom = false
		t.out.WriteByte('$')
	default:
		t.atom = true
		t.literal(r)
	}
	t.at += n
	return nil
}

func (t *translator) literal(r rune) {
	if r < utf8.RuneSelf && strings.IndexByte(`\.^$|()[]{}*+?`, byte(r)) >= 0 {
		t.out.WriteByte('\\')
	}
	t.out.WriteRune(r)
}

func (t *translator) escape() error {
	if t.at+1 == len(t.in) {
		return errors.New("the pattern ends with a backslash")
	}
	r, n := utf8.DecodeRuneInString(t.in[t.at+1:])
	t.at += 1 + n
	t.atom = true
	switch {
	case r >= '1' && r <= '9':
		return fmt.Errorf(`back references such as \%c are not supported`, r)
	case strings.ContainsRune("wWsS", r):
		t.out.WriteByte('\\')
		t.out.WriteRune(r)
	case strings.ContainsRune("bB", r):
		t.atom = false
		t.out.WriteByte('\\')
		t.out.WriteRune(r)
	case r == '<' || r == '>':
		t.atom = false
		t.out.WriteString(`\b`)
	default:
		t.literal(r)
	}
	return nil
}

// repeat writes a repetition. A repetition of one is refused: POSIX leaves a++
// undefined, and to Go the second sign would mean something else.
func (t *translator) repeat(sign string, n int) error {
	if !t.atom {
		return fmt.Errorf("nothing stands before %q that could be repeated", sign)
	}
	t.at += n
	t.out.WriteString(sign)
	if t.at < len(t.in) && strings.IndexByte("*+?{", t.in[t.at]) >= 0 {
		return fmt.Errorf("a repetition of the repetition %q: put it in parentheses", sign)
	}
	return nil
}

// braces reads {n}, {n,} and {n,m}; any other brace is refused.
func (t *translator) braces() error {
	end := strings.IndexByte(t.in[t.at:], '}')
	if end < 0 {
		return errors.New(`{ has no }; write \{ for a brace`)
	}
	low, high, ranged := strings.Cut(t.in[t.at+1:t.at+end], ",")
	least, err := count(low)
	if err != nil {
		return err
	}
	if ranged && high != "" {
		most, err := count(high)
		if err != nil {
			return err
		}
		if most < least {
			return fmt.Errorf("{%d,%d}: the second number is smaller", least, most)
		}
	}
	return t.repeat(t.in[t.at:t.at+end+1], end+1)
}

func count(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n > repeatMax {
		return 0, fmt.Errorf(`{%s}: a repetition is a number up to %d; write \{ for a brace`, s, repeatMax)
	}
	return int(n), nil
}

// classes are the names that may stand in [: and :].
const classes = " alnum alpha blank cntrl digit graph lower print punct space upper xdigit "

// bracket translates [...], where a backslash means itself, and a closing
// bracket that comes first does too.
func (t *translator) bracket() error {
	open := t.at
	t.at++
	t.out.WriteByte('[')
	if t.at < len(t.in) && t.in[t.at] == '^' {
		t.at++
		t.out.WriteByte('^')
	}
	for first := true; t.at < len(t.in); first = false {
		if t.in[t.at] == ']' && !first {
			t.at++
			t.atom = true
			t.out.WriteByte(']')
			return nil
		}
		if err := t.member(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%q has no closing ]", t.in[open:])
}

// member translates a class, a character or a range in brackets.
func (t *translator) member() error {
	if class, ok := strings.CutPrefix(t.in[t.at:], "[:"); ok {
		name, _, ok := strings.Cut(class, ":]")
		if !ok {
			return errors.New("[: has no :]")
		}
		if strings.Contains(name, " ") || !strings.Contains(classes, " "+name+" ") {
			return fmt.Errorf("there is no class of characters [:%s:]", name)
		}
		t.at += len(name) + 4
		t.out.WriteString("[:" + name + ":]")
		return nil
	}
	low, err := t.element()
	if err != nil {
		return err
	}
	t.out.WriteString(inBrackets(low))
	if rest := t.in[t.at:]; len(rest) < 2 || rest[0] != '-' || rest[1] == ']' {
		return nil
	}
	t.at++
	high, err := t.element()
	if err != nil {
		return err
	}
	if high < low {
		return fmt.Errorf("the range %c-%c is the wrong way round", low, high)
	}
	t.out.WriteString("-" + inBrackets(high))
	return nil
}

// element reads one character of brackets, also as [.x.] or [=x=].
func (t *translator) element() (rune, error) {
	rest := t.in[t.at:]
	for _, mark := range []string{".", "="} {
		inner, ok := strings.CutPrefix(rest, "["+mark)
		if !ok {
			continue
		}
		r, n := utf8.DecodeRuneInString(inner)
		if !strings.HasPrefix(inner[n:], mark+"]") {
			return 0, fmt.Errorf("between [%s and %s] stands one character", mark, mark)
		}
		t.at += 4 + n
		return r, nil
	}
	r, n := utf8.DecodeRuneInString(rest)
	t.at += n
	return r, nil
}

func inBrackets(r rune) string {
	if r < utf8.RuneSelf && strings.IndexByte(`\]^-[:&~`, byte(r)) >= 0 {
		return `\` + string(r)
	}
	return string(r)
}
