package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakePOP3 is a POP3 server with two messages, and with the extended listing or
// without.
func fakePOP3(t *testing.T, extended bool) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	caps := "UIDL\r\nTOP\r\n"
	if extended {
		caps += "X-WAYPOST-LISTING 1\r\n"
	}
	answers := map[string]string{
		"CAPA": "+OK\r\n" + caps + ".\r\n", "USER ann": "+OK\r\n", "PASS secret": "+OK\r\n", "QUIT": "+OK\r\n",
		"LIST": "+OK\r\n1 100\r\n2 2000\r\n.\r\n", "UIDL": "+OK\r\n1 a\r\n2 b\r\n.\r\n",
		"TOP 1 0": "+OK\r\nFrom: Bob <bob@example.org>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe=1B[2J?=\r\n\r\n.\r\n",
		"TOP 2 0": "+OK\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n.\r\n",
		"XLST":    "+OK\r\n1\t100\ta\t\\Seen\t2026-11-22T09:00:00Z\tBob <bob@example.org>\tGrüße%1B[2J\t0\r\n2\t2000\tb\t\t\t\t\t1\r\n.\r\n",
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				fmt.Fprint(c, "+OK\r\n")
				for lines := bufio.NewScanner(c); lines.Scan(); {
					answer, ok := answers[lines.Text()]
					if !ok {
						answer = "-ERR [AUTH] no\r\n"
					}
					fmt.Fprint(c, answer)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); served.Wait() })
	return ln.Addr().String()
}

func TestMailboxList(t *testing.T) {
	for _, extended := range []bool{true, false} {
		addr, cache := fakePOP3(t, extended), filepath.Join(t.TempDir(), "c")
		run := func(password string, args ...string) result {
			a, stdout, stderr := newTest(password + "\n")
			code := a.main(t.Context(), append([]string{"mailbox", "list", "--pop3", addr, "--insecure-plain", "--user", "ann"}, args...))
			return result{code, stdout.String(), stderr.String()}
		}
		r := run("secret", "--cache", cache)
		lines := strings.Split(r.stdout, "\n")
		if r.code != exitDone || r.stderr != "" || len(lines) != 4 || !strings.Contains(lines[1], "Bob <bob@example.org>  Grüße [2J") {
			t.Errorf("extended %v: %+v", extended, r)
		}
		for _, want := range map[bool][]string{true: {`\Seen`, " yes "}, false: {" yes? "}}[extended] {
			if !strings.Contains(r.stdout, want) {
				t.Errorf("extended %v: no %q in %s", extended, want, r.stdout)
			}
		}
		kept, err := os.ReadDir(cache)
		if (err == nil && len(kept) == 1) == extended {
			t.Errorf("extended %v: cache has %v, %v", extended, kept, err)
		}
		r = run("secret", "--no-cache", "--json")
		var list []map[string]any
		if err := json.Unmarshal([]byte(r.stdout), &list); err != nil || len(list) != 2 {
			t.Fatalf("%v, %+v", err, r)
		}
		for _, name := range strings.Fields("number size_bytes uidl flags from subject attachment flags_known attachment_guessed") {
			if _, ok := list[1][name]; !ok {
				t.Errorf("no %s in %v", name, list[1])
			}
		}
		if list[0]["flags_known"] != extended || list[1]["attachment_guessed"] == extended {
			t.Errorf("extended %v: %v", extended, list)
		}
		if r = run("wrong"); r.code != exitFailed || !strings.Contains(r.stderr, "login refused") || strings.Contains(r.stderr, "wrong") || r.stdout != "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestMailboxListWrongUsage(t *testing.T) {
	for _, line := range []string{
		"mailbox", "mailbox list", "mailbox list --pop3 host --user ann", "mailbox list --pop3 h:1", "mailbox list --pop3 h:1 --user ann x",
		"mailbox list --pop3 h:1 --user ann --tls --starttls", "mailbox list --pop3 h:1 --user ann --insecure-plain --ca x",
		"mailbox list --pop3 h:1 --user ann --cache x --no-cache", "mailbox list --pop3 h:1 --user ann --timeout 0s",
	} {
		a, stdout, stderr := newTest("secret\n")
		if code := a.main(t.Context(), strings.Fields(line)); code != exitUsage || stdout.String() != "" || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s: exit code %d, %s%s", line, code, stdout, stderr)
		}
	}
}
