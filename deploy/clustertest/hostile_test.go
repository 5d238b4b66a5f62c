package clustertest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"waypost/director"
	"waypost/director/admin"
)

// TestHostileNeighbour: someone whose account is on the same backend does with all the sessions
// that he may have what costs a server most. Others go on through the same proxy, and no process
// grows beyond bounds.
func TestHostileNeighbour(t *testing.T) {
	c := newCluster(t)
	c.withUsers(0)
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	const ann, mallory = director.User("ann@example.test"), director.User("mallory@example.test")
	for _, u := range []director.User{ann, mallory} {
		eventually(t, "user", patience, func() error {
			// Of one group, so that both live on one backend.
			_, err := c.admin.CreateUser(ctx, admin.CreateUser{User: string(u), PasswordHash: passwordHash, Group: "neighbours"})
			return err
		})
	}
	if a, m := c.home(t, ann), c.home(t, mallory); a != m {
		t.Fatalf("ann lives on %s, mallory on %s", a, m)
	}
	addr := c.addr(1143)
	h := &hostile{t: t, addr: addr, user: mallory}
	defer h.end()

	// What he has: 10,000 folders, and messages.
	first := h.session()
	const folders = 10_000
	var creates bytes.Buffer
	for i := range folders {
		fmt.Fprintf(&creates, "c CREATE %d/%d/%d\r\n", i%10, i%100, i)
	}
	go func() { _, _ = first.Write(creates.Bytes()) }()
	created := bufio.NewReader(first)
	for got := 0; got < folders; {
		line, err := created.ReadString('\n')
		if err != nil {
			t.Fatal(got, err)
		}
		if strings.HasPrefix(line, "c ") {
			got++
			if !strings.HasPrefix(line, "c OK") && !strings.Contains(line, "[ALREADYEXISTS]") && !strings.Contains(line, "[LIMIT]") {
				t.Fatal(line)
			}
		}
	}
	first.Close()
	text := strings.Repeat(strings.Repeat("x", 70)+"\r\n", 30_000) // 2 MB
	for range 20 {
		h.run("a APPEND INBOX {%d+}\r\n%s\r\n", len(text), text)
	}
	before := c.memory(t)

	// What he does with it: 18 sessions of 20.
	bomb := strings.Repeat("NOT TEXT nowhere ", 100) // as many as may be
	for range 3 {
		h.unread("a SELECT INBOX\r\nb FETCH 1:* BODY[]\r\nc FETCH 1:* BODY[]\r\n")
		h.again("a SEARCH " + bomb + "SEEN\r\n")
		h.again(`a LIST "" (* %% *%%*%%*%%*) RETURN (SUBSCRIBED CHILDREN STATUS (MESSAGES UNSEEN SIZE HIGHESTMODSEQ))` + "\r\n")
		h.again("a NOTIFY SET STATUS (personal (MessageNew MessageExpunge MailboxName FlagChange))\r\n")
	}
	for range 2 {
		h.endless("a APPEND INBOX {900000000+}\r\n", strings.Repeat("x", 1<<16))
		h.endless("a X {4000000000+}\r\n", strings.Repeat("x", 1<<16))
		h.endless("a FETCH ", strings.Repeat("1,", 1<<15))
	}

	// And what somebody else sees meanwhile.
	cl, err := dialIMAPFor(addr, string(ann), 4*patience)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var took, told []time.Duration
	exists := make(chan uint32, 100)
	waits, err := imapclient.DialInsecure(addr, &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Mailbox: func(d *imapclient.UnilateralDataMailbox) {
			if d.NumMessages != nil {
				exists <- *d.NumMessages
			}
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	do("login", waits.Login(string(ann), password).Wait())
	_, err = waits.Select("INBOX", nil).Wait()
	do("SELECT", err)
	_, err = waits.Idle()
	do("IDLE", err)
	const rounds = 30
	for i := range rounds {
		start := time.Now()
		do("delivery", send(c.addr(2525), "x@example.org", []string{string(ann)}, fmt.Appendf(nil, "Subject: news %d\r\n\r\nhello\r\n", i)))
		accepted := time.Now()
		for n := uint32(0); n <= uint32(i); {
			select {
			case n = <-exists:
			case <-ctx.Done():
				t.Fatalf("message %d is not told in IDLE", i)
			}
		}
		told = append(told, time.Since(accepted))
		_, err := cl.Select("INBOX", nil).Wait()
		do("SELECT", err)
		found, err := cl.UIDSearch(&imap.SearchCriteria{Text: []string{"hello"}}, nil).Wait()
		do("SEARCH", err)
		if n := len(found.AllUIDs()); n != i+1 {
			t.Fatalf("%d messages of %d are found", n, i+1)
		}
		_, err = cl.Fetch(imap.SeqSetNum(uint32(i+1)), &imap.FetchOptions{Envelope: true, BodySection: []*imap.FetchItemBodySection{{}}}).Collect()
		do("FETCH", err)
		_, err = cl.Store(imap.SeqSetNum(uint32(i+1)), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagFlagged}}, nil).Collect()
		do("STORE", err)
		_, err = cl.List("", "*", nil).Collect()
		do("LIST", err)
		fresh, err := dialIMAP(addr, ann)
		do("login", err)
		do("LOGOUT", fresh.Logout().Wait())
		took = append(took, time.Since(start))
	}
	if left := h.left.Load(); left < 12 { // of 18: what has no end is refused, and ends its session
		t.Errorf("%d hostile sessions are left: the others were not tried by them", left)
	}
	slices.Sort(took)
	slices.Sort(told)
	t.Logf("a round of delivery and 8 commands: half within %v, all within %v; in IDLE a delivery is told half of the times within %v after its 250, always within %v; he had %d answers",
		took[rounds/2], took[rounds-1], told[rounds/2], told[rounds-1], h.answers.Load())
	const mayGrow = 400 << 20
	for name, peak := range c.memory(t) {
		if grown := peak - before[name]; grown > mayGrow && name != "e1" {
			t.Errorf("%s grew by %d MB", name, grown>>20)
		} else if grown > 20<<20 {
			t.Logf("%s grew by %d MB", name, grown>>20)
		}
	}
}

