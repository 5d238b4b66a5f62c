package sieve

import (
	"strings"
	"testing"
)

// scriptCase is a script and what it does with the letter.
type scriptCase struct {
	script, want string
	own          bool
}

var scriptCases = []scriptCase{
	{``, "keep", false}, {`keep;`, "keep", false}, {`discard;`, "discard", false}, {`stop;`, "keep", false},
	{`discard; keep;`, "keep", false}, {`keep; discard;`, "keep", false},
	{`# a comment
/* another
   one */ if true /* here */ { discard; } else { keep; }`, "discard", false},
	{`if false { keep; } elsif header :contains "from" "coyote" { discard; } else { keep; }`, "discard", false},
	{`if false { discard; } elsif false { discard; } else { redirect "a@b.example"; }`, "redirect a@b.example", false},
	{`if true { if not true { discard; } else { stop; } } discard;`, "keep", false},
	{`require "fileinto"; fileinto "Lists";`, "fileinto Lists", false},
	{`require "fileinto"; fileinto "Lists"; fileinto "Lists"; keep;`, "fileinto Lists; keep", false},
	{`require "fileinto"; fileinto "INBOX"; keep;`, "keep", false},
	{`require ["fileinto", "copy"]; fileinto :copy "Lists";`, "fileinto Lists; keep", false},
	{`require ["copy"]; redirect :copy "a@b.example";`, "redirect a@b.example; keep", false},
	{`require ["fileinto", "copy"]; fileinto :copy "INBOX"; discard;`, "keep", false},
	{`redirect "a@b.example"; redirect "a@B.example"; redirect "A@b.example";`, "redirect a@b.example; redirect A@b.example", false},
	{`redirect "A Name <a@b.example>";`, "redirect a@b.example", true},
	{`require ["fileinto", "mailbox"]; fileinto :create "New.One";`, "fileinto New.One create", true},
	{`require ["fileinto", "special-use"]; fileinto :specialuse "\\Junk" "Other";`, "fileinto Spam", true},
	{`require ["fileinto", "special-use", "mailbox"]; fileinto :specialuse "\\Sent" :create "Other";`, `fileinto Other create use \Sent`, true},
	// imap4flags.
	{`require "imap4flags"; keep :flags ["\\Seen", "a b"];`, `keep (\Seen a b)`, false},
	{`require ["imap4flags", "fileinto"]; addflag "x"; addflag "X y"; removeflag "y"; fileinto "Lists";`, "fileinto Lists (x)", false},
	{`require ["imap4flags"]; setflag "\\Deleted"; setflag ["\\Flagged", "\\Recent", "\\Nope", "bad(flag"];`, `keep (\Flagged)`, true},
	{`require ["imap4flags", "variables", "fileinto"]; addflag "v" "a"; addflag "v" "b"; fileinto :flags "${v} c" "Lists"; if hasflag "v" "B" { keep; }`,
		"fileinto Lists (a b c); keep", false},
	{`require ["imap4flags", "fileinto"]; fileinto :flags "a" "Lists"; fileinto :flags "b" "Lists";`, "fileinto Lists (b)", true},
	{`require ["imap4flags", "relational", "comparator-i;ascii-numeric"]; addflag "a b A"; if hasflag :count "eq" :comparator "i;ascii-numeric" "2" { discard; }`, "discard", false},
	{`require ["imap4flags"]; addflag ["NonJunk", "Junk"]; if hasflag :contains "label junk" { discard; }`, "discard", false},
	{`require ["imap4flags", "variables"]; set "v" "A B"; if not hasflag :contains "v" ["label1", "label2"] { discard; }`, "discard", false},
	// variables.
	{`require ["variables", "fileinto"]; set "a" "juMBlEd lETteRS"; set :upperfirst :lower "b" "${a}"; fileinto "${b}";`, "fileinto Jumbled letters", false},
	{`require ["variables", "fileinto"]; set :length "b" "grüße"; fileinto "x${B}";`, "fileinto x5", false},
	{`require ["variables", "fileinto"]; set :quotewildcard "b" "Rock*?\\"; fileinto "${b}";`, `fileinto Rock\*\?\\`, true},
	{`require ["variables", "fileinto", "enotify"]; set :encodeurl "b" "a b/ü~"; fileinto "${b}";`, "fileinto a%20b%2F%C3%BC~", false},
	{`require ["variables", "fileinto", "regex"]; set :quoteregex "b" "a.b"; fileinto "${b}";`, `fileinto a\.b`, true},
	{`require ["variables", "fileinto"]; if header :matches "subject" "* have a * for *" { set "x" "${1}-${2}"; } if header :matches "x-stars" "nomatch*" { stop; } fileinto "${x}-${3}";`,
		"fileinto I-present-you", false},
	{`require ["variables", "fileinto"]; if header :matches "X-Multi" "t*" { fileinto "${0}"; }`, "fileinto two", false},
	{`require ["fileinto", "variables", "encoded-character"]; set "name" "Ethel"; fileinto "${hex:24 7b 6e}ame}";`, "fileinto Ethel", false},
	// multi-line and quoted strings.
	{"require \"fileinto\"; fileinto text: # comment\nLi\n.\n;", "failed", true},
	{`require "fileinto"; fileinto "a\"b\\c\d";`, `fileinto a"b\cd`, false},
	// reject.
	{`require "reject"; reject "no";`, "reject no", false}, {`require "ereject"; ereject "no"; stop;`, "reject no", true},
	{`require "reject"; keep; reject "no";`, "keep; failed", true}, {`require "reject"; reject "no"; keep;`, "keep; failed", true},
	{`require "reject"; reject "no"; reject "again";`, "keep; failed", true}, {`require ["reject", "vacation"]; vacation "x"; reject "no";`, "keep; failed", true},
	// vacation.
	{`require "vacation"; vacation "gone";`, "vacation to coyote@desert.example.org: Auto: I have a present for you; keep", false},
	{`require "vacation"; vacation :subject "Grüße" "gone"; discard;`, "vacation to coyote@desert.example.org: Grüße", false},
	{`require "vacation"; vacation "gone"; vacation "gone";`, "keep; failed", true},
	// editheader then tests.
	{`require ["editheader", "fileinto"]; addheader "X-Hello" "World"; if header "x-hello" "world" { fileinto "Lists"; }`, "fileinto Lists", false},
	{`require ["editheader"]; addheader "X-Long" "` + strings.Repeat("long ", 200) + `"; if size :over 1K { discard; }`, "discard", false},
	{`require ["regex", "variables", "fileinto"]; if header :regex "subject" "^i .*?(present|future).+?$" { fileinto "${1}"; }`, "fileinto present", false},
	{`require ["editheader"]; deleteheader "subject"; if not exists "subject" { discard; }`, "discard", false},
	{`require ["editheader"]; deleteheader "received"; if not exists "received" { discard; }`, "keep", false},
	{`require ["editheader"]; deleteheader :index 1 "X-Multi"; deleteheader :index 2 "X-Multi"; if allof(header "X-Multi" "two", not header "X-Multi" ["one", "three"]) { discard; }`, "discard", false},
	{`require ["editheader"]; deleteheader :contains "X-Multi" ["o"]; if header "X-Multi" ["one", "two"] { discard; }`, "keep", false},
	{`require ["editheader"]; deleteheader :index 1 :last "X-Multi"; if header "X-Multi" "three" { discard; }`, "keep", false},
	// notify.
	{`require "enotify"; notify :message "hey" "mailto:a@b.example?to=c@d.example&subject=no"; discard;`, "notify a@b.example,c@d.example: hey", true},
	{`require "enotify"; notify "mailto:a@b.example?subject=from%20uri"; notify "mailto:a@b.example"; discard;`, "notify a@b.example: from uri", true},
	{`require ["enotify", "variables"]; set "u" "http://x"; notify "${u}";`, "keep; failed", true},
	// ihave.
	{`require ["ihave"]; if ihave "no-such" { frobnicate "x"; } else { discard; }`, "discard", false},
	{`require ["ihave"]; if ihave "fileinto" { fileinto "Lists"; }`, "fileinto Lists", false},
	{`require ["ihave"]; if not ihave "no-such" { discard; error "because"; }`, "keep; failed", true},
	{`require ["ihave"]; if true { frobnicate; }`, "keep; failed", true},
	{`require ["ihave"]; if anyof(not ihave "no-such", frob "x") { discard; }`, "discard", false},
	// extlists.
	{`require "extlists"; redirect :list "friends";`, "redirect x@f.example; redirect y@f.example", true},
	{`require "extlists"; redirect :list "foes";`, "keep; failed", true},
	{"\ufeffdiscard;", "discard", true},
}

