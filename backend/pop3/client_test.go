package pop3

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"

	"waypost/backend/mailbox"
	"waypost/internal/popclient"
	"waypost/internal/testmail"
)

// listen serves a maildrop to clients that log in with anything.
func listen(t *testing.T, box mailbox.Box) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := New(Options{})
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				r := bufio.NewReader(c)
				fmt.Fprint(c, "+OK\r\n")
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						c.Close()
						return
					}
					switch {
					case strings.HasPrefix(line, "PASS"):
						fmt.Fprint(c, "+OK\r\n")
						_ = srv.Serve(context.Background(), c, Session{Box: box})
						return
					case strings.HasPrefix(line, "CAPA"):
						fmt.Fprint(c, "-ERR\r\n")
					default:
						fmt.Fprint(c, "+OK\r\n")
					}
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); served.Wait() })
	return ln.Addr().String()
}

// tricky are messages whose attachments are not easily found.
var tricky = []string{
	"Content-Type: multipart/mixed; boundary=\"a\"\n\n--a\n\ntext\n--a\nContent-Type: text/plain; name=x.txt\nContent-Disposition: inline\n\nx\n--a--\n",
	"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/alternative; boundary=ab\n\n--ab\n\nx\n--ab\nContent-Type: image/png; name*0=x\n\nx\n--a--\n",
	"Content-Type: multipart/related; boundary=a\n\n--a\nContent-Type: text/html\n\nx\n--a\nContent-Type: image/png; name=x.png\nContent-ID: <x>\n\nx\n--a--\n",
	"Content-Type: multipart/signed; boundary=a\n\n--a\n\nx\n--a\nContent-Type: application/pgp-signature; name=s.asc\n\nx\n--a--\n",
	"Content-Type: multipart/report; boundary=a\n\n--a\n\nx\n--a\nContent-Type: message/rfc822\n\nSubject: x\n\nx\n--a--\n",
	"Content-Type: multipart/digest; boundary=a\n\n--a\n\nSubject: x\n\nx\n--a--\n",
	"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: message/rfc822\n\nSubject: x\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\nx\n--c--\n--a--\n",
	"Content-Type: application/pdf\nContent-Disposition: attachment;\n filename=\"a;b.pdf\"\n\nx\n",
	"Content-Type: application/pdf\n\nx\n", "Content-Type: image/png; name=\"\"\n\nx\n", "Content-Type: text/plain; name=a.txt\n\nx\n", "Content-Type: message/rfc822\n\nSubject: x\n\nx\n",
	"Content-Type: multipart/mixed; boundary=a\n\n--ax\nContent-Type: image/png; name=x\n\n--a\n\nx\n--a  \nContent-Type: image/png; name=y\n\nx\n",
	"Content-Type: multipart/mixed; boundary=a\n\n--a\n\nx\n--a--\n--a\nContent-Type: image/png; name=epilogue\n\nx\n",
	"Content-Type: multipart/mixed\n\n--a\nContent-Type: image/png; name=x\n\nx\n",
	"CONTENT-TYPE : Multipart/Mixed ; Boundary = a\n\n--a\nContent-disposition:ATTACHMENT\n\nx\n--a--\n",
	"Content-Type: multipart/encrypted; boundary=a\n\n--a\nContent-Type: application/octet-stream; name=x\nContent-Disposition: attachment\n\nx\n--a--\n",
	"Subject: no end of the header", "",
}

// TestBothWaysAreOne: the extended listing and the reading of messages give the
// same entries, for the corpus of real messages.
func TestBothWaysAreOne(t *testing.T) {
	messages, real, err := testmail.Load(t.TempDir(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	texts := make([]string, 0, len(messages))
	for _, m := range messages {
		texts = append(texts, strings.ReplaceAll(string(m.Body), "\r\n", "\n"))
	}
	for i, text := range tricky {
		messages = append(messages, testmail.Message{Name: fmt.Sprint("tricky ", i)})
		texts = append(texts, text)
	}
	addr := listen(t, open(t, drop(t, texts...), 7))
	list := func(o popclient.Options) (all []popclient.Entry, read int) {
		o.Addr, o.User, o.Password, o.Security = addr, "ann", "x", popclient.Plain
		c, err := popclient.Dial(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.Extended() == o.Scan {
			t.Errorf("extended: %v", c.Extended())
		}
		for e, err := range c.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		return all, c.Read
	}
	want, _ := list(popclient.Options{})
	if len(want) != len(messages) {
		t.Fatalf("%d entries of %d messages", len(want), len(messages))
	}
	cache := t.TempDir()
	attachments, guesses := 0, 0
	for _, o := range []popclient.Options{{Scan: true, Whole: true}, {Scan: true, Cache: cache}, {Scan: true, Cache: cache}} {
		got, read := list(o)
		if read != len(messages) && o.Cache == "" {
			t.Errorf("read %d", read)
		}
		for i, e := range got {
			w := want[i]
			w.Flags, w.FlagsKnown = []string{}, false
			if w.Attachment {
				attachments++
			}
			if e.AttachmentGuessed {
				if e.Attachment != w.Attachment {
					guesses++
				}
				w.Attachment, w.AttachmentGuessed = e.Attachment, true
			}
			if !reflect.DeepEqual(e, w) {
				t.Errorf("%s:\nscanned %+v\nlisted  %+v", messages[i].Name, e, w)
			}
		}
	}
	if _, read := list(popclient.Options{Scan: true, Cache: cache}); read != 0 {
		t.Errorf("read %d again", read)
	}
	t.Logf("%d messages, from the corpus: %v; %d attachments, %d wrong guesses", len(messages), real, attachments/3, guesses/2)
}
