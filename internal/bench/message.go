package bench

import (
	"bytes"
	"fmt"
	"strconv"
)

// Script is a Sieve script as users have them: ten rules, some of which the
// generator's messages meet. A quarter of these goes to folders.
const Script = `require ["fileinto", "mailbox", "envelope", "subaddress", "imap4flags", "copy"];
# 1: what the filter in front marked
if header :is "X-Spam-Flag" "YES" { fileinto :create "Junk"; stop; }
# 2-4: lists
if header :contains "List-Id" "<users.example.net>" { fileinto :create "Lists"; stop; }
if header :contains "List-Id" "<dev.example.org>" { fileinto :create "Lists"; stop; }
if header :contains ["To", "Cc"] "announce@example.net" { fileinto :create "Lists"; stop; }
# 5: machines
if allof (address :is "From" "monitor@example.org", header :contains "Subject" "[monitor]") { fileinto :create "Monitor"; stop; }
# 6: bills
if anyof (header :contains "Subject" "invoice", address :domain "From" "billing.example.com") { setflag "\\Flagged"; fileinto :create "Bills"; stop; }
# 7: the family
if address :is "From" ["mother@example.org", "father@example.org", "sister@example.org"] { addflag "\\Flagged"; }
# 8: travel
if header :matches "Subject" ["*booking*", "*itinerary*"] { fileinto :copy :create "Travel"; }
# 9: too large to read on the way
if size :over 5M { fileinto :create "Large"; stop; }
# 10: robots
if anyof (header :contains "Auto-Submitted" "auto-generated", envelope :is "from" "robot@example.org") { fileinto :create "Robots"; stop; }
`

// variants are the headers in which messages differ; the last two are sorted by
// Script.
var variants = [...]string{
	"Subject: the plan for next week\r\n",
	"Subject: Re: the plan for next week\r\nIn-Reply-To: <plan@example.org>\r\n",
	"Subject: photographs\r\nX-Priority: 3\r\n",
	"Subject: minutes of the meeting\r\nCc: everybody@example.org\r\n",
	"Subject: a question\r\n",
	"Subject: lunch\r\nImportance: low\r\n",
	"Subject: [PATCH] one line\r\nList-Id: Development <dev.example.org>\r\nPrecedence: list\r\n",
	"Subject: your account\r\nX-Spam-Flag: YES\r\nX-Spam-Score: 17\r\n",
}

const header = "Received: from out.example.org (out.example.org [192.0.2.7])\r\n" +
	"\tby mx.example.test (Mail) with ESMTPS; Sun, 22 Nov 2026 10:00:00 +0000\r\n" +
	"From: Sender <sender@example.org>\r\n" +
	"To: Somebody <somebody@example.test>\r\n" +
	"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\n" +
	"MIME-Version: 1.0\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\n" +
	"Content-Transfer-Encoding: 7bit\r\n"

const (
	idHead   = "Message-ID: <bench-"
	idDigits = 16
	idTail   = "@example.org>\r\n\r\n"
)

// MinSize is the least size of a message in bytes.
const MinSize = 1024

// letters are prebuilt messages of one size: a message is a head with its
// number written in, and the rest of a body. No line begins with a dot, so that
// DATA needs no stuffing.
type letters struct {
	size  int
	heads [len(variants)][]byte
	body  []byte
}

// newLetters makes messages of size bytes as they go over the wire.
func newLetters(size int) (*letters, error) {
	if size < MinSize {
		return nil, fmt.Errorf("message size %d: want at least %d bytes", size, MinSize)
	}
	l := &letters{size: size}
	for i, v := range variants {
		l.heads[i] = []byte(header + v + idHead + "0000000000000000" + idTail)
	}
	const line = "It was the best of times, it was the worst of times, said the store.\r\n"
	l.body = bytes.Repeat([]byte(line), size/len(line)+1)
	return l, nil
}

// append adds message number n to buf, in one of the variants.
func (l *letters) append(buf []byte, n, variant uint64) []byte {
	head := l.heads[variant%uint64(len(l.heads))]
	buf = append(buf, head...)
	id := buf[len(buf)-len(idTail)-idDigits : len(buf)-len(idTail)]
	putHex(id, n)
	buf = append(buf, l.body[:l.size-len(head)-2]...)
	// The cut may have fallen behind a CR, which would not end a line.
	if buf[len(buf)-1] == '\r' {
		buf[len(buf)-1] = '.'
	}
	return append(buf, "\r\n"...)
}

// putHex writes n into b, with leading zeros.
func putHex(b []byte, n uint64) {
	for i := range b {
		b[i] = '0'
	}
	var digits [idDigits]byte
	d := strconv.AppendUint(digits[:0], n, 16)
	copy(b[len(b)-len(d):], d)
}

// StoredMessage is a message of MinSize as a Maildir keeps it, with LF, and its
// size with CRLF.
func StoredMessage() (text []byte, wire int) {
	l, err := newLetters(MinSize)
	if err != nil { // MinSize is a size
		return nil, 0
	}
	return bytes.ReplaceAll(l.append(nil, 0, 0), []byte("\r\n"), []byte("\n")), l.size
}
