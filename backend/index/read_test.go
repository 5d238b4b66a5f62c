package index

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestPreview(t *testing.T) {
	for name, c := range map[string]struct{ msg, want string }{
		"plain":       {"\n  hello\n\n  world \n", "hello world"},
		"none":        {"Subject: x\n\n", ""},
		"pdf":         {"Content-Type: application/pdf\n\nx", ""},
		"quotes":      {"\nOn Monday Bob wrote:\n> old\n>> older\nnew: this\nend\n-- \nBob\n", "new: this end"},
		"only quotes": {"\n> old\n>> older\n", "old older"},
		"colon":       {"\nDear all:\nwelcome\nlast:", "Dear all: welcome last:"},
		"charset":     {"Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9", "café"},
		"base64":      {"Content-Transfer-Encoding: base64\n\naGVsbG8gd29ybGQ=\n", "hello world"},
		"alternative": {"Content-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/html\n\n<b>rich</b>\n--b\n\nplain\n--b--\n", "plain"},
		"empty plain": {"Content-Type: multipart/alternative; boundary=b\n\n--b\n\n \n--b\nContent-Type: text/html\n\n<b>rich</b>\n--b--\n", "rich"},
		"attached":    {"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Disposition: attachment\n\nno\n--b\n\nyes\n--b--\n", "yes"},
		"enclosed":    {"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\nSubject: s\n\nno\n--b--\n", ""},
		"html": {"Content-Type: text/html; charset=utf-8\n\n<html><head><title>t</title><style>p{}</style></head><body><p>One&nbsp;&amp; <b>t</b>wo<br>three" +
			"<script>no()</script><blockquote>old</blockquote>&zwnj;&nbsp;&zwnj; &#233;nd", "One & two three énd"},
		"html quotes": {"Content-Type: text/html\n\n<blockquote>old", "old"},
		"open style":  {"Content-Type: text/html\n\n<style>p {", ""},
		"controls":    {"Content-Type: text/plain; charset=utf-8\n\na\x00b\u202ec\ufeffd \u200d\u200b e\xff\n", "abcd e"},
		"length":      {"\n" + strings.Repeat("ab ", 100), strings.TrimSpace(strings.Repeat("ab ", 67)[:200])},
	} {
		if got := read(t, []byte(crlf(c.msg))).Preview; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAttachment(t *testing.T) {
	in := func(kind, part string) string {
		return "Content-Type: multipart/" + kind + "; boundary=b\n\n--b\n\ntext\n--b\n" + part + "\n\nx\n--b--\n"
	}
	for msg, want := range map[string]bool{
		"\nx": false,
		in("mixed", "Content-Type: application/pdf; name=a.pdf"):                                                   true,
		in("mixed", "Content-Type: application/pdf; name*0*=utf-8''a"):                                             true,
		in("mixed", "Content-Type: application/pdf"):                                                               false,
		in("mixed", "Content-Disposition: attachment"):                                                             true,
		in("mixed", "Content-Disposition: inline; filename=a.txt"):                                                 false,
		in("mixed", "Content-Disposition: inline; filename=a.png\nContent-Type: image/png"):                        true,
		in("mixed", "Content-Type: message/rfc822"):                                                                true,
		in("digest", "Subject: x"):                                                                                 false,
		in("signed", "Content-Type: application/pgp-signature; name=signature.asc"):                                false,
		in("signed", "Content-Type: application/pkcs7-signature; name=smime.p7s\nContent-Disposition: attachment"): false,
		in("encrypted", "Content-Type: application/octet-stream; name=encrypted.asc"):                              false,
		in("report", "Content-Type: message/rfc822"):                                                               false,
		in("related", "Content-Type: image/png; name=a.png\nContent-ID: <a>"):                                      false,
		in("related", "Content-Type: image/png; name=a.png\nContent-ID: <a>\nContent-Disposition: attachment"):     true,
		in("mixed", "Content-Type: multipart/mixed; boundary=c\n\n--c\nContent-Disposition: attachment\n\n--c--"):  true,
		"Content-Type: application/pdf; name=x.pdf\n\nx":                                                           true,
	} {
		if got := read(t, []byte(crlf(msg))).Attachment; got != want {
			t.Errorf("%q: %v", msg, got)
		}
	}
}

// broken fails at its n-th byte.
type broken struct {
	*bytes.Reader
	n int64
}

func (b broken) Read(p []byte) (int, error) {
	at, _ := b.Seek(0, io.SeekCurrent)
	if at >= b.n {
		return 0, iotest.ErrTimeout
	}
	return b.Reader.Read(p[:min(int64(len(p)), b.n-at)])
}

// TestReadErrors: what the disk does not give is an error, never a short answer.
func TestReadErrors(t *testing.T) {
	msg := []byte(crlf("Subject: x\nContent-Type: text/html\nContent-Transfer-Encoding: base64\n\naGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=\n"))
	for n := range len(msg) {
		if _, err := Read(broken{bytes.NewReader(msg), int64(n)}, arrived); !errors.Is(err, iotest.ErrTimeout) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

// TestHostile: time grows with the size, no faster. A square would take minutes.
func TestHostile(t *testing.T) {
	for name, piece := range map[string]string{
		"blockquote": "<blockquote>", "open tag": "<a ", "open comment": "<!--", "entity": "&am",
		"quotes": "> \n", "colons": "x:\n", "attribute": "<a b=\"", "end tags": "</a></b>", "rcdata": "<title><",
	} {
		for _, kind := range []string{"html", "plain"} {
			begin := time.Now()
			read(t, []byte("Content-Type: text/"+kind+"\r\n\r\n"+strings.Repeat(piece, (2<<20)/len(piece))))
			if d := time.Since(begin); d > 20*time.Second {
				t.Errorf("%s as %s: %v", name, kind, d)
			}
		}
	}
}
