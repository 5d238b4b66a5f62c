package clustertest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

const (
	bigBytes = 700 << 20
	// mayGrow is how much more memory a process may take while 700 MB go through.
	mayGrow = 64 << 20
	bigTime = 20 * time.Minute
)

// bigBody gives the message's bytes, the same each time, with CRLF line ends.
func bigBody() io.Reader {
	line := bytes.Repeat([]byte("0123456789abcdef"), 4)
	line = append(line[:62], '\r', '\n')
	block := bytes.Repeat(line, 1024)
	head := "Subject: big\r\nFrom: big@example.org\r\n\r\n"
	return io.MultiReader(strings.NewReader(head), io.LimitReader(&repeat{block: block}, bigBytes))
}

type repeat struct {
	block []byte
	at    int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

// TestBigMessage: 700 MB go in by SMTP and come out by IMAP and POP3, and no
// process grows by more than 64 MB.
func TestBigMessage(t *testing.T) {
	beside(t)
	c := newCluster(t)
	u := c.withUsers(1)[0]
	if err := send(c.addr(2525), "a@example.org", []string{string(u)}, []byte("Subject: warm\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := readIMAP(c.addr(1143), u, "INBOX", true); err != nil {
		t.Fatal(err)
	}
	before := c.memory(t)
	h := sha256.New()
	if _, err := io.Copy(h, bigBody()); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x", h.Sum(nil))
	start := time.Now()
	if err := c.sendBig(string(u)); err != nil {
		t.Fatal(err)
	}
	t.Logf("in by SMTP: %s", time.Since(start).Round(time.Second))
	start = time.Now()
	if got, err := c.fetchBig(string(u)); err != nil || got != want {
		t.Errorf("by IMAP: digest %s (%v), want %s", got, err, want)
	}
	t.Logf("out by IMAP: %s", time.Since(start).Round(time.Second))
	start = time.Now()
	if got, err := c.retrBig(string(u)); err != nil || got != want {
		t.Errorf("by POP3: digest %s (%v), want %s", got, err, want)
	}
	t.Logf("out by POP3: %s", time.Since(start).Round(time.Second))
	for name, peak := range c.memory(t) {
		t.Logf("%-4s peak %4d MB, was %4d MB", name, peak>>20, before[name]>>20)
		// No message passes through etcd: its growth is its history of
		// leases and statuses, which goes by time (and -race multiplies it).
		if peak-before[name] > mayGrow && name != "e1" {
			t.Errorf("%s grew by %d MB", name, (peak-before[name])>>20)
		}
	}
}

// memory gives each process's highest resident size so far, in bytes.
func (c *testCluster) memory(t *testing.T) map[string]int64 {
	t.Helper()
	hwm := regexp.MustCompile(`VmHWM:\s+(\d+) kB`)
	out := make(map[string]int64)
	for name, p := range c.procs {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		kb, err := strconv.ParseInt(string(hwm.FindSubmatch(b)[1]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = kb << 10
	}
	return out
}

func (c *testCluster) sendBig(to string) error {
	conn, err := net.Dial("tcp", c.addr(2526))
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(bigTime))
	r := bufio.NewReader(conn)
	expect := func(code, line string) error {
		if line != "" {
			if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
				return err
			}
		}
		for {
			got, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			if !strings.HasPrefix(got, code) {
				return fmt.Errorf("%q after %q", got, line)
			}
			if len(got) > 3 && got[3] == ' ' {
				return nil
			}
		}
	}
	if err := errors.Join(expect("220", ""), expect("250", "EHLO big.example.org"), expect("250", "MAIL FROM:<big@example.org>"),
		expect("250", "RCPT TO:<"+to+">"), expect("354", "DATA")); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{conn}, bigBody(), make([]byte, 1<<20)); err != nil {
		return err
	}
	return expect("250", ".")
}

// headless hashes a message without the header fields the cluster put in
// front: it skips to the first line that we sent.
type headless struct {
	h    io.Writer
	head []byte
	past bool
}

func (w *headless) Write(p []byte) (int, error) {
	n := len(p)
	if !w.past {
		w.head = append(w.head, p...)
		i := bytes.Index(w.head, []byte("Subject: big\r\n"))
		if i < 0 {
			if len(w.head) > 64<<10 {
				return 0, errors.New("no subject in the header")
			}
			return n, nil
		}
		p, w.past = w.head[i:], true
	}
	_, err := w.h.Write(p)
	return n, err
}

func (c *testCluster) fetchBig(user string) (string, error) {
	cl, err := dialIMAPFor(c.addr(1143), user, bigTime)
	if err != nil {
		return "", err
	}
	defer cl.Close()
	if _, err := cl.Select("INBOX", nil).Wait(); err != nil {
		return "", err
	}
	cmd := cl.Fetch(imap.SeqSetNum(2), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{{Peek: true}}})
	msg := cmd.Next()
	if msg == nil {
		return "", errors.Join(errors.New("no second message"), cmd.Close())
	}
	h := sha256.New()
	for item := msg.Next(); item != nil; item = msg.Next() {
		if body, ok := bodySection(item); ok {
			if _, err := io.Copy(&headless{h: h}, body); err != nil {
				return "", err
			}
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)), cmd.Close()
}

func (c *testCluster) retrBig(user string) (string, error) {
	p, err := dialPOP3For(c.addr(1110), user, bigTime)
	if err != nil {
		return "", err
	}
	defer p.quit()
	if _, err := p.cmd("RETR 2"); err != nil {
		return "", err
	}
	h := sha256.New()
	w := &headless{h: h}
	for {
		l, err := p.t.R.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		if bytes.Equal(l, []byte(".\r\n")) {
			return fmt.Sprintf("%x", h.Sum(nil)), nil
		}
		if l[0] == '.' {
			l = l[1:]
		}
		if _, err := w.Write(l); err != nil {
			return "", err
		}
	}
}
