package regex

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// translator writes a POSIX extended regular expression in Go's syntax.
type translator struct {
	in  string
	at  int
	out []byte
	// atom is set where there is something a repetition can apply to, which begins at begin in
	// out; sign is the repetition that it has already.
	atom  bool
	begin int
	sign  string
	// open are the places in out of parentheses that are open.
	open []int
}

func (t *translator) write(s string) { t.out = append(t.out, s...) }

// atomAt says that what follows is an atom from that place of out on.
func (t *translator) atomAt(begin int) { t.atom, t.begin, t.sign = true, begin, "" }

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
	case '(':
		t.open = append(t.open, len(t.out))
		t.atom = false
		t.write("(")
	case '|', '^', '$':
		t.atom = false
		t.write(string(r))
	case ')':
		last := len(t.open) - 1
		if last < 0 { // it closes nothing, and means itself
			t.literal(r)
			break
		}
		t.atomAt(t.open[last])
		t.open = t.open[:last]
		t.write(")")
	case '.':
		t.atomAt(len(t.out))
		t.write(".")
	default:
		t.literal(r)
	}
	t.at += n
	return nil
}

func (t *translator) literal(r rune) {
	t.atomAt(len(t.out))
	if r < utf8.RuneSelf && strings.IndexByte(`\.^$|()[]{}*+?`, byte(r)) >= 0 {
		t.write(`\`)
	}
	t.out = utf8.AppendRune(t.out, r)
}

func (t *translator) escape() error {
	if t.at+1 == len(t.in) {
		return errors.New("the pattern ends with a backslash")
	}
	r, n := utf8.DecodeRuneInString(t.in[t.at+1:])
	t.at += 1 + n
	switch {
	case r >= '1' && r <= '9':
		return fmt.Errorf(`back references such as \%c are not supported`, r)
	case strings.ContainsRune("wWsS", r):
		t.atomAt(len(t.out))
		t.write(`\` + string(r))
	case strings.ContainsRune("bB", r):
		t.atom = false
		t.write(`\` + string(r))
	case r == '<' || r == '>':
		t.atom = false
		t.write(`\b`)
	case r == '`':
		t.atom = false
		t.write(`\A`)
	case r == '\'':
		t.atom = false
		t.write(`\z`)
	default:
		t.literal(r)
	}
	return nil
}

// repeat writes a repetition. One of a repetition, which POSIX leaves undefined, is what it is to
// the GNU C library: a*? is (a*)?, where Go would take it for an a* that prefers less.
func (t *translator) repeat(sign string, n int) error {
	if !t.atom {
		return fmt.Errorf("nothing stands before %q that could be repeated", sign)
	}
	t.at += n
	if sign == t.sign && len(sign) == 1 {
		return nil // a** is a*
	}
	if t.sign != "" {
		t.out = slices.Insert(t.out, t.begin, []byte("(?:")...)
		t.write(")")
	}
	t.write(sign)
	t.sign = sign
	return nil
}

// braces reads {n}, {n,}, {n,m} and {,m}; any other brace is refused.
func (t *translator) braces() error {
	end := strings.IndexByte(t.in[t.at:], '}')
	if end < 0 {
		return errors.New(`{ has no }; write \{ for a brace`)
	}
	low, high, ranged := strings.Cut(t.in[t.at+1:t.at+end], ",")
	if low == "" && ranged {
		low = "0"
	}
	least, err := count(low)
	if err != nil {
		return err
	}
	sign := fmt.Sprintf("{%d", least)
	if ranged {
		sign += "," + high
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
	return t.repeat(sign+"}", end+1)
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
	t.atomAt(len(t.out))
	t.write("[")
	if t.at < len(t.in) && t.in[t.at] == '^' {
		t.at++
		t.write("^")
	}
	for first := true; t.at < len(t.in); first = false {
		if t.in[t.at] == ']' && !first {
			t.at++
			t.write("]")
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
		t.write("[:" + name + ":]")
		return nil
	}
	low, err := t.element()
	if err != nil {
		return err
	}
	t.write(inBrackets(low))
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
	t.write("-" + inBrackets(high))
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
