package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waypost/internal/lmtp/lmtptest"
)

func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLetters(t *testing.T) {
	for _, size := range []int{MinSize, MinSize + 1, 4096, 102400} {
		l, err := newLetters(size)
		must(t, l, err)
		seen := make(map[string]bool)
		for n := range uint64(2 * len(variants)) {
			m := l.append([]byte("before"), n, n)[len("before"):]
			if len(m) != size {
				t.Errorf("message %d has %d bytes, want %d", n, len(m), size)
			}
			for line := range bytes.Lines(m) {
				if line[0] == '.' || !bytes.HasSuffix(line, []byte("\r\n")) || bytes.IndexByte(line, '\r') != len(line)-2 {
					t.Errorf("size %d, message %d: bad line %q", size, n, line)
				}
			}
			seen[string(m)] = true
		}
		if len(seen) != 2*len(variants) {
			t.Errorf("size %d: %d different messages", size, len(seen))
		}
	}
	if _, err := newLetters(MinSize - 1); err == nil {
		t.Error("too small a size was taken")
	}
	text, wire := StoredMessage()
	if wire != MinSize || bytes.Contains(text, []byte("\r")) || len(text)+bytes.Count(text, []byte("\n")) != wire {
		t.Errorf("stored: %d bytes, %d on the wire", len(text), wire)
	}
}

func TestQuantile(t *testing.T) {
	hundred := make(Latencies, 100)
	for i, n := range rand.Perm(100) {
		hundred[i] = time.Duration(n + 1)
	}
	for _, c := range []struct {
		l    Latencies
		q    float64
		want time.Duration
	}{{nil, 0.5, 0}, {Latencies{7}, 0.99, 7}, {Latencies{3, 1}, 0.5, 1}, {hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1}} {
		if got := c.l.Quantile(c.q); got != c.want {
			t.Errorf("%v of %d: %d, want %d", c.q, len(c.l), got, c.want)
		}
	}
}

