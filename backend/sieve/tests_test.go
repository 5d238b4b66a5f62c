package sieve

import (
	"strings"
	"testing"
)

// testCase is a test, the extensions it needs and what it says of a message.
type testCase struct {
	requires, test string
	want           bool
	// own marks what is ours alone: another engine need not agree.
	own bool
}

var letterCases = []testCase{
	{"", `true`, true, false}, {"", `false`, false, false}, {"", `not false`, true, false},
	{"", `allof(true, true)`, true, false}, {"", `allof(true, false)`, false, false},
	{"", `anyof(false, true)`, true, false}, {"", `anyof(false, false)`, false, false},
	// header: match types, comparators, decoding, folding.
	{"", `header "subject" "I have a present for you"`, true, false},
	{"", `header :is "SUBJECT" "i HAVE a present for YOU"`, true, false},
	{"", `header :is :comparator "i;octet" "subject" "i have a present for you"`, false, false},
	{"", `header :contains "subject" "PRESENT"`, true, false},
	{"", `header :contains :comparator "i;octet" "subject" "PRESENT"`, false, false},
	{"", `header :contains "subject" ""`, true, false},
	{"", `header :is "x-empty" ""`, true, false},
	{"", `header :contains "x-not-there" ""`, false, false},
	{"", `header :matches "subject" "*present*"`, true, false},
	{"", `header :matches "subject" "I ha?e a*you"`, true, false},
	{"", `header :matches "subject" "present*"`, false, false},
	{"", `header :matches "subject" "*pr?sent*for*you"`, true, false},
	{"", `header :matches "x-number" "???? things"`, true, false},
	{"", `header :matches "x-number" "??? things"`, false, false},
	{"", `header :matches "x-stars" "\\*\\*\\*\\*"`, true, false},
	{"", `header :matches "x-stars" "\\*"`, false, false},
	{"", `header :matches "x-stars" "*"`, true, false},
	{"", `header :is "x-folded" "first  second"`, true, false},
	{"", `header :is "x-encoded" "Grüße aus Köln"`, true, false},
	{"", `header :contains "x-encoded" "köln"`, true, false},
	{"", `header :contains "x-encoded" "KÖLN"`, false, false},
	{"comparator-i;unicode-casemap", `header :contains :comparator "i;unicode-casemap" "x-encoded" "KÖLN"`, true, false},
	{"comparator-i;unicode-casemap", `header :matches :comparator "i;unicode-casemap" "x-encoded" "gr??e*K?LN"`, true, true},
	{"comparator-i;unicode-casemap", `header :is :comparator "i;unicode-casemap" "x-encoded" "GRÜSSE AUS KÖLN"`, false, true},
	{"", `header ["x-nope", "subject"] ["a", "i have a present for you"]`, true, false},
	{"", `header :is "x-multi" "two"`, true, false},
	// exists, size.
	{"", `exists "subject"`, true, false}, {"", `exists ["subject", "x-nope"]`, false, false}, {"", `exists ["From", "x-empty"]`, true, false},
	{"", `size :over 100`, true, false}, {"", `size :over 1K`, false, false}, {"", `size :under 1K`, true, false}, {"", `size :under 1M`, true, false},
	// address.
	{"", `address "from" "coyote@desert.example.org"`, true, false},
	{"", `address :localpart "from" "COYOTE"`, true, false},
	{"", `address :domain "from" "desert.example.org"`, true, false},
	{"", `address :domain :contains ["to", "cc"] "hole"`, true, false},
	{"", `address :all "cc" "two@b.example"`, true, false},
	{"", `address :is "from" "Wile E. Coyote"`, false, false},
	{"", `address :matches "from" "*@*.example.org"`, true, false},
	{"subaddress", `address :user "to" "roadrunner"`, true, false},
	{"subaddress", `address :detail "to" "acme"`, true, false},
	{"subaddress", `address :detail :contains "from" ""`, false, false},
	{"relational comparator-i;ascii-numeric", `address :count "eq" :comparator "i;ascii-numeric" ["to", "cc"] "4"`, true, false},
	// envelope.
	{"envelope", `envelope "from" "coyote@desert.example.org"`, true, false},
	{"envelope", `envelope :domain "to" "acme.example.com"`, true, false},
	{"envelope", `envelope :localpart "from" "coyote"`, true, false},
	{"envelope subaddress", `envelope :user "to" "roadrunner"`, true, false},
	{"envelope subaddress", `envelope :detail "to" "acme"`, true, false},
	{"envelope", `envelope "auth" "x"`, false, true},
	// relational and i;ascii-numeric.
	{"relational comparator-i;ascii-numeric", `header :value "gt" :comparator "i;ascii-numeric" "x-number" "41"`, true, false},
	{"relational comparator-i;ascii-numeric", `header :value "eq" :comparator "i;ascii-numeric" "x-number" "42"`, true, false},
	{"relational comparator-i;ascii-numeric", `header :value "lt" :comparator "i;ascii-numeric" "x-number" "100"`, true, false},
	{"relational comparator-i;ascii-numeric", `header :value "gt" :comparator "i;ascii-numeric" "subject" "99999"`, true, false},
	{"relational comparator-i;ascii-numeric", `header :value "ne" :comparator "i;ascii-numeric" "x-number" "43"`, true, false},
	{"comparator-i;ascii-numeric", `header :is :comparator "i;ascii-numeric" "x-number" "00042"`, true, false},
	{"relational", `header :value "ge" "x-multi" "three"`, true, false},
	{"relational", `header :value "lt" :comparator "i;octet" "x-multi" "one"`, false, false},
	{"relational comparator-i;ascii-numeric", `header :count "eq" :comparator "i;ascii-numeric" "x-multi" "3"`, true, false},
	{"relational comparator-i;ascii-numeric", `header :count "lt" :comparator "i;ascii-numeric" ["x-nope"] "1"`, true, false},
	// regex.
	{"regex", `header :regex "subject" "pre(sent|text) for [[:alpha:]]{3}$"`, true, false},
	{"regex", `header :regex "subject" "^PRESENT"`, false, false},
	{"regex", `header :regex :comparator "i;octet" "subject" "PRESENT"`, false, false},
	{"regex", `address :regex "to" "roadrunner(\\+.*)?@acme\\.example\\.com"`, true, false},
	{"regex", `header :regex "x-stars" "^\\*{4}$"`, true, false},
	// variables.
	{"variables", `string :is "${nothing}x" "x"`, true, false},
	{"variables", `string :matches "aXbXc" "a*c"`, true, false},
	{"variables", `string " a " "a"`, false, false},
	{"variables relational comparator-i;ascii-numeric", `string :count "eq" :comparator "i;ascii-numeric" ["a", "", "b"] "2"`, true, false},
	{"variables", `allof(header :matches "subject" "* a * for *", string "${2}-${3}" "present-you")`, true, false},
	{"variables", `allof(address :matches "to" "*@*.com", string "${0} ${1} ${2}" "roadrunner+acme@acme.example.com roadrunner+acme acme.example")`, true, false},
	{"variables regex", `allof(header :regex "subject" "a (p[a-z]+)", string "${1}|${0}" "present|a present")`, true, false},
	{"variables", `string "${a b} ${} ${a.} $x" "${a b} ${} ${a.} $x"`, true, false},
	// index.
	{"index", `header :index 2 "x-multi" "two"`, true, false},
	{"index", `header :index 1 :last "x-multi" "three"`, true, false},
	{"index", `header :index 4 :contains "x-multi" ""`, false, false},
	{"index", `address :index 2 :contains ["to", "cc"] "b.example"`, true, false},
	// date.
	{"date", `date "date" "date" "1997-04-01"`, true, false},
	{"date", `date :originalzone "date" "hour" "09"`, true, false},
	{"date", `date :zone "+0000" "date" "time" "17:06:31"`, true, false},
	{"date", `date :zone "+0100" "date" "iso8601" "1997-04-01T18:06:31+01:00"`, true, false},
	{"date", `date :zone "+0000" "date" "iso8601" "1997-04-01T17:06:31Z"`, true, false},
	{"date", `date :originalzone "date" "zone" "-0800"`, true, false},
	{"date", `date :originalzone "date" "weekday" "2"`, true, false},
	{"date", `date :originalzone "date" "julian" "50539"`, true, false},
	{"date", `date :originalzone "date" "std11" "Tue, 01 Apr 1997 09:06:31 -0800"`, true, false},
	{"date", `date :originalzone "received" "hour" "05"`, true, false},
	{"date index", `date :index 2 :originalzone "received" "hour" "02"`, true, true},
	{"date", `date "subject" "year" "1997"`, false, false},
	{"date relational comparator-i;ascii-numeric", `date :count "eq" :comparator "i;ascii-numeric" "subject" "year" "0"`, true, true},
	{"date", `currentdate "date" "2026-11-22"`, true, true},
	{"date", `currentdate :zone "+0000" "hour" "06"`, true, true},
	{"date", `currentdate "hour" "07"`, true, true},
	{"date relational", `currentdate :value "ge" "date" "2007-06-30"`, true, false},
	// body.
	{"body", `body :contains "ANVIL"`, true, false}, {"body", `body :raw :contains "anvil thing"`, true, false},
	{"body", `body :contains "dynamite"`, false, false}, {"body", `body :content "text" :contains "anvil"`, true, false},
	{"body", `body :content "image" :contains ""`, false, false},
	{"body", `body :matches "Look,*thing.*"`, true, false},
	// environment, mailbox, special-use, ihave, lists.
	{"environment", `environment "domain" "acme.example.com"`, true, true},
	{"environment", `environment "location" "MDA"`, true, true},
	{"environment", `environment "phase" "during"`, true, true},
	{"environment", `environment :contains "remote-host" ""`, true, true},
	{"environment", `environment :contains "vnd.nobody.x" ""`, false, false},
	{"mailbox", `mailboxexists "INBOX"`, true, true}, {"mailbox", `mailboxexists ["Lists", "Spam"]`, true, true}, {"mailbox", `mailboxexists ["Lists", "Nope"]`, false, true},
	{"special-use", `specialuse_exists "\\Junk"`, true, true}, {"special-use", `specialuse_exists ["\\Junk", "\\Sent"]`, false, true},
	{"special-use", `specialuse_exists "Spam" "\\Junk"`, true, true}, {"special-use", `specialuse_exists "Lists" "\\Junk"`, false, true},
	{"ihave", `ihave "regex"`, true, false}, {"ihave", `ihave ["regex", "no-such"]`, false, false}, {"ihave", `ihave "variables"`, false, true},
	{"extlists", `address :list "from" "friends"`, true, true}, {"extlists", `address :list "to" "friends"`, false, true},
	{"extlists", `valid_ext_list "friends"`, true, true}, {"extlists", `valid_ext_list ["friends", "foes"]`, false, true},
	// scores.
	{"spamtest relational comparator-i;ascii-numeric", `spamtest :value "ge" :comparator "i;ascii-numeric" "7"`, true, true},
	{"spamtest relational comparator-i;ascii-numeric", `spamtest :value "ge" :comparator "i;ascii-numeric" "8"`, false, true},
	{"spamtestplus relational comparator-i;ascii-numeric", `spamtest :percent :value "eq" :comparator "i;ascii-numeric" "75"`, true, true},
	{"spamtestplus relational comparator-i;ascii-numeric", `spamtest :count "eq" :comparator "i;ascii-numeric" "1"`, true, true},
	{"virustest", `virustest "0"`, true, true},
	// enotify.
	{"enotify", `valid_notify_method "mailto:a@b.example"`, true, false},
	{"enotify", `valid_notify_method ["mailto:", "http://gw.example.net/notify?test"]`, false, false},
	{"enotify", `notify_method_capability "mailto:a@b.example" "Online" "maybe"`, true, false},
	{"enotify", `notify_method_capability "xmpp:a@b" "online" "maybe"`, false, false},
	// encoded-character.
	{"encoded-character", `header :contains "subject" "${hex: 70 72 65}sent"`, true, false},
	{"encoded-character", `header :contains "subject" "${unicode:0070}resent"`, true, false},
	{"encoded-character", `header :contains "subject" "${hex:7}resent"`, false, false},
	{"encoded-character", `header :contains "x-encoded" "gr${unicode:fc}${UNICODE:DF}e"`, true, false},
	{"encoded-character", `header :contains "subject" "${hex: xy}"`, false, false},
	{"encoded-character variables", `string "${hex:24}{x}" "${hex:24}{x}"`, true, false},
	// flags.
	{"imap4flags", `hasflag "x"`, false, false},
}

