package clustertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"waypost/director"
)

// clients is the state of TestRealClients.
type clients struct {
	*testCluster
	dir        string // for the programs' files
	sent       mailbags
	alice, bob director.User
	bulk       director.User
}

// TestRealClients drives one cluster with the programs that people use: swaks,
// smtp-source and curl send; curl, mbsync and fetchmail read. Between runs of
// the last two the user is moved, and they must not notice.
func TestRealClients(t *testing.T) {
	beside(t)
	need(t, "swaks", "smtp-source", "curl", "mbsync", "fetchmail")
	needPerlTLS(t)
	c := &clients{testCluster: newCluster(t), dir: t.TempDir(), sent: make(mailbags)}
	c.withUsers(0)
	c.alice = c.user(t, "alice@example.test", "b1")
	c.bob = c.user(t, "bob@example.test", "b2")
	c.bulk = c.user(t, "bulk@example.test", "b3")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"swaks", c.swaksIn}, {"swaks is refused", c.swaksRefused}, {"submission", c.submission},
		{"smtp-source", c.smtpSource}, {"curl sends", c.curlSends}, {"sent is there", c.allThere},
		{"fetchmail", c.fetchmail}, {"mbsync", c.mbsync}, {"curl reads", c.curlReads},
	} {
		if !t.Run(step.name, step.run) {
			return // what follows builds on it
		}
	}
}

// swaks sends text, and gives how it ended.
func (c *clients) swaks(t *testing.T, text, server string, args ...string) ran {
	t.Helper()
	// swaks sends an empty line more than the file has.
	file := put(t, c.dir, "swaks.eml", strings.TrimSuffix(text, "\r\n"), 0o600)
	return run(t, c.dir, "swaks", append([]string{"--server", server, "--from", "sender@example.org", "--helo", "client.example.org", "--data", "@" + file}, args...)...)
}

func (c *clients) swaksOK(t *testing.T, text, server string, args ...string) {
	t.Helper()
	if r := c.swaks(t, text, server, args...); r.code != 0 {
		t.Fatalf("swaks ended with %d; it said:\n%s", r.code, r.out)
	}
}

func (c *clients) swaksIn(t *testing.T) {
	text := letter("swaks plain")
	c.swaksOK(t, text, c.addr(2525), "--to", string(c.alice))
	c.sent.add(text, string(c.alice))

	text = letter("swaks starttls")
	c.swaksOK(t, text, hostPort("localhost", 2526+c.offset), "--tls", "--tls-verify", "--tls-ca-path", c.ca, "--to", string(c.alice))
	c.sent.add(text, string(c.alice))

	text = letter("swaks folder")
	c.swaksOK(t, text, c.addr(2525), "--to", "alice+Projects@example.test")
	c.sent.add(text, string(c.alice)+"/Projects")

	text = letter("swaks two homes")
	c.swaksOK(t, text, c.addr(2526), "--to", string(c.alice)+","+string(c.bob))
	c.sent.add(text, string(c.alice), string(c.bob))
}

// refused checks that no recipient was taken, and with which reply.
func refused(t *testing.T, what string, r ran, reply string) {
	t.Helper()
	if r.code == 0 || !strings.Contains(r.out, reply) {
		t.Errorf("%s: swaks ended with %d, want a refusal with %q; it said:\n%s", what, r.code, reply, r.out)
	}
}

func (c *clients) swaksRefused(t *testing.T) {
	text := letter("never")
	refused(t, "unknown user", c.swaks(t, text, c.addr(2525), "--to", "nobody@example.test"), "550 5.1.1")
	refused(t, "relay", c.swaks(t, text, c.addr(2525), "--to", "someone@example.net"), "550 5.7.1")
	refused(t, "relay from one of ours", c.swaks(t, text, c.addr(2525), "--from", string(c.alice), "--to", "someone@example.net"), "550 5.7.1")
	refused(t, "unknown domain below ours", c.swaks(t, text, c.addr(2525), "--to", "alice@sub.example.test"), "550 5.7.1")

	// One that is refused takes nothing from the one beside it.
	text = letter("swaks one of two")
	r := c.swaks(t, text, c.addr(2525), "--to", "nobody@example.test,"+string(c.bob))
	if r.code != 0 || !strings.Contains(r.out, "550 5.1.1") {
		t.Errorf("one of two unknown: swaks ended with %d; it said:\n%s", r.code, r.out)
	}
	c.sent.add(text, string(c.bob))
}