func TestScripts(t *testing.T) {
	for _, c := range scriptCases {
		if c.want == "failed" { // at compile time
			if _, err := Compile("test", []byte(c.script), Limits{}); err == nil {
				t.Errorf("%s: compiled", c.script)
			}
			continue
		}
		r, err := run(t, c.script, letter, testEnv())
		if got := describe(r); got != c.want {
			t.Errorf("%s\n got %s\nwant %s (%v)", c.script, got, c.want, err)
		}
		if (err != nil) != r.Failed {
			t.Errorf("%s: error %v, failed %v", c.script, err, r.Failed)
		}
	}
}

// compileCases are scripts with an error: where it is, and what it says.
var compileCases = []struct{ script, want string }{
	{`fileinto "x";`, `1:1: fileinto needs the extension "fileinto"`},
	{"keep;\nkeep", "2:5: expected a semicolon"},
	{"keep;\n\n  frob;", `3:3: there is no command "frob"`},
	{`if frob { keep; }`, `1:4: there is no test "frob"`},
	{`if keep { stop; }`, `"keep" is a command, not a test`},
	{`header "a" "b";`, `"header" is a test, not a command`},
	{`require "nope";`, `1:9: the extension "nope" is not supported`},
	{`keep; require "fileinto";`, "1:7: require must stand before"},
	{`else { keep; }`, "1:1: else must follow"}, {`keep; elsif true { keep; }`, "1:7: elsif must follow"},
	{`if true { keep; } else { keep; } else { keep; }`, "else must follow"},
	{`if true keep;`, "if must be followed by a block"}, {`if true;`, "must be followed by a block"},
	{`if { keep; }`, "takes one test"}, {`if (true, false) { keep; }`, "takes one test"},
	{`if not { keep; }`, "takes one test"}, {`if allof { keep; }`, "takes a list of tests"},
	{`if true {`, "1:9: this block has no end"}, {`keep "x";`, "takes no such argument"}, {`keep { stop; }`, "takes no block"},
	{`redirect;`, "redirect takes one string; 0 of these"}, {`redirect ["a@b.c"];`, "must be one string"}, {`redirect "nobody";`, "no address"},
	{`redirect 7;`, "argument 1 of redirect must be one string"}, {`redirect "a@b.c" true;`, "takes no test"},
	{`redirect :copy "a@b.example";`, `:copy needs the extension "copy"`},
	{`keep :flags "x";`, `needs the extension "imap4flags"`}, {`keep :frob;`, "takes no argument :frob"},
	{`if header :is :contains "a" "b" { stop; }`, ":is or :contains, not both"},
	{`if header "a" :is "b" { stop; }`, "1:15: :is comes too late"},
	{`if header :is :is "a" "b" { stop; }`, ":is is given twice"},
	{`if header :comparator "i;nope" "a" "b" { stop; }`, `comparator "i;nope" is not known`},
	{`if header :comparator "i;ascii-numeric" "a" "b" { stop; }`, `needs the extension "comparator-i;ascii-numeric"`},
	{`require "comparator-i;ascii-numeric"; if header :contains :comparator "i;ascii-numeric" "a" "b" { stop; }`, "compares whole numbers"},
	{`if header :count "eq" "a" "b" { stop; }`, `needs the extension "relational"`},
	{`require "relational"; if header :count "xx" "a" "b" { stop; }`, "is one of gt, ge"},
	{`require "relational"; if header :count { stop; }`, ":count must be followed by one string"},
	{`require "regex"; if header :regex "a" ["ok", "a("] { stop; }`, "1:46: regular expression"},
	{`require "regex"; if header :regex "a" "(a)\\1" { stop; }`, "back references"},
	{`if address "subject" "x" { stop; }`, "holds no addresses"},
	{`require "envelope"; if envelope "x" "y" { stop; }`, `envelope knows "from"`},
	{`if size 5 { stop; }`, "takes no such argument"}, {`if size { stop; }`, ":over or :under"}, {`if size :over 5Q { stop; }`, "unit K, M or G"},
	{`if size :over 99999999999999999999 { stop; }`, "too large"}, {`if size :over 9223372036854775807G { stop; }`, "too large"},
	{`keep "abc`, "1:6: this string has no end"}, {"keep /* x", "this comment has no end"}, {"redirect text:\nabc\n", `this "text:" string has no end`},
	{"redirect text: x\n.\n;", "begins on the next line"}, {`keep @;`, `unexpected character '@'`}, {`keep :;`, "a name is missing"},
	{`keep [];`, "expected a string in the list"}, {`keep ["a" "b"];`, "expected , or ]"}, {`if allof(true true) {}`, "true takes no test"}, {`if allof(true {}`, "expected , or )"},
	{`"keep";`, "expected the name of a command"}, {"keep;\n\x00", "2:1: the octet 0x00"}, {"keep; # \xff", "1:9: the octet 0xff"},
	{`require "variables"; set "1" "x";`, "cannot be set"}, {`require "variables"; set "a b" "x";`, "no name for a variable"},
	{`require "variables"; set :lower :upper "a" "x";`, "not both"}, {`require "variables"; set :frob "a" "x";`, "takes no argument :frob"},
	{`require "variables"; keep; set "a" "${99}";`, "no match variable"}, {`require "variables"; set "a" "${foo.bar}";`, "namespace"},
	{`require "variables"; set "${a}" "x";`, "must be constant"}, {`require ["variables", "include"]; set "global.a.b" "x";`, "namespace"},
	{`require "encoded-character"; redirect "${unicode:110000}";`, "no Unicode character"}, {`require "encoded-character"; redirect "${unicode:D800}";`, "no Unicode character"},
	{`require "fileinto"; fileinto "";`, "is empty"}, {"require \"fileinto\"; fileinto \"a\nb\";", "control characters"},
	{`require "index"; if header :last "a" "b" { stop; }`, ":last goes with :index"}, {`require "index"; if header :index 0 "a" "b" { stop; }`, "counts from 1"},
	{`require "date"; if date :zone "x" "date" "year" "1" { stop; }`, "no time zone"}, {`require "date"; if date "date" "yar" "1" { stop; }`, "no part of a date"},
	{`require "date"; if date :zone "+0000" :originalzone "date" "year" "1" { stop; }`, "not both"},
	{`require "editheader"; addheader "a b" "x";`, "no name of a header field"}, {`require "editheader"; deleteheader :last "a";`, ":last goes with"},
	{`require "duplicate"; if duplicate :header "a" :uniqueid "b" { stop; }`, "not both"},
	{`require "vacation"; vacation :days 1 :seconds 2 "x";`, "vacation-seconds"}, {`require ["vacation", "vacation-seconds"]; vacation :days 1 :seconds 2 "x";`, "not both"},
	{`require "vacation"; vacation :from "x" "y";`, "no address for :from"}, {`require "vacation"; vacation :mime "just text";`, "begins with MIME header fields"},
	{`require "enotify"; notify "http://x";`, "not supported"}, {`require "enotify"; notify "mailto:";`, "names no recipient"},
	{`require "enotify"; notify :importance "4" "mailto:a@b.c";`, ":importance is"}, {`require "enotify"; notify "mailto:a@b.c?subject=%zz";`, "malformed"},
	{`require "include"; include "a/b";`, "not allowed as the name"}, {`require "include"; include :personal :global "a";`, "not both"},
	{`require "include"; global "a";`, `needs the extension "variables"`}, {`require ["include", "variables"]; set "a" "x"; global "a";`, "was set before"},
	{`require "spamtest"; if spamtest :percent "1" { stop; }`, `needs the extension "spamtestplus"`},
	{`require "ihave"; keep`, "expected a semicolon"}, {`require ["ihave", "variables"]; if ihave "${x}" { stop; }`, "must be constant"},
	{`require "imap4flags"; addflag "v" "x";`, `needs the extension "variables"`},
}

func TestCompileErrors(t *testing.T) {
	for _, c := range compileCases {
		_, err := Compile("s", []byte(c.script), Limits{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n got %v\nwant %s", c.script, err, c.want)
		} else if !strings.HasPrefix(err.Error(), "s:") {
			t.Errorf("%s: %v", c.script, err)
		}
	}
}

func TestCompileManyErrors(t *testing.T) {
	_, err := Compile("s", []byte("frob;\nkeep;\nif frob { nope; }\nfileinto \"x\";"), Limits{})
	list, ok := err.(Errors)
	if !ok || len(list) != 4 || list[1].Line != 3 || list[3].Line != 4 {
		t.Errorf("%v", err)
	}
}

func TestWarnings(t *testing.T) {
	s := mustCompile(t, "if header \"Subject:\" \"x\" { stop;\nkeep; }")
	if w := s.Warnings(); len(w) != 2 || w[1].Line != 2 || !strings.Contains(w[0].Text, "no name of a header field") {
		t.Errorf("%v", w)
	}
}