func TestTests(t *testing.T) {
	for _, c := range letterCases {
		want := "false"
		if c.want {
			want = "true"
		}
		if got := truth(t, c.requires, c.test, letter); got != want {
			t.Errorf("%s: %s, want %s", c.test, got, want)
		}
	}
}

var bodyCases = []testCase{
	{"body", `body :raw :contains "--inner"`, true, false},
	{"body", `body :raw :contains "K=F6ln"`, true, false},
	{"body", `body :text :contains "Köln"`, true, false},
	{"body", `body :text :contains "chatter & more"`, true, true},
	{"body", `body :text :contains "hidden"`, false, false},
	{"body", `body :content "text/html" :contains "<b>at</b>"`, true, false},
	{"body", `body :content "text/plain" :contains "<b>"`, false, false},
	{"body", `body :content "text" :contains "please say"`, true, false},
	{"body", `body :content "multipart" :contains "MIME"`, true, true},
	{"body", `body :content "multipart" :contains "nested multi-part"`, true, true},
	{"body", `body :content "multipart" :contains "end of the outer"`, true, true},
	{"body", `body :content "multipart" :contains "Hello"`, false, false},
	{"body", `body :content "multipart" :contains "--"`, false, true},
	{"body", `body :content "message/rfc822" :contains "hello request"`, true, true},
	{"body", `body :content "message/rfc822" :contains "Please"`, false, false},
	{"body", `body :content "" :contains "Please"`, true, false},
	{"body", `body :content "/plain" :contains ""`, false, true},
	{"body", `body :content "text/" :contains ""`, false, true},
	{"body", `body :content "audio/mp3" :contains ""`, false, false},
	{"body variables", `allof(body :matches "*Hello*", string "${1}" "")`, true, false},
}

