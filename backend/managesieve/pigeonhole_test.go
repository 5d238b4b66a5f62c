package managesieve

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"waypost/backend/link/linktest"
	"waypost/backend/scripts"
	"waypost/internal/dovecottest"
)

// Which random sessions TestLikePigeonhole has: other ones from another seed on. They are the same each time.
var (
	sessionSeed    = flag.Uint64("pigeonhole.seed", 1, "the first of the random sessions compared with Pigeonhole's")
	randomSessions = flag.Uint64("pigeonhole.sessions", 15, "how many of them there are")
)

// answer reads the lines of an answer, each with its literals, to the one that ends it.
func answer(d *linktest.Dialogue) (lines []string) {
	d.Helper()
	for {
		line := d.Line()
		for {
			_, n, literal := cutLiteral(strings.TrimRight(line, "\r\n"))
			if !literal {
				break
			}
			text := make([]byte, n)
			for i := range text {
				c, err := d.Reader.ReadByte()
				if err != nil {
					d.Fatalf("in %q: %v", line, err)
				}
				text[i] = c
			}
			line += string(text) + d.Line()
		}
		lines = append(lines, line)
		for _, word := range []string{"OK", "NO", "BYE"} {
			if strings.HasPrefix(line, word) {
				return lines
			}
		}
	}
}

// alike is of an answer what both must say: the order of scripts and what is told to humans
// is each one's own.
func alike(lines []string) []string {
	out := slices.Clone(lines)
	last := strings.Fields(out[len(out)-1])
	code := ""
	if len(last) > 1 && strings.HasPrefix(last[1], "(") {
		code = " " + strings.Trim(last[1], "()")
	}
	slices.Sort(out[:len(out)-1])
	out[len(out)-1] = last[0] + code
	return out
}

// author says commands at random. It leaves out what Pigeonhole refuses, names with a slash and space for nothing.
type author struct{ *rand.Rand }

func (a author) of(words ...string) string { return words[a.IntN(len(words))] }

// text is a string as a client may write it.
func (a author) text(s string) string {
	if a.IntN(3) == 0 || strings.ContainsAny(s, "\r\n") {
		return fmt.Sprintf("{%d+}\r\n%s", len(s), s)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func (a author) name() string {
	return a.text(a.of("a", "a", "b", "b", "c", "A", "x y", "ä", "a.b", ".a", `q"u`, `b\s`, "", "..", "a\tb", "\u0085", "a\u2028b", "a.sieve", strings.Repeat("n", 128)))
}

func (a author) script() string {
	return a.text(a.of("keep;", "discard;\r\n", "error;", "# only this\r\n", "if true { stop; }", "keep;\n", " ", "require \"fileinto\";\r\nfileinto \"x\";"))
}

func (a author) command() string {
	number := a.of("10", "99999", "4294967295", "-1", "x", `"5"`, "007")
	return a.of("PUTSCRIPT "+a.name()+" "+a.script(), "PUTSCRIPT "+a.name()+" "+a.script(), "PUTSCRIPT "+a.name()+" "+a.script(), "LISTSCRIPTS", "SETACTIVE "+a.name(),
		"SETACTIVE "+a.name(), "GETSCRIPT "+a.name(), "DELETESCRIPT "+a.name(), "RENAMESCRIPT "+a.name()+" "+a.name(), "CHECKSCRIPT "+a.script(), "HAVESPACE "+a.name()+" "+number,
		"NOOP", "NOOP "+a.text(a.of("x", "a b", `"`)), "NOPE", "listscripts", "LISTSCRIPTS x", "PUTSCRIPT", "GETSCRIPT", "PUTSCRIPT "+a.name(), "GETSCRIPT a", `SETACTIVE "a`, "RENAMESCRIPT "+a.name(),
		`GETSCRIPT "a" "b"`, "AUTHENTICATE \"PLAIN\"", "STARTTLS", "GETSCRIPT  "+a.name())
}

// TestLikePigeonhole says the same at random to both and compares the answers.
func TestLikePigeonhole(t *testing.T) {
	for seed := *sessionSeed; seed < *sessionSeed+*randomSessions; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			a := author{rand.New(rand.NewPCG(seed, 4))}
			theirs, _ := dovecottest.New(t, "managesieve").Begin("managesieve")
			both := []*linktest.Dialogue{linktest.NewDialogue(t, theirs), serve(t, options(), newHome(t, scripts.Limits{}).scripts()).Dialogue}
			var said []string
			for range 40 {
				command := a.command()
				said = append(said, command)
				var got [2][]string
				for i, d := range both {
					d.Send(command + "\r\n")
					got[i] = alike(answer(d))
				}
				if !slices.Equal(got[0], got[1]) {
					t.Errorf("%q\n pigeonhole %.1000q\n ours       %.1000q", said[max(0, len(said)-5):], got[0], got[1])
				}
			}
		})
	}
}
