package sieve

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Which random scripts TestPigeonholeRandom compares: other ones with another seed. They are the same
// each time, so that a run says what the last one said.
var (
	randomSeed    = flag.Uint64("pigeonhole.seed", 1, "the first of the random scripts compared with Pigeonhole")
	randomScripts = flag.Uint64("pigeonhole.scripts", 300, "how many of them are compared")
)

// writer writes scripts and messages at random. It leaves out what differs on purpose: an index of
// :last, the default comparator of "string", numbers that are none; that Pigeonhole keeps the message where
// an action with :copy is done once more without; and what it prints of a vacation that it will not send.
type writer struct{ *rand.Rand }

func (w writer) of(words ...string) string { return words[w.IntN(len(words))] }

// some is up to n of words, one behind the other.
func (w writer) some(n int, words ...string) string {
	var b strings.Builder
	for range w.IntN(n + 1) {
		b.WriteString(w.of(words...))
	}
	return b.String()
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// list is a string, or a list of them.
func (w writer) list(draw func() string) string {
	if w.IntN(3) > 0 {
		return quote(draw())
	}
	all := []string{quote(draw())}
	for range w.IntN(3) {
		all = append(all, quote(draw()))
	}
	return "[" + strings.Join(all, ", ") + "]"
}

func (w writer) word() string {
	return w.some(3, "a", "b", "ab", "A", "*", `\*`, `\?`, `\\`, "ä", "Ä", " ", "@", ".", "example", "x", "42", "007", "-1", "re:", "[spam]", "é", "ß")
}

func (w writer) address() string {
	return w.of("ann@example.com", "Ann@Example.COM", "ann+spam@example.com", "a.b+c+d@x.y", "+x@y.z", "ann+@example.com", "Ann <ann@x.y>",
		`"Ann, B" <ann@x.y>`, "g: a@b.c, d@e.f;", "=?utf-8?q?=C3=A4?= <q@b.c>", "(x) ann@(y)x.y (z)", "Ann B. <ann@x.y>", `"a\"b" <ann@x.y>`, "ann @ x.y", "<ann@x.y>")
}

func (w writer) message() string {
	var b strings.Builder
	b.WriteString("Resent-To: roadrunner@acme.example.com\n") // so that there is a vacation's reply
	field := func(name, value string) {
		value = strings.TrimSpace(value)
		if folded := strings.Replace(value, " ", "\n ", 1); w.IntN(5) == 0 && !strings.Contains(folded, "\n  ") {
			value = folded
		}
		fmt.Fprintf(&b, "%s: %s\n", name, value)
	}
	text := func() string {
		return "t" + w.some(4, "a", "b", "ab", "A", "*", "?", "ä", "Ä", " ", "  ", ".", "example", "x", "42", "007", "-1", "re:", "[spam]",
			"=?utf-8?q?=C3=A4?=", "=?iso-8859-1?q?=E4?=", `\`, `"`, "(c)", "ß", ",")
	}
	for range 3 + w.IntN(6) {
		switch w.IntN(6) {
		case 0:
			field(w.of("Subject", "SUBJECT"), text())
		case 1:
			field("X-A", text())
		case 2:
			field(w.of("To", "Cc", "From"), w.address())
		case 3:
			field(w.of("To", "Cc"), w.address()+", "+w.address())
		case 4:
			field("X-N", w.of("1", "10", "9", "0010", " 5", "5x", "x5", "-3", ""))
		case 5:
			field("Date", w.of("Tue, 1 Apr 1997 09:06:31 -0800", "1 Apr 2024 00:00:00 +0000", "Mon, 29 Feb 2024 23:59:59 +1400", "nonsense",
				"Wed, 31 Dec 2025 23:30:00 -0100"))
		}
	}
	return b.String() + "\nbody a *b* ä example\n"
}

// match is a match type and the keys that suit it.
func (w writer) match() (tags, keys string) {
	kind := w.of("", "", ":is ", ":contains ", ":matches ", ":matches ", ":regex ", `:count "ge" `, `:count "eq" `, `:value "gt" `, `:value "eq" `)
	comparator := w.of("", "", `:comparator "i;octet" `, `:comparator "i;ascii-casemap" `)
	keys = w.list(func() string {
		switch {
		case strings.HasPrefix(kind, ":count"):
			return w.of("0", "1", "2", "3", "4")
		case strings.HasPrefix(kind, ":value"):
			return w.of("5", "10", "a", "", "9", "09", "100")
		case kind == ":regex ":
			return w.of("a", "^a", "a$", "(a|b)+", "[a-c]*", "ex.mple", "^$", "[[:digit:]]+", "a{1,2}", "(.*)@(.*)", "x?42", `\.`, "[^a]", "(a)(b)?")
		case w.IntN(3) == 0:
			return w.of("*", "*a*", "a*", "*@*", "ann*", "*example*", "* *", "**", `\**`, `*\?*`)
		}
		return w.word()
	})
	if strings.HasPrefix(kind, ":count") {
		comparator = `:comparator "i;ascii-numeric" `
	}
	return kind + comparator, keys
}

func (w writer) test(depth int) string {
	if depth > 0 && w.IntN(6) == 0 {
		switch a := w.test(depth - 1); w.IntN(3) {
		case 0:
			return "not " + a
		case 1:
			return "anyof(" + a + ", " + w.test(depth-1) + ")"
		default:
			return "allof(" + a + ", " + w.test(depth-1) + ")"
		}
	}
	tags, keys := w.match()
	index := w.of("", "", "", ":index 1 ", ":index 2 ")
	if strings.Contains(tags, ":count") {
		index = ""
	}
	switch w.IntN(9) {
	case 0, 1, 2:
		return "header " + index + tags + w.list(func() string { return w.of("subject", "x-a", "to", "cc", "from", "X-N", "date", "x-none") }) + " " + keys
	case 3, 4:
		part := w.of("", ":all ", ":localpart ", ":domain ", ":user ", ":detail ")
		return "address " + index + part + tags + w.list(func() string { return w.of("to", "cc", "from") }) + " " + keys
	case 5:
		return "exists " + w.list(func() string { return w.of("subject", "x-a", "X-N", "date") })
	case 6:
		return fmt.Sprintf("size %s %d", w.of(":over", ":under"), 50+w.IntN(400))
	case 7:
		part := w.of("year", "month", "day", "date", "hour", "minute", "second", "time", "iso8601", "std11", "zone", "weekday", "julian")
		return "date " + w.of("", ":originalzone ", `:zone "+0530" `, `:zone "-0800" `) + tags + `"date" ` + quote(part) + " " + keys
	}
	if !strings.Contains(tags, ":comparator") {
		tags += `:comparator "i;octet" `
	}
	return "string " + tags + w.list(func() string { return w.word() + w.of("", "${v}", "${1}", "${V}", "${nope}", "${", "$v") }) + " " + keys
}

// command is the i-th of a script.
func (w writer) command(i, depth int) string {
	flags := func() string {
		return w.of("", "", `:flags "\\Seen" `, `:flags ["a","b"] `, `:flags "" `, `:flags "${fl}" `)
	}
	header := func() string { return w.of(`"X-A"`, `"subject"`, `"X-New"`) }
	switch w.IntN(20) {
	case 0:
		return "keep " + flags() + ";"
	case 1:
		return w.of("discard;", "stop;")
	case 2, 3, 4:
		return "fileinto " + w.of(":copy "+flags()+w.of(`"F1"`, `"C2"`), flags()+w.of(`"f1"`, `"F1/x"`)) + ";"
	case 5, 6:
		return "redirect " + w.of(`"x@y.z"`, `"q@y.z"`, `:copy "y@y.z"`, `:copy "roadrunner@acme.example.com"`) + ";"
	case 7, 8:
		return w.of("setflag ", "addflag ", "removeflag ") + w.of(`"a"`, `"\\Seen"`, `["a","b c"]`, `"fl" "z"`, `["kw","KW"]`, `"\\Flagged kw2"`, `""`) + ";" +
			w.of("", fmt.Sprintf(` if hasflag %s { fileinto :copy "h%d"; }`, w.of(`:contains "k"`, `"\\seen"`, `:matches "*a*"`,
				`:count "ge" :comparator "i;ascii-numeric" "2"`), i))
	case 9:
		return `set "fl" ` + w.of(`"m"`, `"\\Flagged"`, `"m n"`, `""`) + ";"
	case 10, 11:
		return "addheader " + w.of("", ":last ") + header() + " " + w.of(`"one"`, `"two words"`, `"ä"`, `"[spam] "`) + ";"
	case 12, 13:
		return "deleteheader " + w.of("", ":index 1 ", ":index 2 ") + w.of("", ":contains ", ":matches ", ":is ") + header() +
			w.of("", " "+w.list(func() string { return w.of("one", "*o*", "o", "a", "") })) + ";"
	case 14:
		if depth == 0 {
			return ""
		}
		return "if " + w.test(1) + " { " + w.command(i, depth-1) + " " + w.command(i, depth-1) + " }" + w.of("", " elsif "+w.test(1)+" { "+w.command(i, 0)+" }") +
			w.of("", " else { "+w.command(i, 0)+" }")
	case 15:
		change := w.of("", ":lower ", ":upper ", ":upperfirst ", ":lowerfirst ", ":length ", ":quotewildcard ", ":lower :upperfirst ", ":quotewildcard :upper ",
			":length :lower ", ":encodeurl ", ":encodeurl :upper ")
		return fmt.Sprintf(`set %s"v" %s; if string :matches :comparator "i;octet" "${v}" "*" { fileinto :copy "v%d-${1}z"; }`, change,
			quote(w.word()+w.of("", "${v}", "${1}", "${0}", "${2}", "${v}${V}")), i)
	case 16:
		return fmt.Sprintf("vacation %s%s%s;", w.of(`:subject "Gone: ä" `, `:subject "${v}!" `), w.of("", `:days 3 :handle "h" `, `:addresses "ann@x.y" `),
			w.of(`"Away ${v}"`, "\"Zürich\r\nand on\""))
	case 17:
		return fmt.Sprintf(`notify %s%s"mailto:%s";`, w.of("", `:message "hey ${v}" `, `:message "m" `), w.of("", `:importance "1" `, `:importance "3" `),
			w.of("ops@x.y?subject=s", "?to=ops@x.y&Subject=Foo%20bar&body=hello%0D%0Athere", "ops@x.y?to=b@x.y&cc=z@x.y&subject=a%26b",
				"ops@x.y?X-Foo=1&to=c@x.y&subject=%20x%20&X-fOO=Two%20words&Received=x", "ops%2Bx@x.y?subject=s"))
	}
	return fmt.Sprintf("if %s { fileinto :copy \"t%d-${1}-${2}z\"; }", w.test(2), i)
}

// TestPigeonholeRandom runs scripts that nobody thought of, on messages likewise.
func TestPigeonholeRandom(t *testing.T) {
	f := newForeign(t)
	env := testEnv()
	env.Zone = nil
	env.Addresses = append(env.Addresses, "x@y.z", "q@b.c", "ann@example.com")
	const requires = `require ["fileinto","envelope","subaddress","variables","relational","comparator-i;ascii-numeric","regex","imap4flags","date",` +
		`"index","copy","editheader","vacation","enotify"];` + "\n"
	for seed := *randomSeed; seed < *randomSeed+*randomScripts; seed++ {
		w := writer{rand.New(rand.NewPCG(seed, 0))}
		msg := w.message()
		f.write(t, "random.eml", string(crlf(msg)))
		var commands []string
		for i := range 3 + w.IntN(15) {
			commands = append(commands, w.command(i, 2))
		}
		differ := func(commands []string) (got, want []string, differ bool) {
			script := requires + strings.Join(commands, "\n") + "\n"
			r, err := run(t, script, msg, env)
			if got = ours(r); err != nil {
				got = []string{err.Error()}
			}
			want = f.run(t, script, "random.eml")
			return got, want, !slices.Equal(got, want) && !(err != nil && len(want) == 1)
		}
		if _, _, is := differ(commands); !is {
			continue
		}
		for i := len(commands) - 1; i >= 0; i-- {
			if fewer := slices.Delete(slices.Clone(commands), i, i+1); len(fewer) > 0 {
				if _, _, is := differ(fewer); is {
					commands = fewer
				}
			}
		}
		got, want, _ := differ(commands)
		t.Errorf("seed %d:\n%s\n--- message\n%s\n ours       %q\n pigeonhole %.800q", seed, strings.Join(commands, "\n"), msg, got, want)
	}
}
