package clustertest

import (
	"bufio"
	"compress/flate"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"waypost/director"
)

// TestSessionsSurvive keeps connections of every kind open, some of them in the middle of
// something all the time, while their user is moved around and the home is restarted,
// and killed: no connection ends, and all that the clients see is right (I5).
func TestSessionsSurvive(t *testing.T) {
	beside(t)
	c := newCluster(t)
	c.withUsers(0)
	s := &survivors{testCluster: c, user: c.user(t, "alice@example.test", "b1")}
	s.fill(t)
	s.connect(t)
	for _, to := range []director.BackendID{"b2", "b3", "b1"} {
		s.while(t, "the move to "+string(to), func() { c.move(t, s.user, to) })
	}
	s.while(t, "the restart of b1", func() {
		p := c.procs["b1"]
		p.signal(syscall.SIGTERM)
		p.waitEnd(patience)
		p.start(t)
		p.waitReady(t)
	})
	s.kill(t)
	s.carried(t)
	s.finish(t)
}

// survivors are the connections, and what is known of the mailbox.
type survivors struct {
	*testCluster
	user   director.User
	big    string // digest of message 3
	busy   []*survivor
	quiet  []*survivor // selected, and silent between events
	idle   *survivor
	pop    *pop3
	sieve  *sieveClient
	events int
	// appended counts what was put into the folder Work.
	appended int
}

// bigOnes is how long the long message is, in bytes.
const bigOnes = 20 << 20

func (s *survivors) fill(t *testing.T) {
	t.Helper()
	line := strings.Repeat("0123456789abcdef", 4)[:62] + "\r\n"
	for _, body := range []string{"Subject: one\r\n\r\nx\r\n", "Subject: two\r\n\r\nx\r\n", "Subject: big\r\n\r\n" + strings.Repeat(line, bigOnes/len(line))} {
		s.send(t, body)
	}
	k, err := s.dialSurvivor(1143, "")
	if err != nil {
		t.Fatal(err)
	}
	defer k.conn.Close()
	eventually(t, "the mail is there", patience, func() error {
		if _, err := k.command("SELECT INBOX"); err != nil || k.exists != 3 {
			return fmt.Errorf("%d messages, %w", k.exists, err)
		}
		return nil
	})
	if _, err := k.command("FETCH 3 BODY.PEEK[]"); err != nil {
		t.Fatal(err)
	}
	s.big = k.digest
	if _, err := k.command("CREATE Work"); err != nil {
		t.Fatal(err)
	}
}

func (s *survivors) send(t *testing.T, body string) {
	t.Helper()
	if err := send(s.addr(2525), "a@example.org", []string{string(s.user)}, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

// survivor is an IMAP client of few words, which does not fail the test by itself: it works on
// a goroutine.
type survivor struct {
	name string
	conn net.Conn
	r    *bufio.Reader
	w    io.Writer
	n    int
	// exists is how many messages the client takes the folder to have.
	exists int
	// digest is that of the last literal.
	digest string
	// work is done again and again while something happens.
	work func(k *survivor) error
	done int
}

func (s *survivors) dialSurvivor(port int, name string) (*survivor, error) {
	conn, err := net.DialTimeout("tcp", s.addr(port), 5*time.Second)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(6 * time.Minute)) // a socket's cannot fail
	k := &survivor{name: name, conn: conn, r: bufio.NewReaderSize(conn, 64<<10), w: conn}
	if _, err := k.line(); err != nil {
		return nil, err
	}
	_, err = k.command("LOGIN %s %s", s.user, password)
	return k, err
}

func (k *survivor) compress() error {
	if _, err := k.command("COMPRESS DEFLATE"); err != nil {
		return err
	}
	w, err := flate.NewWriter(k.conn, flate.BestSpeed)
	k.w, k.r = flushing{w}, bufio.NewReader(flate.NewReader(k.r))
	return err
}

type flushing struct{ *flate.Writer }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	return n, errors.Join(err, f.Flush())
}