func (c *clients) submission(t *testing.T) {
	server := hostPort("localhost", 1587+c.offset)
	login := []string{"--tls", "--tls-verify", "--tls-ca-path", c.ca, "--auth-user", string(c.alice), "--from", string(c.alice), "--to", string(c.bob)}
	for _, mech := range []string{"PLAIN", "LOGIN"} {
		text := letter("submission " + mech)
		c.swaksOK(t, text, server, append(login, "--auth", mech, "--auth-password", password)...)
		c.sent.add(text, string(c.bob))
	}
	text := letter("never")
	refused(t, "wrong password", c.swaks(t, text, server, append(login, "--auth", "PLAIN", "--auth-password", "wrong")...), "535 5.7.8")
	refused(t, "no login", c.swaks(t, text, server, "--tls", "--from", string(c.alice), "--to", string(c.bob)), "530 5.7.0")
	refused(t, "no TLS", c.swaks(t, text, server, "--from", string(c.alice), "--to", string(c.bob)), "530 5.7.0")
	r := c.swaks(t, text, server, "--auth", "PLAIN", "--auth-user", string(c.alice), "--auth-password", password, "--to", string(c.bob))
	if r.code == 0 || strings.Contains(r.out, "250-AUTH") || strings.Contains(r.out, "250 AUTH") {
		t.Errorf("AUTH without TLS: swaks ended with %d; it said:\n%s", r.code, r.out)
	}
	refused(t, "no AUTH on the port for mail from anywhere", c.swaks(t, text, c.addr(2525), append(login, "--auth", "PLAIN", "--auth-password", password)...), "")
}

func (c *clients) smtpSource(t *testing.T) {
	// The program puts CRLF after each line itself, and one more at the end.
	text := letter("smtp-source")
	file := put(t, c.dir, "source.eml", lineEnds.Replace(text), 0o600)
	text += "\r\n"
	must(t, c.dir, "smtp-source", "-c", "-s", "5", "-m", "100", "-F", file, "-f", "load@example.org", "-t", string(c.bulk), c.addr(2525))
	for range 100 {
		c.sent.add(text, string(c.bulk))
	}
	// And with many messages on each connection.
	must(t, c.dir, "smtp-source", "-d", "-s", "5", "-m", "100", "-F", file, "-f", "load@example.org", "-t", string(c.bulk), c.addr(2526))
	for range 100 {
		c.sent.add(text, string(c.bulk))
	}
}

func (c *clients) curlSends(t *testing.T) {
	text := letter("curl plain")
	file := put(t, c.dir, "curl.eml", text, 0o600)
	must(t, c.dir, "curl", "-sS", "smtp://"+c.addr(2525)+"/client.example.org", "--mail-from", "sender@example.org", "--mail-rcpt", string(c.alice), "-T", file)
	c.sent.add(text, string(c.alice))

	text = letter("curl submission")
	file = put(t, c.dir, "curl.eml", text, 0o600)
	must(t, c.dir, "curl", "-sS", "--ssl-reqd", "--cacert", c.ca, "-u", string(c.bob)+":"+password,
		fmt.Sprintf("smtp://localhost:%d/client.example.org", 1587+c.offset), "--mail-from", string(c.bob), "--mail-rcpt", string(c.alice), "--mail-rcpt", string(c.bob), "-T", file)
	c.sent.add(text, string(c.alice), string(c.bob))

	text = letter("curl append")
	file = put(t, c.dir, "curl.eml", text, 0o600)
	must(t, c.dir, "curl", "-sS", "-u", string(c.alice)+":"+password, "imap://"+c.addr(1143)+"/Projects", "-T", file)
	c.sent.add(text, string(c.alice)+"/Projects")
}

// allThere reads everything with our own client: what the others see is
// compared with the same.
func (c *clients) allThere(t *testing.T) {
	for box := range c.sent {
		user, folder, has := strings.Cut(box, "/")
		if !has {
			folder = "INBOX"
		}
		c.sent.same(t, "our client", box, c.bodies(t, director.User(user), folder))
	}
}

// curlReads reads everything by IMAP and POP3, with and without TLS.
func (c *clients) curlReads(t *testing.T) {
	secure := []string{"--cacert", c.ca}
	for _, v := range []struct {
		name, url string
		args      []string
	}{
		{"IMAP", fmt.Sprintf("imap://127.0.0.1:%d/", 1143+c.offset), nil},
		{"IMAP with STARTTLS", fmt.Sprintf("imap://localhost:%d/", 1144+c.offset), append(secure, "--ssl-reqd")},
		{"IMAPS", fmt.Sprintf("imaps://localhost:%d/", 1993+c.offset), secure},
		{"POP3", fmt.Sprintf("pop3://127.0.0.1:%d/", 1110+c.offset), nil},
		{"POP3 with STLS", fmt.Sprintf("pop3://localhost:%d/", 1111+c.offset), append(secure, "--ssl-reqd")},
		{"POP3S", fmt.Sprintf("pop3s://127.0.0.1:%d/", 1995+c.offset), secure},
	} {
		t.Run(v.name, func(t *testing.T) {
			c.sent.same(t, "curl", string(c.alice), c.curlAll(t, v.url, "INBOX", c.alice, len(c.sent[string(c.alice)]), v.args))
			if strings.HasPrefix(v.url, "imap") {
				box := string(c.alice) + "/Projects"
				c.sent.same(t, "curl", box, c.curlAll(t, v.url, "Projects", c.alice, len(c.sent[box]), v.args))
			}
			r := run(t, c.dir, "curl", append([]string{"-sS", "-u", string(c.bob) + ":wrong", v.url}, v.args...)...)
			if r.code != 67 { // CURLE_LOGIN_DENIED
				t.Errorf("wrong password: curl ended with %d: %s", r.code, r.out)
			}
		})
	}
	r := run(t, c.dir, "curl", "-sS", "-u", string(c.bob)+":"+password, fmt.Sprintf("imaps://localhost:%d/", 1993+c.offset))
	if r.code != 60 { // CURLE_PEER_FAILED_VERIFICATION
		t.Errorf("IMAPS without trust in the CA: curl ended with %d: %s", r.code, r.out)
	}
}

// curlAll fetches messages 1 to n, one file each.
func (c *clients) curlAll(t *testing.T, url, folder string, u director.User, n int, args []string) [][]byte {
	t.Helper()
	dir, err := os.MkdirTemp(c.dir, "curl")
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-sS", "-u", string(u) + ":" + password}, args...)
	each, list := url, url
	if strings.HasPrefix(url, "imap") {
		each, list = url+folder+";MAILINDEX=", url+folder+"?ALL"
	}
	must(t, c.dir, "curl", append(args, "-o", filepath.Join(dir, "#1"), fmt.Sprintf("%s[1-%d]", each, n))...)
	if out := must(t, c.dir, "curl", append(args, list)...); !countIs(url, out, n) {
		t.Errorf("curl counts otherwise than %d messages: %.500q", n, out)
	}
	return filesIn(t, dir)
}

// countIs reads the answer to LIST or SEARCH ALL.
func countIs(url, list string, n int) bool {
	if strings.HasPrefix(url, "pop3") {
		return strings.Count(list, "\n") == n
	}
	words := strings.Fields(strings.TrimPrefix(list, "* SEARCH"))
	return strings.HasPrefix(list, "* SEARCH") && len(words) == n
}
