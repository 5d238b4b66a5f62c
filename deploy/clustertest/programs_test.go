package clustertest

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"waypost/director"
)

// Names that a client has to encode one way or another.
const (
	umlauts = "Grüße & Søren"
	nested  = "Projects/Ärger/日本語"
)

// TestMailPrograms gives each of the programs with which people read mail a
// mailbox of its own, lets it work in both directions, moves the user between two
// runs, and compares what the program has with what the server shows.
func TestMailPrograms(t *testing.T) {
	beside(t)
	c := &clients{testCluster: newCluster(t), dir: t.TempDir(), sent: make(mailbags)}
	c.withUsers(0)
	for _, p := range []struct {
		name, needs string
		run         func(*testing.T, *far)
	}{
		{"capabilities", "", c.capabilityLists},
		{"mbsync", "mbsync", func(t *testing.T, f *far) { c.twoWay(t, f, c.newMbsyncTree(t, f.u)) }},
		{"offlineimap", "offlineimap", func(t *testing.T, f *far) { c.twoWay(t, f, c.newOfflineimap(t, f.u)) }},
		{"fetchmail", "fetchmail", func(t *testing.T, f *far) { c.takes(t, f, c.fetchmailTaker(t, f.u)) }},
		{"getmail-pop3", "getmail", func(t *testing.T, f *far) { c.takes(t, f, c.getmailTaker(t, f.u, "SimplePOP3SSLRetriever", 1995)) }},
		{"getmail-imap", "getmail", func(t *testing.T, f *far) { c.takes(t, f, c.getmailTaker(t, f.u, "SimpleIMAPSSLRetriever", 1993)) }},
		{"mpop", "mpop", func(t *testing.T, f *far) { c.takes(t, f, c.mpopTaker(t, f.u)) }},
		{"mutt", "mutt", c.mutt}, {"curl", "curl", c.curlWorks},
		{"imaplib", "/usr/bin/python3", c.imaplib}, {"imapflow", "node npm", c.imapflow},
	} {
		t.Run(p.name, func(t *testing.T) {
			need(t, strings.Fields(p.needs)...)
			p.run(t, c.far(t, p.name+"@example.test"))
		})
	}
}

// far is a mailbox as the server has it, through a client of our own.
type far struct {
	t  *testing.T
	c  *clients
	u  director.User
	cl *imapclient.Client
}

func (c *clients) far(t *testing.T, name string) *far {
	t.Helper()
	f := &far{t: t, c: c, u: c.user(t, name, "b1")}
	f.dial()
	t.Cleanup(func() { f.cl.Close() })
	return f
}

func (f *far) dial() {
	f.t.Helper()
	var err error
	if f.cl, err = dialIMAP(f.c.addr(1144), f.u); err != nil {
		f.t.Fatal(err)
	}
}

// move moves the user to another backend, which ends the session, and logs in again.
func (f *far) move() {
	f.t.Helper()
	f.cl.Close()
	f.c.moved(f.t, f.u)
	f.dial()
}

func (f *far) check(what string, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatalf("%s: %v", what, err)
	}
}

func (f *far) append(folder, text string, flags ...imap.Flag) {
	f.t.Helper()
	w := f.cl.Append(folder, int64(len(text)), &imap.AppendOptions{Flags: flags})
	_, err := w.Write([]byte(text))
	f.check("append", err)
	f.check("append", w.Close())
	_, err = w.Wait()
	f.check("append to "+folder, err)
}

func (f *far) create(folder string) { f.t.Helper(); f.check(folder, f.cl.Create(folder, nil).Wait()) }

func (f *far) rename(from, to string) {
	f.t.Helper()
	f.check(from, f.cl.Rename(from, to, nil).Wait())
}

// find selects the folder and gives the only message of that subject.
func (f *far) find(folder, subject string) imap.UIDSet {
	f.t.Helper()
	_, err := f.cl.Select(folder, nil).Wait()
	f.check("select "+folder, err)
	found, err := f.cl.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: subject}}}, nil).Wait()
	f.check("search", err)
	if uids := found.AllUIDs(); len(uids) == 1 {
		return imap.UIDSetNum(uids[0])
	}
	f.t.Fatalf("%s has %d messages %q, want one", folder, len(found.AllUIDs()), subject)
	return nil
}

func (f *far) flag(folder, subject string, op imap.StoreFlagsOp, flags ...imap.Flag) {
	f.t.Helper()
	f.check("store", f.cl.Store(f.find(folder, subject), &imap.StoreFlags{Op: op, Silent: true, Flags: flags}, nil).Close())
}

func (f *far) remove(folder, subject string) {
	f.t.Helper()
	f.flag(folder, subject, imap.StoreFlagsAdd, imap.FlagDeleted)
	f.check("expunge", f.cl.UIDExpunge(f.find(folder, subject)).Close())
}