// line reads a response, whose literals it digests, and keeps count of messages.
func (k *survivor) line() (string, error) {
	var all strings.Builder
	for {
		text, err := k.r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("after %q: %w", text, err)
		}
		text = strings.TrimRight(text, "\r\n")
		all.WriteString(text)
		m := literal.FindStringSubmatch(text)
		if m == nil {
			break
		}
		size, _ := strconv.Atoi(m[1])
		h := sha256.New()
		if _, err := io.CopyN(h, k.r, int64(size)); err != nil {
			return "", fmt.Errorf("in a literal of %d: %w", size, err)
		}
		k.digest = fmt.Sprintf("%x", h.Sum(nil))
	}
	return all.String(), k.note(all.String())
}

// errWrong is what no client may ever see.
var errWrong = errors.New("wrong")

func (k *survivor) note(line string) error {
	f := strings.Fields(line)
	if len(f) > 1 && f[0] == "*" && f[1] == "BYE" {
		return errors.New(line)
	}
	if len(f) < 3 || f[0] != "*" {
		return nil
	}
	n, err := strconv.Atoi(f[1])
	switch {
	case err != nil:
	case f[2] == "EXISTS" && n < k.exists:
		return fmt.Errorf("%w: %s, after %d: the folder shrank without a word", errWrong, line, k.exists)
	case f[2] == "EXISTS":
		k.exists = n
	case f[2] == "EXPUNGE" && (n < 1 || n > k.exists):
		return fmt.Errorf("%w: %s of %d", errWrong, line, k.exists)
	case f[2] == "EXPUNGE":
		k.exists--
	}
	return nil
}

// command waits for OK, and gives what came before.
func (k *survivor) command(format string, a ...any) ([]string, error) {
	tag := k.start(format, a...)
	return k.answer(tag)
}

func (k *survivor) start(format string, a ...any) (tag string) {
	k.n++
	tag = fmt.Sprintf("%s%d", k.name, k.n)
	fmt.Fprintf(k.w, tag+" "+format+"\r\n", a...) // a lost connection shows in the answer
	return tag
}

func (k *survivor) answer(tag string) (lines []string, err error) {
	for {
		line, err := k.line()
		if err != nil {
			return lines, err
		}
		if rest, ok := strings.CutPrefix(line, tag+" "); ok {
			if !strings.HasPrefix(rest, "OK") {
				err = fmt.Errorf("%w: %s", errWrong, line)
			}
			return lines, err
		}
		if !strings.HasPrefix(line, "* ") && !strings.HasPrefix(line, "+") {
			return lines, fmt.Errorf("%w: waiting for %s: %q", errWrong, tag, line)
		}
		lines = append(lines, line)
	}
}

// right compares what the client takes to be there with what there is.
func (k *survivor) right() error {
	before := k.exists
	lines, err := k.command("FETCH 1:* UID")
	if err != nil {
		return err
	}
	uids := make(map[string]string) // by number; flags of others may come beside what was asked for
	for _, l := range lines {
		number, uid, ok := strings.Cut(l, " FETCH (UID ")
		if !ok {
			continue
		}
		uid = strings.TrimRight(strings.Fields(uid)[0], ")")
		if other, twice := uids[number]; twice && other != uid {
			return fmt.Errorf("%w: %s is %s and %s", errWrong, number, other, uid)
		}
		uids[number] = uid
	}
	if len(uids) < min(before, k.exists) || len(uids) > k.exists { // some may have come meanwhile
		return fmt.Errorf("%w: %d messages, the client takes them to be %d, before %d", errWrong, len(uids), k.exists, before)
	}
	return nil
}

// work is what a connection does while something happens.
type work struct {
	name string
	do   func(*survivor) error
}