// hostile is someone and his sessions.
type hostile struct {
	t       *testing.T
	addr    string
	user    director.User
	left    atomic.Int32 // sessions that have not ended
	answers atomic.Int64 // to commands that are said again and again
	mu      sync.Mutex
	open    []net.Conn
	wg      sync.WaitGroup
}

// session logs in.
func (h *hostile) session() net.Conn {
	h.t.Helper()
	conn, err := net.DialTimeout("tcp", h.addr, 5*time.Second)
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.open = append(h.open, conn)
	h.mu.Unlock()
	_ = conn.SetDeadline(time.Now().Add(5 * patience))
	fmt.Fprintf(conn, "l LOGIN %s %s\r\n", h.user, password)
	if err := answered(conn, "l "); err != nil {
		h.t.Fatal(err)
	}
	return conn
}

// answered reads until a line begins with the tag, with an OK. It reads no further, as what
// follows has its own reader.
func answered(r io.Reader, tag string) error {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := r.Read(b); err != nil {
			return err
		}
		if line = append(line, b[0]); b[0] != '\n' {
			continue
		}
		if bytes.HasPrefix(line, []byte(tag)) {
			if !bytes.HasPrefix(line, []byte(tag+"OK")) {
				return fmt.Errorf("%s", line)
			}
			return nil
		}
		line = line[:0]
	}
}

// run says a command in a session of its own.
func (h *hostile) run(format string, args ...any) {
	h.t.Helper()
	conn := h.session()
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, format, args...); err != nil {
		h.t.Fatal(err)
	}
	if err := answered(conn, "a "); err != nil {
		h.t.Fatal(err)
	}
}

// in does something in a session, which counts as left until do returns.
func (h *hostile) in(do func(net.Conn)) {
	h.t.Helper()
	conn := h.session()
	h.left.Add(1)
	h.wg.Go(func() {
		defer h.left.Add(-1)
		do(conn)
	})
}

// unread says something and reads nothing, until the connection ends.
func (h *hostile) unread(what string) {
	h.in(func(conn net.Conn) {
		_, _ = io.WriteString(conn, what)
		// Nothing is read; that the connection has ended shows when more is said.
		for err := error(nil); err == nil; {
			_, err = io.WriteString(conn, strings.Repeat("d NOOP\r\n", 1000))
		}
	})
}

// again says a command, of the tag a, again and again.
func (h *hostile) again(command string) {
	h.in(func(conn net.Conn) {
		_, _ = io.WriteString(conn, "s SELECT INBOX\r\n")
		r := bufio.NewReader(conn)
		for {
			if _, err := io.WriteString(conn, command); err != nil {
				return
			}
			for line := ""; !strings.HasPrefix(line, "a "); {
				var err error
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
			}
			h.answers.Add(1)
		}
	})
}

// endless says the first words, and then the others without end.
func (h *hostile) endless(first, others string) {
	h.in(func(conn net.Conn) {
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		for _, err := io.WriteString(conn, first); err == nil; {
			_, err = io.WriteString(conn, others)
		}
	})
}

// end ends all sessions.
func (h *hostile) end() {
	h.mu.Lock()
	for _, conn := range h.open {
		conn.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
}
