package sieve

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// letter is the message most tests look at.
const letter = `Return-Path: <coyote@desert.example.org>
Received: from a.example by b.example; Wed, 7 Dec 2005 05:08:02 -0500
Received: from c.example by a.example; Wed, 7 Dec 2005 02:00:26 -0800
Message-ID: <1234@desert.example.org>
Date: Tue, 1 Apr 1997 09:06:31 -0800
From: "Wile E. Coyote" <coyote@desert.example.org>
To: roadrunner+acme@acme.example.com, Bugs <bunny@hole.example>
Cc: friends: one@a.example, two@b.example;
Subject: I have a present for you
X-Spam-Score: 7.5 / 10
X-Stars: ****
X-Encoded: =?utf-8?q?Gr=C3=BC=C3=9Fe?= =?iso-8859-1?Q?_aus_K=F6ln?=
X-Folded: first
  second
X-Number: 0042 things
X-Empty:
X-Multi: one
X-Multi: two
X-Multi: three

Look, I'm sorry about the whole anvil thing.
`

// parts is a message with parts, that of RFC 5173, Section 5.2.
const parts = `From: whomever@example.org
To: someone@example.com
Date: Sat, 1 Apr 2006 00:00:00 +0000
Subject: parts
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=outer

This is a multi-part message in MIME format.

--outer
Content-Type: multipart/alternative; boundary=inner

This is a nested multi-part message in MIME format.

--inner
Content-Type: text/plain; charset="iso-8859-1"
Content-Transfer-Encoding: quoted-printable

Hello K=F6ln

--inner
Content-Type: text/html; charset="us-ascii"

<html><style>hidden</style><body>Ch<b>at</b>ter &amp; more</body></html>

--inner--

This is the end of the inner MIME multipart.

--outer
Content-Type: message/rfc822

From: Someone Else
Subject: hello request

Please say Hello

--outer--

This is the end of the outer MIME multipart.
`

func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

// testEnv is the environment of most tests.
func testEnv() *Environment {
	return &Environment{
		From: "coyote@desert.example.org", To: "roadrunner+acme@acme.example.com",
		Addresses: []string{"roadrunner@acme.example.com"},
		Now:       time.Date(2026, 11, 22, 6, 30, 15, 0, time.UTC), Zone: time.FixedZone("", 3600),
		Domain: "acme.example.com", Host: "b1.acme.example.com", RemoteIP: "192.0.2.1", Name: "Test", Version: "1",
		MailboxExists: func(_ context.Context, n string) (bool, error) { return n == "Lists" || n == "Spam", nil },
		SpecialUse: func(_ context.Context, use string) (string, bool, error) {
			return "Spam", use == `\Junk`, nil
		},
		Spam:  &Score{Header: "X-Spam-Score", Max: 10},
		Virus: &Score{Header: "X-Virus", Words: map[string]float64{"clean": 0, "found": 1}, Max: 1},
		Lists: testLists{},
	}
}

type testLists struct{}

func (testLists) Valid(list string) bool { return list == "friends" }
func (testLists) Contains(_ context.Context, _, v string) (bool, error) {
	return v == "coyote@desert.example.org", nil
}
func (testLists) Members(context.Context, string) ([]string, error) {
	return []string{"x@f.example", "y@f.example"}, nil
}

func mustCompile(t testing.TB, src string) *Script {
	t.Helper()
	s, err := Compile("test", []byte(src), Limits{})
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	return s
}

// describe writes a result in one line.
func describe(r Result) string {
	var out []string
	add := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	flags := func(f []string) string {
		if len(f) == 0 {
			return ""
		}
		f = slices.Clone(f)
		slices.Sort(f)
		return " (" + strings.Join(f, " ") + ")"
	}
	for _, a := range r.Actions {
		switch a := a.(type) {
		case *Keep:
			add("keep%s", flags(a.Flags))
		case *FileInto:
			extra := ""
			if a.Create {
				extra += " create"
			}
			if a.SpecialUse != "" {
				extra += " use " + a.SpecialUse
			}
			add("fileinto %s%s%s", a.Folder, flags(a.Flags), extra)
		case *Redirect:
			add("redirect %s", a.Address)
		case *Discard:
			add("discard")
		case *Reject:
			add("reject %s", a.Reason)
		case *Vacation:
			add("vacation to %s: %s", a.To, a.Subject)
		case *Notify:
			add("notify %s: %s", strings.Join(a.To, ","), a.Subject)
		}
	}
	if r.Failed {
		add("failed")
	}
	return strings.Join(out, "; ")
}

func run(t testing.TB, src, msg string, env *Environment) (Result, error) {
	t.Helper()
	return Run(t.Context(), []*Script{mustCompile(t, src)}, bytesMessage(crlf(msg)), env, Limits{})
}

// truth runs a test and tells what came of it: "true", "false" or the error.
func truth(t testing.TB, requires, test, msg string) string {
	t.Helper()
	list := strings.Fields(requires)
	for i := range list {
		list[i] = `"` + list[i] + `"`
	}
	req := `require ["` + "fileinto" + `"`
	if len(list) > 0 {
		req += ", " + strings.Join(list, ", ")
	}
	r, err := run(t, req+"];\nif "+test+" { fileinto \"yes\"; }", msg, testEnv())
	if err != nil {
		return err.Error()
	}
	if describe(r) == "fileinto yes" {
		return "true"
	}
	return "false"
}

var capabilityWord = regexp.MustCompile(`^[a-z0-9;-]+$`)

func TestExtensions(t *testing.T) {
	list := Extensions()
	if !slices.IsSorted(list) || len(list) < 30 {
		t.Errorf("%q", list)
	}
	for _, e := range list {
		if !capabilityWord.MatchString(e) {
			t.Errorf("%q", e)
		}
		mustCompile(t, `require "`+e+`";`)
	}
}

// bytesMessage makes a Message of bytes with CRLF line ends.
func bytesMessage(b []byte) Message {
	return NewMessage(int64(len(b)), func() (io.ReadSeekCloser, error) {
		return nopCloser{bytes.NewReader(b)}, nil
	})
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }
