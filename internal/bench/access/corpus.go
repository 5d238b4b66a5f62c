package access

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"
)

// What SEARCH looks for is in every so-manieth message, and nowhere else.
const (
	subjectWord, subjectEvery = "quarterly", 20
	fromWord, fromEvery       = "walburga", 50
	bodyWord, bodyEvery       = "zanzibar", 100
)

// hits is how many of the messages from first on to before last have what is in every so-manieth.
func hits(first, last, every int) int {
	n := 0
	for i := first; i < last; i++ {
		if i%every == 0 {
			n++
		}
	}
	return n
}

var (
	givenNames = [...]string{"Ada", "Björn", "Chiara", "Dmitri", "Esi", "Farid", "Grace", "Hana", "Ivo", "Jun", "Karla", "Luis", "Mette", "Noor", "Olga", "Pavel", "Quinn", "Rosa", "Sven", "Tariq"}
	surnames   = [...]string{"Almeida", "Brandt", "Castillo", "Dahl", "Evans", "Fischer", "García", "Horváth", "Ito", "Jansen", "Kowalski"}
	hosts      = [...]string{"example.org", "mail.example.net", "lists.example.com", "example.edu", "shop.example.com"}
	subjects   = [...]string{"the plan for next week", "minutes of the meeting", "photographs from the coast", "a question about the contract", "lunch on Thursday?", "build failed on main", "your order has been sent", "release candidate three", "travel to the conference", "invoice attached", "new member of the team", "server maintenance tonight"}
	lines      = [...]string{
		"The draft is in the shared folder; please read the second part before we meet.",
		"I moved the deadline to the end of the month, as nobody had an objection to that.",
		"Could somebody who was there add what was said about the budget of the project?",
		"There is a new version of the report, with the figures of the last three years.",
		"We looked at both offers, and the cheaper one does not include any maintenance.",
		"Thanks for the quick answer. It works now on both machines, also after a restart.",
		"The train leaves at 8:14 from platform six, and there is no later one on Sundays.",
		"If the tests pass tonight, I would like to merge the branch tomorrow before noon.",
	}
)

// epoch is when message 0 was sent; each further one was sent some minutes later.
var epoch = time.Date(2024, 3, 1, 8, 0, 0, 0, time.UTC)

func sentAt(n int) time.Time { return epoch.Add(time.Duration(n) * 7 * time.Minute) }

// message is number n, with LF: a plain text, an alternative with HTML, one with an
// attachment, or a forwarded one. They have 1.5 to 9 KB, 4 KB in the mean.
func message(n int) []byte {
	var b bytes.Buffer
	header(&b, n)
	switch n % 10 {
	case 0, 1, 2, 3, 4:
		b.WriteString("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n")
		text(&b, n, 12+n%37)
	case 5, 6, 7:
		alternative(&b, n)
	case 8:
		mixed(&b, n)
	default:
		forwarded(&b, n)
	}
	return b.Bytes()
}

func header(b *bytes.Buffer, n int) {
	host := hosts[n%len(hosts)]
	date := sentAt(n).Format("Mon, 02 Jan 2006 15:04:05 -0700")
	fmt.Fprintf(b, "Return-Path: <sender%d@%s>\n", n%211, host)
	for hop := range 1 + n%3 {
		fmt.Fprintf(b, "Received: from relay%d.%s (relay%d.%s [192.0.2.%d])\n\tby mx%d.example.test with ESMTPS id %08x%d\n\tfor <somebody@example.test>; %s\n", hop, host, hop, host, 1+n%250, hop, n*2654435761&0xffffffff, hop, date)
	}
	subject := subjects[n%len(subjects)]
	if n%subjectEvery == 0 {
		subject = subjectWord + " " + subject
	}
	if n%3 == 0 {
		subject = "Re: " + subject
	}
	name := givenNames[n%len(givenNames)] + " " + surnames[n%len(surnames)]
	if n%fromEvery == 0 {
		name = fromWord + " " + surnames[n%len(surnames)]
	}
	fmt.Fprintf(b, "Date: %s\nFrom: %s <sender%d@%s>\nTo: Somebody <somebody@example.test>", date, phrase(name), n%211, host)
	for i := range n % 4 {
		fmt.Fprintf(b, ",\n\t%s <reader%d@example.test>", phrase(givenNames[(n+i)%len(givenNames)]), (n+i)%97)
	}
	fmt.Fprintf(b, "\nSubject: %s\nMessage-ID: <%d.%x@%s>\n", subject, n, n*2654435761, host)
	if n%3 == 0 && n > 0 {
		fmt.Fprintf(b, "In-Reply-To: <%d.%x@%s>\nReferences: <%d.%x@%s>\n", n-1, (n-1)*2654435761, hosts[(n-1)%len(hosts)], n-1, (n-1)*2654435761, hosts[(n-1)%len(hosts)])
	}
	if n%5 == 2 {
		fmt.Fprintf(b, "List-Id: Readers <readers.%s>\nList-Unsubscribe: <mailto:leave@%s>\nPrecedence: list\n", host, host)
	}
	fmt.Fprintf(b, "User-Agent: Reader/%d.%d\nMIME-Version: 1.0\n", n%9, n%7)
}