func (s *survivors) works() []work {
	return []work{
		{"noop", func(k *survivor) error { _, err := k.command("NOOP"); return err }},
		{"store", func(k *survivor) error {
			_, err := k.command("STORE 1 %sFLAGS (\\Flagged)", []string{"+", "-"}[k.n%2])
			return err
		}},
		{"fetch", func(k *survivor) error {
			_, err := k.command("FETCH 3 BODY.PEEK[]")
			if err == nil && k.digest != s.big {
				err = fmt.Errorf("%w: other bytes than were sent", errWrong)
			}
			return err
		}},
		{"append", func(k *survivor) error {
			s.appended++
			tag := k.start("APPEND Work {20}")
			if line, err := k.line(); err != nil || !strings.HasPrefix(line, "+") {
				return fmt.Errorf("%q, %w", line, err)
			}
			_, _ = io.WriteString(k.w, "Subject: another\r\n\r\n\r\n")
			_, err := k.answer(tag)
			return err
		}},
		{"pipeline", func(k *survivor) error {
			var tags []string
			for range 20 {
				tags = append(tags, k.start("NOOP"), k.start("UID SEARCH ALL"), k.start("FETCH 1:2 FLAGS"), k.start("STATUS Work (MESSAGES)"))
			}
			for _, tag := range tags {
				if _, err := k.answer(tag); err != nil {
					return err
				}
			}
			return nil
		}},
		{"compress", func(k *survivor) error {
			_, err := k.command("FETCH 1:2 (FLAGS ENVELOPE BODY.PEEK[])")
			return err
		}},
		{"select", func(k *survivor) error {
			k.exists = 0
			_, err := k.command("SELECT INBOX")
			return err
		}},
	}
}

// selected is a connection that has selected INBOX.
func (s *survivors) selected(port int, name string) (*survivor, error) {
	k, err := s.dialSurvivor(port, name)
	if err == nil && name == "compress" {
		err = k.compress()
	}
	if err == nil {
		_, err = k.command("SELECT INBOX")
	}
	return k, err
}

func (s *survivors) connect(t *testing.T) {
	t.Helper()
	dial := func(i int, name string) *survivor {
		k, err := s.selected(1143+i%2, name)
		if err != nil {
			t.Fatal(name, err)
		}
		t.Cleanup(func() { k.conn.Close() })
		return k
	}
	for i, w := range s.works() {
		k := dial(i, w.name)
		k.work = w.do
		s.busy = append(s.busy, k)
	}
	s.quiet = []*survivor{dial(0, "quiet"), dial(1, "examined")}
	s.idle = dial(0, "idle")
	s.idle.start("IDLE")
	if line, err := s.idle.line(); err != nil || !strings.HasPrefix(line, "+") {
		t.Fatal(line, err)
	}
	var err error
	if s.pop, err = dialPOP3For(s.addr(1111), string(s.user), 6*time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.pop.c.Close() })
	if _, err := s.pop.cmd("DELE 1"); err != nil {
		t.Fatal(err)
	}
	s.sieve = s.testCluster.sieve(t, s.user)
	_ = s.sieve.c.SetDeadline(time.Now().Add(6 * time.Minute))
}

