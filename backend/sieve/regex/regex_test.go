package regex

import (
	"strings"
	"testing"
	"time"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		fold, want    bool
	}{
		{"^a.c$", "abc", false, true},
		{"^a.c$", "a\nc", false, true},
		{"^a.c$", "xabc", false, false},
		{"ABC", "xabcx", true, true},
		{"ABC", "xabcx", false, false},
		{"[[:digit:]]{3}", "ab123", false, true},
		{"^[^[:lower:]]+$", "ALL UPPER", false, true},
		{"^[^[:lower:]]+$", "Not", false, false},
		{`^[\]+$`, `\\`, false, true},
		{`^[]a]+$`, `]a]`, false, true},
		{`^[^]a]$`, `b`, false, true},
		{`^[a-]+$`, `a-a`, false, true},
		{`^[[.-.]x]+$`, `-x-`, false, true},
		{`^[[=a=]]$`, `a`, false, true},
		{`^[+--]+$`, `+,-`, false, true},
		{`\<word\>`, "a word here", false, true},
		{`\<word\>`, "swordfish", false, false},
		{`me(\+.*)?@company\.com`, "me+x@company.com", false, true},
		{"a|b|", "zzz", false, true},
		{"^.$", "é", false, true},
		{`a\{2}`, "a{2}", false, true},
		{"^a{2,3}$", "aaa", false, true},
		{"^a{2,}$", "aaaaaa", false, true},
		{"}", "}", false, true},
		{"^.*?b+?$", "ab", false, true},
		{"^(ab)+*c$", "ababc", false, true},
		{"^(a{2}){2}{2}$", "aaaaaaaa", false, true},
		{"^a**$", "b", false, false},
		{"^[ab]{,2}$", "aba", false, false},
		{"^[ab]{,2}$", "ab", false, true},
		{"^x)$", "x)", false, true},
		{"\\`b\\'", "abc", false, false},
	} {
		re, err := Compile(c.pattern, c.fold, 2000)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		if got := re.Match(c.text); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.text, got)
		}
	}
}

func TestLongest(t *testing.T) {
	re, err := Compile("(a|ab)(c|bcd)?", false, 100)
	if err != nil {
		t.Fatal(err)
	}
	if got := re.Groups("abcd"); got[0] != "abcd" {
		t.Errorf("got %q", got)
	}
}

func TestErrors(t *testing.T) {
	for pattern, want := range map[string]string{
		`(a)\1`: "back references", `(a`: "missing closing", `[a`: "no closing",
		`*a`: "nothing stands", `(?i)a`: "nothing stands", `a{256}`: "up to 255",
		`a{x}`: "number", `a{3,2}`: "smaller", `a{`: "no }", `a\`: "backslash", `[[:word:]]`: "no class", `[[:]p]a`: "has no :]", `[[:]:]`: "no class",
		`[z-a]`: "wrong way", `[[.ab.]]`: "one character", `((a{200}){200}){200}`: "", `^*`: "nothing",
	} {
		if _, err := Compile(pattern, false, 2000); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", pattern, err, want)
		}
	}
	if _, err := Compile(strings.Repeat("a{200}", 20), false, 2000); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("size: %v", err)
	}
}

// Patterns that take engines with backtracking exponential time.
func TestCatastrophic(t *testing.T) {
	text := strings.Repeat("a", 50_000) + "!"
	start := time.Now()
	for _, p := range []string{"^(a+)+$", "^(a|aa)+$", "^(a|a?)+$", "^(.*a){11}b$", "(a*)*b"} {
		re, err := Compile(p, false, 2000)
		if err != nil {
			t.Fatal(err)
		}
		if re.Match(text) {
			t.Errorf("%s matches", p)
		}
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestQuote(t *testing.T) {
	const s = `a.b*[c]{1}(x)|^$\+?é`
	re, err := Compile("^"+Quote(s)+"$", false, 2000)
	if err != nil || !re.Match(s) {
		t.Errorf("%v", err)
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"a", "[[:alpha:]]+", `\`, "[", "a{1,2}", "(|)", "[^]]", "\xff", "[\xff-\xfe]", "[[=x=]-z]"} {
		f.Add(s, "text")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 1024 {
			return
		}
		if re, err := Compile(pattern, true, 2000); err == nil {
			if groups := re.Groups(text); (groups != nil) != re.Match(text) {
				t.Errorf("%q: groups and match differ", pattern)
			}
		}
	})
}