// phrase is a display name; one with other than ASCII is encoded (RFC 2047).
func phrase(name string) string {
	for _, r := range name {
		if r > 126 {
			return "=?utf-8?B?" + base64.StdEncoding.EncodeToString([]byte(name)) + "?="
		}
	}
	return name
}

// text writes so many lines. The word that SEARCH BODY looks for is in the middle.
func text(b *bytes.Buffer, n, count int) {
	for i := range count {
		if i == count/2 && n%bodyEvery == 0 {
			b.WriteString("She is in " + bodyWord + " until Friday.\n")
		}
		b.WriteString(lines[(n+i*3)%len(lines)])
		b.WriteByte('\n')
	}
}

func alternative(b *bytes.Buffer, n int) {
	edge := "=_alt_" + strconv.Itoa(n)
	fmt.Fprintf(b, "Content-Type: multipart/alternative; boundary=\"%s\"\n\n--%s\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n", edge, edge)
	text(b, n, 8+n%11)
	fmt.Fprintf(b, "Gr=C3=BC=C3=9Fe\n\n--%s\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 7bit\n\n<html><head><title>Message</title></head><body>\n", edge)
	for i := range 10 + n%13 {
		fmt.Fprintf(b, "<p class=\"line\">%s</p>\n", lines[(n+i)%len(lines)])
	}
	fmt.Fprintf(b, "</body></html>\n\n--%s--\n", edge)
}

func mixed(b *bytes.Buffer, n int) {
	edge := "=_mix_" + strconv.Itoa(n)
	fmt.Fprintf(b, "Content-Type: multipart/mixed; boundary=\"%s\"\n\n--%s\nContent-Type: text/plain; charset=us-ascii\n\n", edge, edge)
	text(b, n, 6+n%5)
	fmt.Fprintf(b, "\n--%s\nContent-Type: application/pdf; name=\"report-%d.pdf\"\nContent-Disposition: attachment; filename=\"report-%d.pdf\"; size=%d\nContent-Transfer-Encoding: base64\n\n", edge, n, n, 57*(60+n%50))
	raw := make([]byte, 57)
	for i := range 60 + n%50 {
		for k := range raw {
			raw[k] = byte(n*31 + i*7 + k*k)
		}
		b.WriteString(base64.StdEncoding.EncodeToString(raw))
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "\n--%s--\n", edge)
}

func forwarded(b *bytes.Buffer, n int) {
	edge := "=_fwd_" + strconv.Itoa(n)
	fmt.Fprintf(b, "Content-Type: multipart/mixed; boundary=\"%s\"\n\n--%s\nContent-Type: text/plain; charset=us-ascii\n\nSee below.\n\n--%s\nContent-Type: message/rfc822\n\n", edge, edge, edge)
	fmt.Fprintf(b, "Date: %s\nFrom: Original <original@example.org>\nTo: Forwarder <forwarder@example.org>\nSubject: the original\nMessage-ID: <original.%d@example.org>\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n", sentAt(n-1).Format(time.RFC1123Z), n)
	text(b, n, 15+n%23)
	fmt.Fprintf(b, "\n--%s--\n", edge)
}

// appended is message number n as a client sends it, with CRLF.
func appended(n int) []byte { return bytes.ReplaceAll(message(n), []byte("\n"), []byte("\r\n")) }