func TestBody(t *testing.T) {
	for _, c := range bodyCases {
		if got := truth(t, c.requires, c.test, parts); got != map[bool]string{true: "true", false: "false"}[c.want] {
			t.Errorf("%s: %s", c.test, got)
		}
	}
}

// oddities is a header as none should be, and many are.
const oddities = "X-Tab: a\n\tb\nX-Cut: =?utf-8?q?=C3?= =?utf-8?q?=A9?=\nX-Lang: =?utf-8*de?q?Gr=C3=BC=C3=9Fe?=\n" +
	"X-Unknown: =?x-nobody?q?one?= =?utf-8?q?=C3=A9?=\n" +
	"Reply-To: \"a \\b\"@x.example, \"c\"@x.example\n" +
	"X-Est: 6 Nov 2022 23:59:59 EST\nX-Z: Sat, 1 Jan 00 00:00:00 Z\nX-Leap: Sun, 06 Nov 2022 23:59:60 +0530 (x)\n\nbody\n"

var oddCases = []testCase{
	{"", `header "x-tab" "a b"`, true, false},
	{"", `header "x-cut" "é"`, true, true},
	{"", `header "x-lang" "Grüße"`, true, false},
	{"", `header :contains "x-unknown" "é"`, true, false},
	{"", `address "reply-to" "\"a b\"@x.example"`, true, false},
	{"", `address "reply-to" "c@x.example"`, true, false},
	{"", `address :localpart "reply-to" "a b"`, true, false},
	{"date", `date :zone "+0000" "x-est" "iso8601" "2022-11-07T04:59:59Z"`, true, false},
	{"date", `date :originalzone "x-est" "hour" "23"`, true, false},
	{"date", `date :originalzone "x-z" "date" "2000-01-01"`, true, false},
	{"date", `date :originalzone "x-leap" "date" "2022-11-07"`, true, true},
}