// folders reads the whole mailbox.
func (f *far) folders() map[string]seen {
	f.t.Helper()
	f.check("noop", f.cl.Noop().Wait())
	list, err := f.cl.List("", "*", nil).Collect()
	f.check("list", err)
	out := make(map[string]seen)
	for _, l := range list {
		if slices.ContainsFunc(l.Attrs, func(a imap.MailboxAttr) bool {
			return a == imap.MailboxAttrNoSelect || a == imap.MailboxAttrNonExistent
		}) {
			continue
		}
		s, err := readFolder(f.cl, l.Mailbox, true)
		f.check(l.Mailbox, err)
		out[l.Mailbox] = s
	}
	f.check("unselect", f.cl.Unselect().Wait())
	return out
}

// holdings are messages by folder: each is its flags, sorted, and its text.
type holdings map[string][]string

func holding(flags []string, text string) string {
	slices.Sort(flags)
	return strings.Join(flags, " ") + "\n" + text
}

func (h holdings) add(folder, text string, flags ...string) {
	h[folder] = append(h[folder], holding(flags, lineEnds.Replace(text)))
}

// removes takes out the message of that subject, and gives its text.
func (h holdings) removes(t *testing.T, folder, subject string) string {
	t.Helper()
	i := slices.IndexFunc(h[folder], func(m string) bool { return strings.Contains(m, "\nSubject: "+subject+"\n") })
	if i < 0 {
		t.Fatalf("%s has no %q", folder, subject)
	}
	_, text, _ := strings.Cut(h[folder][i], "\n")
	h[folder] = slices.Delete(h[folder], i, i+1)
	return text
}

// flags sets a message's.
func (h holdings) flags(t *testing.T, folder, subject string, flags ...string) {
	t.Helper()
	h.add(folder, h.removes(t, folder, subject), flags...)
}

func (f *far) holdings() holdings {
	f.t.Helper()
	out := make(holdings)
	for name, s := range f.folders() {
		out[name] = nil
		for _, m := range s.msgs {
			out[name] = append(out[name], holding(strings.Fields(m.flags), canon(m.body)))
		}
	}
	return out
}

// equal compares message by message; how is for the complaint.
func equal(t *testing.T, how string, got, want holdings) {
	t.Helper()
	a, b := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))
	if !slices.Equal(a, b) {
		t.Errorf("%s: folders %q, want %q", how, a, b)
	}
	for _, name := range b {
		g, w := slices.Sorted(slices.Values(got[name])), slices.Sorted(slices.Values(want[name]))
		if len(g) != len(w) {
			t.Errorf("%s: %s has %d messages, want %d", how, name, len(g), len(w))
		}
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Errorf("%s: %s: a message differs:\ngot  %.400q\nwant %.400q", how, name, g[i], w[i])
				break
			}
		}
	}
}

// capabilityLists: what a proxy says before the login holds behind it too, and the
// login's answer has the backend's list, which is the one that CAPABILITY gives.
func (c *clients) capabilityLists(t *testing.T, f *far) {
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(c.ca)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no CA", err)
	}
	secure := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	for _, v := range []struct {
		name string
		port int
		tls  bool
	}{{"plain", 1143, false}, {"STARTTLS", 1144, false}, {"TLS", 1993, true}} {
		conn, err := net.DialTimeout("tcp", c.addr(v.port), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if v.tls {
			conn = tls.Client(conn, secure)
		}
		k := &talk{t: t, w: conn, r: bufio.NewReader(conn)}
		greeting := capsOf(k.line())
		if got := capsOf(strings.Join(k.ok("CAPABILITY"), "\n")); !slices.Equal(got, greeting) || len(got) == 0 {
			t.Errorf("%s: CAPABILITY %q, greeting %q", v.name, got, greeting)
		}
		if v.name == "STARTTLS" {
			k.ok("STARTTLS")
			conn = tls.Client(conn, secure)
			k.w, k.r = conn, bufio.NewReader(conn)
			greeting = capsOf(strings.Join(k.ok("CAPABILITY"), "\n"))
		}
		// Told in the answer itself: a client need not ask (RFC 9051, Section 6.2.3).
		fmt.Fprintf(k.w, "x LOGIN %s %s\r\n", f.u, password)
		answer := k.line()
		told := capsOf(answer)
		asked := capsOf(strings.Join(k.ok("CAPABILITY"), "\n"))
		if !strings.HasPrefix(answer, "x OK [CAPABILITY ") || !slices.Equal(told, asked) {
			t.Errorf("%s: the login tells %q, CAPABILITY %q", v.name, told, asked)
		}
		for _, cap := range greeting {
			of := strings.HasPrefix(cap, "AUTH=") || cap == "STARTTLS" || cap == "LOGINDISABLED"
			if cap == "LITERAL-" { // LITERAL+ has it in it (RFC 7888, Section 5)
				cap = "LITERAL+"
			}
			if has := slices.Contains(told, cap); has == of {
				t.Errorf("%s: %s before the login; behind it: %v", v.name, cap, has)
			}
		}
		k.ok("LOGOUT")
	}
}

// capsOf gives the capabilities of a line, sorted.
func capsOf(text string) []string {
	_, text, _ = strings.Cut(text, "CAPABILITY ")
	text, _, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, "]")
	return slices.Sorted(strings.FieldsSeq(text))
}