// while has the busy ones at work while something happens, and looks after all of them.
func (s *survivors) while(t *testing.T, what string, happens func()) {
	t.Helper()
	start := time.Now()
	stop := make(chan struct{})
	var work sync.WaitGroup
	failed := make(chan error, len(s.busy))
	begun := make(chan struct{}, len(s.busy))
	for _, k := range s.busy {
		k.done = 0
		work.Go(func() {
			for {
				if err := k.work(k); err != nil {
					failed <- fmt.Errorf("%s: %w", k.name, err)
					return
				}
				if k.done++; k.done == 1 {
					begun <- struct{}{}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range s.busy {
		select {
		case <-begun:
		case err := <-failed:
			t.Fatalf("before %s: %v", what, err)
		}
	}
	happens()
	close(stop)
	work.Wait()
	close(failed)
	for err := range failed {
		t.Errorf("during %s: %v", what, err)
	}
	if t.Failed() {
		t.FailNow()
	}
	s.look(t, what)
	t.Logf("%s: %s, %d FETCHes of 20 MB", what, time.Since(start).Round(10*time.Millisecond), s.busy[2].done)
}

// look delivers a message, of which all must learn, and has the quiet ones speak.
func (s *survivors) look(t *testing.T, what string) {
	t.Helper()
	s.events++
	s.send(t, fmt.Sprintf("Subject: event %d\r\n\r\nx\r\n", s.events))
	want := 3 + s.events
	for s.idle.exists != want {
		if line, err := s.idle.line(); err != nil {
			t.Fatalf("after %s, idle: %q, %v", what, line, err)
		}
	}
	for _, k := range append(s.quiet, s.busy...) {
		_, err := k.command("NOOP")
		if err == nil && k.exists != want {
			err = fmt.Errorf("knows of %d messages of %d", k.exists, want)
		}
		if err == nil {
			err = k.right()
		}
		if err != nil {
			t.Errorf("after %s, %s: %v", what, k.name, err)
		}
	}
	if stat, err := s.pop.cmd("STAT"); err != nil || !strings.HasPrefix(stat, "+OK 2 ") {
		t.Errorf("after %s, POP3: %q, %v", what, stat, err)
	}
	if answer, err := s.sieve.cmd(fmt.Sprintf(`PUTSCRIPT "s%d" "keep;"`, s.events)); err != nil {
		t.Errorf("after %s, ManageSieve: %q, %v", what, answer, err)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// kill kills the home as soon as all have their answers: what is known of them is enough to go on.
// One that is in the middle of an answer may not.
func (s *survivors) kill(t *testing.T) {
	t.Helper()
	cut, err := s.dialSurvivor(1143, "cut")
	if err == nil {
		_, err = cut.command("SELECT INBOX")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cut.conn.Close()
	tag := cut.start("FETCH 3 BODY.PEEK[]")
	if b, err := cut.r.Peek(1); err != nil {
		t.Fatal(b, err)
	}
	p := s.procs["b1"]
	p.kill()
	p.start(t)
	p.waitReady(t)
	if _, err := cut.answer(tag); err == nil && cut.digest != s.big {
		t.Error("the FETCH that was cut ended well, with other bytes")
	}
	s.look(t, "kill -9 of b1")
}

// finish ends all, and looks at what there is.
func (s *survivors) finish(t *testing.T) {
	t.Helper()
	fmt.Fprint(s.idle.w, "DONE\r\n")
	if _, err := s.idle.answer(fmt.Sprintf("idle%d", s.idle.n)); err != nil {
		t.Error(err)
	}
	if _, err := s.pop.cmd("QUIT"); err != nil {
		t.Error("QUIT:", err)
	}
	k := s.quiet[0]
	if _, err := k.command("NOOP"); err != nil || k.exists != 2+s.events {
		t.Errorf("after QUIT: %d messages, %v", k.exists, err)
	}
	lines, err := k.command("STATUS Work (MESSAGES)")
	if want := fmt.Sprintf("(MESSAGES %d)", s.appended); err != nil || !strings.Contains(strings.Join(lines, " "), want) {
		t.Errorf("%q, %v, want %s", lines, err, want)
	}
	if list, err := s.sieve.cmd("LISTSCRIPTS"); err != nil || strings.Count(list, `"s`) != s.events {
		t.Errorf("%q, %v, want %d scripts", list, err, s.events)
	}
	for _, k := range append(s.quiet, s.busy...) {
		if err := errors.Join(k.right(), k.bye()); err != nil {
			t.Errorf("%s at its end: %v", k.name, err)
		}
	}
}

// carried looks at what was counted: all went on, but the one that was cut.
func (s *survivors) carried(t *testing.T) {
	t.Helper()
	resumed, lost := 0.0, 0.0
	for _, id := range []string{"p1", "p2"} {
		for line := range strings.Lines(s.scrape1(t, id)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, _ := strconv.ParseFloat(value, 64)
			switch {
			case name == "waypost_proxy_sessions_resumed_total":
				resumed += n
			case strings.HasPrefix(name, "waypost_proxy_sessions_not_carried_total{"):
				lost += n
			}
		}
	}
	if all := float64((len(s.busy) + len(s.quiet) + 3) * s.events); resumed < all || lost > 1 {
		t.Errorf("%v sessions were resumed, want %v at least; %v were not carried", resumed, all, lost)
	}
}

// bye is LOGOUT, after which a BYE is right.
func (k *survivor) bye() error {
	k.start("LOGOUT")
	line, err := k.line()
	if err == nil || !strings.Contains(err.Error(), "* BYE") {
		return fmt.Errorf("LOGOUT: %q, %w", line, err)
	}
	return nil
}