func TestParseReply(t *testing.T) {
	for _, c := range []struct {
		line string
		code int
		last bool
		text string
		ok   bool
	}{
		{"250 2.0.0 fine", 250, true, "2.0.0 fine", true},
		{"250-SIZE 10", 250, false, "SIZE 10", true},
		{"354", 354, true, "", true},
		{"25", 0, false, "", false}, {"2x0 no", 0, false, "", false}, {"250_no", 0, false, "", false}, {"", 0, false, "", false},
	} {
		code, last, text, ok := parseReply([]byte(c.line))
		if ok != c.ok || ok && (code != c.code || last != c.last || string(text) != c.text) {
			t.Errorf("%q: %d %v %q %v", c.line, code, last, text, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("250-x\r\n"))
	f.Add([]byte("12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if code, _, _, ok := parseReply(b); ok && (code < 0 || code > 999) {
			t.Errorf("code %d", code)
		}
		if s, err := parseStat(b); err == nil && (s.own < 0 || s.reaped < 0) {
			t.Errorf("%+v", s)
		}
	})
}

func TestParseStat(t *testing.T) {
	s, err := parseStat([]byte("42 (a ) (b) S 7 1 1 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 100"))
	if err != nil || s.parent != 7 || s.own != 2*time.Second || s.reaped != 500*time.Millisecond {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "42 (x", "42 (x) S 7 1", "42 (x) S 7 1 1 0 -1 4194560 1 2 3 4 x 50 30 20 20 0"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestTreeCPU: a grandchild that ended and was waited for counts.
func TestTreeCPU(t *testing.T) {
	cmd := exec.Command("sh", "-c", `(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done); echo done; read x`)
	in, err := cmd.StdinPipe()
	must(t, in, err)
	out, err := cmd.StdoutPipe()
	must(t, out, err)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := out.Read(b); err != nil {
		t.Fatal(err)
	}
	used, err := TreeCPU(cmd.Process.Pid)
	if err != nil || used < 20*time.Millisecond {
		t.Errorf("the tree used %s: %v", used, err)
	}
	mine, err := TreeCPU(os.Getpid())
	if err != nil || mine < used {
		t.Errorf("our tree used %s, which has one that used %s: %v", mine, used, err)
	}
	in.Close()
	_ = cmd.Wait() // read ends with an error
	if _, err := TreeCPU(cmd.Process.Pid); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a tree that is gone: %v", err)
	}
}

func addressees(n int) []Recipient {
	var to []Recipient
	for i := range n {
		to = append(to, Recipient{Address: fmt.Sprintf("u%d@x.test", i), Home: "b1", Epoch: uint64(i)})
	}
	return to
}

func target(s *lmtptest.Server, users int) Target {
	return Target{Network: "tcp", Addr: s.Addr(), From: "a@b.test", To: addressees(users), DeliveryIDs: true}
}

// TestLoad: what is sent, with each set of extensions.
func TestLoad(t *testing.T) {
	for _, ext := range [][]string{lmtptest.Full, {"PIPELINING"}, nil} {
		for _, bdat := range []bool{false, true} {
			if bdat && !slices.Contains(ext, "CHUNKING") {
				continue
			}
			s := lmtptest.New(t, lmtptest.Script{Ext: ext})
			began := 0
			l := Load{Target: target(s, 5), Connections: 3, Size: 2000, Recipients: 2, Warm: 10, Messages: 40, BDAT: bdat,
				Begin: func() error { began = len(s.Messages()); return nil }}
			res, err := l.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if res.Acknowledged != 100 || res.Measured != 80 || res.Errors != 0 || len(res.Latencies) != 40 || res.Elapsed <= 0 {
				t.Errorf("%v %v: %+v", ext, bdat, res)
			}
			msgs := s.Messages()
			if began != 10 || len(msgs) != 50 || s.Conns() != 3 {
				t.Errorf("%d messages before the measurement, %d in all, on %d connections", began, len(msgs), s.Conns())
			}
			ids, got := make(map[string]bool), make(map[string]int)
			for _, m := range msgs {
				ids[m.Params["XDELIVERY"]] = true
				if len(m.Body) != 2000 || m.From != "a@b.test" || len(m.Rcpts) != 2 || m.Chunked != bdat {
					t.Errorf("message of %d bytes: %+v", len(m.Body), m.Rcpts)
				}
				for _, r := range m.Rcpts {
					got[r.Addr]++
					if r.Params["XHOME"] != "b1" || "u"+r.Params["XEPOCH"]+"@x.test" != r.Addr {
						t.Errorf("recipient %+v", r)
					}
				}
			}
			if len(ids) != 50 || len(got) != 5 || got["u0@x.test"] != 20 {
				t.Errorf("%d ids, recipients %v", len(ids), got)
			}
		}
	}
}

func TestLoadOverSMTP(t *testing.T) {
	s := lmtptest.New(t, lmtptest.Script{Ext: []string{"PIPELINING"}, End: func(lmtptest.Message) []string { return []string{"250 2.0.0 for all"} }})
	to := target(s, 3)
	to.SMTP, to.DeliveryIDs = true, false
	l := Load{Target: to, Connections: 1, Size: 2000, Recipients: 3, Messages: 4}
	res, err := l.Run(t.Context())
	if err != nil || res.Acknowledged != 12 || res.Errors != 0 || !strings.HasPrefix(s.Commands()[0], "EHLO ") {
		t.Errorf("%+v, %v, %q", res, err, s.Commands()[0])
	}
}

// TestEveryAnswerIsChecked: one wrong answer, wherever it comes, is an error.
func TestEveryAnswerIsChecked(t *testing.T) {
	var n atomic.Int64
	third := func(good, bad string) string {
		if n.Add(1)%3 == 0 {
			return bad
		}
		return good
	}
	for name, script := range map[string]lmtptest.Script{
		"MAIL": {Mail: func(string, map[string]string) string { return third("250 ok", "421 4.3.2 bad day") }},
		"RCPT": {Rcpt: func(lmtptest.Rcpt) string { return third("250 ok", "452 4.2.2 over quota") }},
		"the message": {End: func(m lmtptest.Message) []string {
			return []string{third("250 ok", "451 4.3.0 not now")}
		}},
	} {
		for _, ext := range [][]string{{"PIPELINING"}, nil} {
			n.Store(0)
			script.Ext = ext
			s := lmtptest.New(t, script)
			l := Load{Target: target(s, 2), Connections: 1, Size: MinSize, Messages: 30}
			res, err := l.Run(t.Context())
			if err != nil || res.Errors != 10 || res.Acknowledged != 20 || len(res.Samples) != maxSamples || !strings.HasPrefix(res.Samples[0], name+" was answered") {
				t.Errorf("%s %v: %+v, %v", name, ext, res, err)
			}
		}
	}
}

func TestLoadGivesUp(t *testing.T) {
	s := lmtptest.New(t, lmtptest.Script{Ext: lmtptest.Full, Rcpt: func(lmtptest.Rcpt) string { return "550 5.1.1 unknown" }})
	l := Load{Target: target(s, 2), Connections: 4, Size: MinSize, Duration: time.Minute}
	if res, err := l.Run(t.Context()); !errors.Is(err, ErrTooMany) || res.Acknowledged != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	for _, bad := range []Load{{Connections: 1, Size: 4096}, {Connections: 0, Messages: 1, Size: 4096}, {Connections: 1, Messages: 1, Size: 4096, Recipients: 3}} {
		bad.Target = target(s, 2)
		if _, err := bad.Run(t.Context()); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// TestInterrupt: a server that says nothing does not hold up the end.
func TestInterrupt(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(c, "220 hello\r\n")
		buf := make([]byte, 1024)
		_, _ = c.Read(buf)
		fmt.Fprint(c, "250-me\r\n250 PIPELINING\r\n")
		_, _ = c.Read(buf) // the transaction
		cancel()
		_, _ = c.Read(buf)
	}()
	l := Load{Target: Target{Network: "tcp", Addr: ln.Addr().String(), To: addressees(1)}, Connections: 1, Size: MinSize, Duration: time.Hour}
	if _, err := l.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	<-done
}

func TestLimit(t *testing.T) {
	l := Limit{Dir: t.TempDir(), Users: 3, Writers: 4, Size: 4096, Messages: 50}
	res, err := l.Run(t.Context())
	if err != nil || res.Acknowledged != 50 || len(res.Latencies) != 50 {
		t.Fatalf("%+v, %v", res, err)
	}
	if n, err := CountMessages(filepath.Join(l.Dir, "mail")); n != 50 || err != nil {
		t.Errorf("%d files, %v", n, err)
	}
}
