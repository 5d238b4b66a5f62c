package headerfield

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestDecode(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"plain = ? text":                     "plain = ? text",
		"=?utf-8?q?a_b=C3=A9?=":              "a bé",
		"=?UTF-8?B?w6k=?= x":                 "é x",
		"=?utf-8?b?w6k?=":                    "é",
		"=?utf-8?b?w6 k=?=":                  "é",
		"=?utf-8*de?q?Gr=C3=BC=C3=9Fe?=":     "Grüße",
		"=?iso-8859-1?q?=E9t=E9?= et":        "été et",
		"=?koi8-r?b?8NLJ18XU?=":              "Привет",
		"=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=": "日本",
		// between words
		"a =?utf-8?q?b?= =?utf-8?q?c?= d":                 "a bc d",
		"=?utf-8?q?b?=\r\n =?utf-8?q?c?=":                 "bc",
		"=?utf-8?q?b?==?utf-8?q?c?=":                      "bc",
		"=?utf-8?q?b?= x =?utf-8?q?c?=":                   "b x c",
		"x=?utf-8?q?b?=y":                                 "xby",
		"=?us-ascii?q?a?= =?utf-8?q?b?= =?us-ascii?q?c?=": "abc",
		// characters cut in two
		"=?utf-8?q?=C3?= =?utf-8?q?=A9?=":                       "é",
		"=?utf-8?b?5pel5pw=?=\r\n =?UTF-8?B?rA==?=":             "日本",
		"=?utf-8?b?5pel5pw=?= =?UTF-8?Q?=AC?=":                  "日本",
		"=?utf-8?q?=C3?= =?iso-8859-1?q?=A9?=":                  "\ufffd©",
		"=?iso-2022-jp?b?GyRCRnw=?= =?iso-2022-jp?b?S1wbKEI=?=": "日本",
		// what is wrong
		"=?utf-8?q?=C3?=":                     "\ufffd",
		"=?utf-8?q?a=zz=?=":                   "a=zz=",
		"=?utf-8?q?two words?=":               "two words",
		"=?utf-8?b?!!!?= =?utf-8?q?b?=":       "=?utf-8?b?!!!?= b",
		"=?utf-8?b?YWJj!ZA?=":                 "abc",
		"=?utf-8?b?YWJjZ?=":                   "abc",
		"=?utf-8?b??=":                        "",
		"=?utf-8?x?y?=":                       "=?utf-8?x?y?=",
		"=?utf-8?q?open":                      "=?utf-8?q?open",
		"=?utf-8?b?=?= x":                     "=?utf-8?b?=?= x",
		"=?bad?x?y?=":                         "=?bad?x?y?=",
		"=??q?y?=":                            "=??q?y?=",
		"=?=?=?utf-8?q?a?=":                   "=?=?a",
		"=? utf-8?q?a?=":                      "=? utf-8?q?a?=",
		"=?unknown?q?a=C3=A9?= =?utf-8?q?b?=": "aéb",
		"=?x-1?q?a=E9?=":                      "aé",
		"=?us-ascii?q?=E9=C3=A9?=":            "éÃ©",
	} {
		if got := Decode(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestHostile: a field of beginnings costs no more than its length.
func TestHostile(t *testing.T) {
	for _, s := range []string{"=?", "=?a?q?", "=?a?b?", "=?a?b?!", "=?a?b?a", "=?a?q??= ", "=?utf-8?q?=C3?= "} {
		long := strings.Repeat(s, (1<<20)/len(s))
		if got := Decode(long); len(got) > len(long) {
			t.Errorf("%q: %d bytes of %d", s, len(got), len(long))
		}
	}
}

func TestDecoder(t *testing.T) {
	for in, want := range map[string]string{"=?utf-8*en?q?=C3=A9?=": "é", "=?x-1?q?a=E9?=": "aé", "=?koi8-r?b?8NLJ18XU?=": "Привет"} {
		if got, err := Decoder().DecodeHeader(in); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}

// TestCutAnywhere: a text comes back, however its bytes are divided among words.
func TestCutAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		var field []string
		for rest := s; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "bytes")
			word := "=?utf-8?B?" + base64.StdEncoding.EncodeToString([]byte(rest[:n])) + "?="
			if rapid.Bool().Draw(t, "Q") {
				word = fmt.Sprintf("=?UTF-8?q?%s?=", strings.ReplaceAll(fmt.Sprintf("% X", " "+rest[:n])[2:], " ", "="))
			}
			field = append(field, word)
			rest = rest[n:]
		}
		if got := Decode(strings.Join(field, "\r\n ")); got != strings.ToValidUTF8(s, "\ufffd") {
			t.Fatalf("%q: %q, want %q", field, got, s)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("=?utf-8?q?=C3?= =?utf-8?b?qQ==?= x")
	f.Add("=?iso-2022-jp*ja?b?GyRCRnxLXBsoQg?=")
	f.Add("=?=?utf-16?q?=00?==?")
	f.Fuzz(func(t *testing.T, s string) {
		got := Decode(s)
		if utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Fatalf("%q: %q", s, got)
		}
		if !strings.Contains(s, "=?") && got != s {
			t.Fatalf("%q: %q", s, got)
		}
	})
}