func TestOddities(t *testing.T) {
	for _, c := range oddCases {
		if got := truth(t, c.requires, c.test, oddities); got != map[bool]string{true: "true", false: "false"}[c.want] {
			t.Errorf("%s: %s", c.test, got)
		}
	}
}

// The null sender and addresses without a domain.
func TestEnvelopeOdd(t *testing.T) {
	env := testEnv()
	env.From, env.To, env.Auth = "", "postmaster", "coyote"
	for test, want := range map[string]string{
		`envelope "from" ""`: "keep", `envelope :domain "from" ""`: "keep", `envelope "to" "postmaster"`: "keep",
		`envelope "auth" "coyote"`: "keep", `envelope :contains "from" "x"`: "discard",
	} {
		r, err := run(t, `require "envelope"; if not `+test+` { discard; }`, letter, env)
		if got := describe(r); err != nil || got != want {
			t.Errorf("%s: %s %v", test, got, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		`a@b`:                                  "a@b",
		`"a, b" <c@d>, e@f`:                    "c@d e@f",
		`a@b (comment, with @), c@d`:           "a@b c@d",
		`=?utf-8?q?x?= <c@d>`:                  "c@d",
		`<@r1,@r2:c@d>`:                        "c@d",
		`group: a@b, c@d;, e@f`:                "a@b c@d e@f",
		`undisclosed-recipients:;`:             "",
		`"quoted local"@d`:                     "quoted local@d",
		`a.b . c @ d . e`:                      "a.b.c@d.e",
		`root`:                                 "root",
		`two words`:                            "",
		`Name with <no end`:                    "noend",
		`"unclosed, a@b`:                       "unclosed, a@b",
		`a@b, , ,c@d`:                          "a@b c@d",
		`@x, y@, a@b`:                          "a@b",
		`John Doe john@x.example, jane@y.test`: "jane@y.test",
		"a\n @b":                               "a@b",
		`(((((`:                                "",
	} {
		var got []string
		for _, a := range parseAddresses(in) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}
