package access

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waypost/internal/bench"
)

// What SEARCH is to find is in those messages that are counted, and in no others.
func TestCorpus(t *testing.T) {
	const n = 400
	var size int
	subject, from, body := 0, 0, 0
	for i := range n {
		text := message(i)
		size += len(text)
		if bytes.Contains(text, []byte("\r")) || !bytes.Equal(bytes.ReplaceAll(appended(i), []byte("\r\n"), []byte("\n")), text) {
			t.Errorf("message %d: its line ends", i)
		}
		m, err := mail.ReadMessage(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		head, rest, _ := bytes.Cut(text, []byte("\n\n"))
		subject += strings.Count(m.Header.Get("Subject"), subjectWord)
		who, err := m.Header.AddressList("From")
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		from += strings.Count(who[0].Name, fromWord)
		body += bytes.Count(rest, []byte(bodyWord))
		if bytes.Contains(head, []byte(bodyWord)) {
			t.Errorf("message %d has the body's word in its header", i)
		}
	}
	if mean := size / n; mean < 2500 || mean > 6000 {
		t.Errorf("messages have %d bytes in the mean", mean)
	}
	for _, c := range [][2]int{{subject, hits(0, n, subjectEvery)}, {from, hits(0, n, fromEvery)}, {body, hits(0, n, bodyEvery)}} {
		if c[0] != c[1] || c[0] == 0 {
			t.Errorf("found %d, said to be %d", c[0], c[1])
		}
	}
}

func TestMaildir(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	if err := makeMaildir(t.Context(), from, 30); err != nil {
		t.Fatal(err)
	}
	if err := linkMaildir(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	if n, err := bench.CountMessages(to); n != 30 || err != nil {
		t.Errorf("%d messages, %v", n, err)
	}
	names, err := filepath.Glob(filepath.Join(to, "cur", "*"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(names[7])
	if err != nil || !st.ModTime().Equal(sentAt(7)) {
		t.Errorf("the time of %s: %v, %v", names[7], st, err)
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("7 ", 100000)
	in := "* OK hello\r\n* 1 FETCH (BODY {5}\r\n* NO\n FLAGS ())\r\n* SEARCH " + long + "\r\nb1 OK done\r\n"
	l := lineReader{r: bufio.NewReader(strings.NewReader(in))}
	for i, want := range []string{"* OK hello", "* 1 FETCH (BODY {5} FLAGS ())", "* SEARCH " + strings.TrimRight(long, " "), "b1 OK done"} {
		line, err := l.next()
		if err != nil || strings.TrimRight(string(line), " ") != want {
			t.Errorf("line %d: %.60q, %v", i, line, err)
		}
	}
	if _, err := l.next(); err == nil {
		t.Error("a line behind the end")
	}
}

// serve plays a server that greets and answers each line with what is said, in which TAG
// stands for the tag.
func serve(t *testing.T, greeting string, answers ...string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() { // ends with the listener, and with its client
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		r := bufio.NewReader(nc)
		nc.Write([]byte(greeting))
		for _, a := range answers {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			tag, _, _ := strings.Cut(line, " ")
			nc.Write([]byte(strings.ReplaceAll(a, "TAG", tag)))
		}
		r.ReadString('\n') // until it hangs up
	}()
	return ln.Addr().String()
}

func TestIMAPAnswers(t *testing.T) {
	addr := serve(t, "* OK hello\r\n", "* CAPABILITY IMAP4rev1\r\nTAG OK in\r\n",
		"* 3 EXISTS\r\n* OK [HIGHESTMODSEQ 77] x\r\n* 1 FETCH (FLAGS ())\r\n* 2 FETCH (X {3}\r\nabc)\r\n* 1 EXPUNGE\r\n* SEARCH 4 5 6 (MODSEQ 9)\r\nTAG OK done\r\n",
		"TAG NO not so\r\n", "* 4 EXISTS\r\nTAG OK done\r\n")
	c, err := loginIMAP(t.Context(), addr, "u", "p")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	a, err := c.do("NOOP")
	if err != nil || a != (answer{fetched: 2, expunged: 1, found: 3, exists: 3, modSeq: 77, text: "OK done"}) {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := c.do("NOOP"); !errors.Is(err, ErrAnswer) {
		t.Errorf("a NO: %v", err)
	}
	if _, err := c.selectInbox(5); !errors.Is(err, ErrAnswer) {
		t.Errorf("too few messages: %v", err)
	}
	if _, err := openIMAP(t.Context(), serve(t, "* BYE no\r\n")); !errors.Is(err, ErrAnswer) {
		t.Errorf("a BYE: %v", err)
	}
}

func TestPOPAnswers(t *testing.T) {
	addr := serve(t, "+OK hello\r\n", "+OK\r\n", "+OK in\r\n", "+OK 2 100\r\n", "+OK\r\n1 50\r\n2 50\r\n.\r\n", "+OK 3 100\r\n", "-ERR no\r\n")
	c, err := loginPOP(t.Context(), addr, "u", "p")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := errors.Join(c.stat(2), c.listing("LIST", 2)); err != nil {
		t.Error(err)
	}
	if err := c.stat(2); !errors.Is(err, ErrAnswer) {
		t.Errorf("wrong STAT: %v", err)
	}
	if err := c.listing("UIDL", 2); !errors.Is(err, ErrAnswer) {
		t.Errorf("an -ERR: %v", err)
	}
}

// What hangs ends with the context.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, err := openIMAP(ctx, serve(t, "* OK hello\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	done := make(chan error, 1)
	go func() {
		_, err := c.do("NOOP")
		done <- err
	}()
	cancel()
	if err := <-done; err == nil {
		t.Error("an answer from nowhere")
	}
}

func TestReport(t *testing.T) {
	r := Report{Rows: []Row{
		{Peer: "waypost", Messages: 10, State: Warm, Operation: "SELECT", WallMS: 2, CPUMS: 1},
		{Peer: "waypost", Messages: 10, State: Cold, Operation: "SELECT", WallMS: 4, CPUMS: 4},
		{Peer: "dovecot", Messages: 10, State: Warm, Operation: "SELECT", WallMS: 6, CPUMS: 0.5},
		{Peer: "dovecot", Messages: 20, State: Warm, Operation: "SELECT", WallMS: 6, CPUMS: 0.5},
	}, Idle: []IdleRow{{Peer: "waypost", Part: "backend", Sessions: 3, ResidentKiB: 20, LiveKiB: 12}}}
	r.compare()
	if d := r.Rows[1]; d.Peer != "dovecot" || d.WallRatio != 3 || d.CPURatio != 0.5 {
		t.Errorf("%+v", d)
	}
	if r.Rows[3].WallRatio != 0 {
		t.Errorf("compared with nothing: %+v", r.Rows[3])
	}
	var text, md strings.Builder
	if err := errors.Join(r.Table(&text), r.Markdown(&md)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "3.00") || !strings.Contains(md.String(), "| backend | 3 | 20.0 | 12.0 | – |") {
		t.Errorf("%s\n%s", &text, &md)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	good := Suite{Dir: t.TempDir(), Sizes: []int{20}, Batch: 10, Singles: 10, Rounds: 1}
	if err := errors.Join(good.Check(), good.room()); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]func(*Suite){
		"size":     func(s *Suite) { s.Sizes = []int{19} },
		"singles":  func(s *Suite) { s.Singles = 11 },
		"batch":    func(s *Suite) { s.Batch = 0 },
		"rounds":   func(s *Suite) { s.Rounds = 0 },
		"sessions": func(s *Suite) { s.Sessions = -1 },
		"only":     func(s *Suite) { s.Only = []string{"copy", "warm:copy"} },
	} {
		s := good
		bad(&s)
		if err := s.Check(); !errors.Is(err, ErrSuite) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good.Sizes = []int{1 << 40}
	if err := good.room(); err == nil {
		t.Error("there is no such disk")
	}
}

func TestOnly(t *testing.T) {
	s := Suite{Dir: t.TempDir(), Sizes: []int{20}, Batch: 10, Singles: 10, Rounds: 1}
	if !s.wants(Warm, keyCopy) || !(&visit{suite: &s}).wantsAny(Cold, readKeys()...) {
		t.Error("without a choice all rows are wanted")
	}
	s.Only = []string{"expunge", "new:fetch-envelope", "cold:select", "pop3-retr"}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	for key, want := range map[string][3]bool{"expunge": {true, true, true}, "copy": {}, "fetch-envelope": {true, false, false}, "select": {false, false, true}, "pop3-retr": {true, true, true}} {
		for i, state := range []State{NoIndex, Warm, Restarted} {
			if got := s.wants(state, key); got != want[i] {
				t.Errorf("%s, %s: %v", state, key, got)
			}
		}
	}
}

// A peer is asked for what it has, and only if that is wanted.
func TestPeersRows(t *testing.T) {
	v := visit{suite: &Suite{}, peer: bench.Peer{Rows: []string{keyLogin, "warm:" + keyPOPRetr}}}
	if !v.wants(Warm, keyLogin) || !v.wants(Warm, keyPOPRetr) || v.wants(Cold, keyPOPRetr) || v.wantsAny(Warm, writeKeys()...) || !v.wantsAnything() {
		t.Error("not its rows, or others")
	}
	for only, want := range map[string]bool{keyPOPRetr: true, "warm:" + keyPOPRetr: true, "cold:" + keyPOPRetr: false, keyLogin: true, keyAlone: false, keyCopy: false} {
		v.suite.Only = []string{only}
		if got := v.wantsAnything(); got != want {
			t.Errorf("%s: %v", only, got)
		}
	}
}

// Each task has a short name that can be asked for, and each name a task.
func TestRowNames(t *testing.T) {
	v := visit{suite: &Suite{}, srv: &bench.Server{}}
	var keys []string
	for _, task := range v.reads(t.Context()) {
		keys = append(keys, task.key)
	}
	if !slices.Equal(keys, readKeys()) {
		t.Errorf("%q, want %q", keys, readKeys())
	}
}
