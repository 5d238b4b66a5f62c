package lmtp_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"waypost/internal/lmtp"
	"waypost/internal/lmtp/lmtptest"
)

func dial(t *testing.T, addr string, o lmtp.Options) *lmtp.Client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	c := lmtp.New(conn, o)
	t.Cleanup(func() { c.Close() })
	if err := c.Hello("mx1"); err != nil {
		t.Fatal(err)
	}
	return c
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func body(lines ...string) []byte { return []byte(strings.Join(lines, "\r\n")) }

// TestDelivery sends bodies both ways and compares what arrives.
func TestDelivery(t *testing.T) {
	bodies := map[string][]byte{
		"plain":          body("A: b", "", "text", ""),
		"dots":           body(".", "..", ".x", "", ".", "a.", "..."),
		"no last CRLF":   body("a", ".b"),
		"empty":          {},
		"bare CR and LF": []byte("a\rb\n.c\r.\r\r\n.d\r\n"),
		"large":          bytes.Repeat([]byte(".0123456789\r\n"), 40000),
		"one line":       bytes.Repeat([]byte("."), 200000),
	}
	for _, ext := range [][]string{nil, {"PIPELINING"}, lmtptest.Full} {
		for name, b := range bodies {
			t.Run(fmt.Sprintf("%d extensions/%s", len(ext), name), func(t *testing.T) {
				s := lmtptest.New(t, lmtptest.Script{Ext: ext})
				c := dial(t, s.Addr(), lmtp.Options{})
				mail, rcpt, err := c.MailRcpt("", lmtp.MailParams{Size: int64(len(b))}, []lmtp.Recipient{{To: "u@x.test"}})
				if err != nil || !mail.OK() || len(rcpt) != 1 || !rcpt[0].OK() {
					t.Fatal(mail, rcpt, err)
				}
				d := must[*lmtp.DataWriter](t)(c.Data())
				for rest := b; len(rest) > 0; { // uneven pieces
					n := min(len(rest), 1+len(rest)/3)
					must[int](t)(d.Write(rest[:n]))
					rest = rest[n:]
				}
				if r, err := d.Finish(); err != nil || len(r) != 1 || !r[0].OK() {
					t.Fatal(r, err)
				}
				want := b
				chunked := len(ext) == len(lmtptest.Full)
				if !chunked && len(b) > 0 && !bytes.HasSuffix(b, []byte("\r\n")) {
					want = append(bytes.Clone(b), "\r\n"...)
				}
				m := s.WaitMessages(1)[0]
				if !bytes.Equal(m.Body, want) || m.Chunked != chunked {
					t.Errorf("came %.200q, chunked %v", m.Body, m.Chunked)
				}
				if err := c.Quit(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestDuplicateRecipients: one reply for each RCPT, in order, duplicates apart.
func TestDuplicateRecipients(t *testing.T) {
	s := lmtptest.New(t, lmtptest.Script{
		Ext: lmtptest.Full,
		Rcpt: func(r lmtptest.Rcpt) string {
			if r.Addr == "no@x.test" {
				return "550 5.1.1 unknown"
			}
			return "250 2.1.5 ok"
		},
		End: func(m lmtptest.Message) []string {
			return []string{"250 2.0.0 first", "451 4.3.0 [BUSY] second", "552-5.2.2 over", "552 5.2.2 quota"}
		},
	})
	c := dial(t, s.Addr(), lmtp.Options{})
	to := []lmtp.Recipient{{To: "a@x.test"}, {To: "no@x.test"}, {To: "a@x.test"}, {To: `a"b c@x.test`, Params: []lmtp.Param{{"XHOME", "b1"}}}}
	_, rcpt, err := c.MailRcpt("s@y.test", lmtp.MailParams{UTF8: true, EightBit: true, Extra: []lmtp.Param{{"XDELIVERY", "id1"}}}, to)
	if err != nil || len(rcpt) != 4 || rcpt[1].Code != 550 || rcpt[1].Enhanced != "5.1.1" {
		t.Fatal(rcpt, err)
	}
	d := must[*lmtp.DataWriter](t)(c.Data())
	must[int](t)(d.Write([]byte("x\r\n")))
	got, err := d.Finish()
	want := []lmtp.Reply{{250, "2.0.0", "first"}, {451, "4.3.0", "[BUSY] second"}, {552, "5.2.2", "over\nquota"}}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatal(got, err)
	}
	m := s.WaitMessages(1)[0]
	if m.Rcpts[2].Addr != `"a\"b c"@x.test` || m.Rcpts[2].Params["XHOME"] != "b1" || m.Params["XDELIVERY"] != "id1" || m.Params["BODY"] != "8BITMIME" {
		t.Errorf("%+v", m)
	}
}

// TestManyRecipients goes over several windows of pipelining, and none.
func TestManyRecipients(t *testing.T) {
	for _, ext := range [][]string{nil, {"PIPELINING"}} {
		s := lmtptest.New(t, lmtptest.Script{Ext: ext})
		c := dial(t, s.Addr(), lmtp.Options{})
		var to []lmtp.Recipient
		for i := range 350 {
			to = append(to, lmtp.Recipient{To: fmt.Sprintf("u%d@x.test", i)})
		}
		_, rcpt, err := c.MailRcpt("s@y.test", lmtp.MailParams{}, to)
		if err != nil || len(rcpt) != len(to) {
			t.Fatal(len(rcpt), err)
		}
		if err := c.Reset(); err != nil {
			t.Fatal(err)
		}
		if r, err := c.Mail("s@y.test", lmtp.MailParams{}); err != nil || !r.OK() {
			t.Fatal(r, err)
		}
		if r, err := c.Rcpt("u@x.test"); err != nil || !r.OK() {
			t.Fatal(r, err)
		}
	}
}

func TestMailRefused(t *testing.T) {
	s := lmtptest.New(t, lmtptest.Script{Mail: func(string, map[string]string) string { return "452 4.3.1 full" }})
	c := dial(t, s.Addr(), lmtp.Options{})
	mail, rcpt, err := c.MailRcpt("s@y.test", lmtp.MailParams{}, []lmtp.Recipient{{To: "a@x.test"}})
	if err != nil || mail.Code != 452 || len(rcpt) != 0 {
		t.Fatal(mail, rcpt, err)
	}
	if _, err := c.Data(); err == nil {
		t.Fatal("DATA was not refused")
	} else if re := (*lmtp.ReplyError)(nil); !errors.As(err, &re) || re.Reply.Code != 503 {
		t.Fatal(err)
	}
}

func TestInjection(t *testing.T) {
	s := lmtptest.New(t, lmtptest.Script{})
	c := dial(t, s.Addr(), lmtp.Options{})
	for _, bad := range []string{"a\r\nDATA@x", "a@x\r\n", "a@x> SIZE=1", "a@x y", "@x", "a\x00@x"} {
		if _, err := c.Rcpt(bad); !errors.Is(err, lmtp.ErrSyntax) {
			t.Errorf("RCPT %q: %v", bad, err)
		}
		if _, err := c.Mail(bad, lmtp.MailParams{}); !errors.Is(err, lmtp.ErrSyntax) {
			t.Errorf("MAIL %q: %v", bad, err)
		}
	}
	if _, err := c.Rcpt("a@x", lmtp.Param{Key: "K", Value: "v\r\nRSET"}); !errors.Is(err, lmtp.ErrSyntax) {
		t.Error(err)
	}
	if _, err := c.Rcpt(""); !errors.Is(err, lmtp.ErrSyntax) {
		t.Error(err)
	}
	if got := s.Commands(); len(got) != 1 {
		t.Errorf("commands were sent: %q", got)
	}
}

func TestXClient(t *testing.T) {
	got := make(chan string, 1)
	s := lmtptest.New(t, lmtptest.Script{Ext: []string{"XCLIENT ADDR PORT HELO"}, XClient: func(a string) { got <- a }})
	c := dial(t, s.Addr(), lmtp.Options{})
	if err := c.XClient(netip.MustParseAddrPort("[2001:db8::1]:25"), "a b"); err != nil {
		t.Fatal(err)
	}
	if err := c.Hello("mx1"); err != nil {
		t.Fatal(err)
	}
	if a := <-got; a != "ADDR=IPV6:2001:db8::1 PORT=25 HELO=a+20b" {
		t.Error(a)
	}
}

// TestSilentServer: every wait ends by itself.
func TestSilentServer(t *testing.T) {
	far, near := net.Pipe()
	defer far.Close()
	c := lmtp.New(near, lmtp.Options{Timeout: 20 * time.Millisecond})
	var ne net.Error
	if err := c.Hello("mx1"); !errors.As(err, &ne) || !ne.Timeout() {
		t.Fatal(err)
	}
}

// TestEndlessReply: a reply that does not end is cut off.
func TestEndlessReply(t *testing.T) {
	for _, line := range []string{"250-x\r\n", "xxxxxxxxxx"} {
		far, near := net.Pipe()
		go func() {
			w := bufio.NewWriter(far)
			for {
				if _, err := w.WriteString(line); err != nil {
					return
				}
			}
		}()
		c := lmtp.New(near, lmtp.Options{Timeout: 10 * time.Second})
		if err := c.Hello("mx1"); !errors.Is(err, lmtp.ErrReply) {
			t.Errorf("%q: %v", line, err)
		}
		far.Close()
		c.Close()
	}
}

// TestLostAnswer: what is known of a message whose answers break off is told.
func TestLostAnswer(t *testing.T) {
	s := lmtptest.New(t, lmtptest.Script{End: func(lmtptest.Message) []string { return []string{"250 2.0.0 one"} }})
	c := dial(t, s.Addr(), lmtp.Options{DataTimeout: 50 * time.Millisecond})
	if _, _, err := c.MailRcpt("", lmtp.MailParams{}, []lmtp.Recipient{{To: "a@x"}, {To: "b@x"}}); err != nil {
		t.Fatal(err)
	}
	d := must[*lmtp.DataWriter](t)(c.Data())
	r, err := d.Finish()
	if err == nil || len(r) != 1 || !r[0].OK() {
		t.Fatal(r, err)
	}
}
