package clustertest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// opPatience is how long one command may take before it counts as hanging: a session may
// wait a minute for its home.
const opPatience = 100 * time.Second

// clients starts all clients of all users, and waits until all have begun.
func (w *wholeRun) clients() {
	for i, u := range w.users {
		w.wg.Go(func() { w.sender(u, i) })
	}
	for _, u := range w.users {
		eventually(w.t, "first message of "+string(u.name), patience, func() error {
			u.mu.Lock()
			defer u.mu.Unlock()
			if len(u.acked) == 0 {
				return errors.New("none")
			}
			return nil
		})
	}
	for i, u := range w.users {
		w.wg.Go(func() { w.imapClient(u, "active", i%2, w.active) })
		w.wg.Go(func() { w.imapClient(u, "idle", (i+1)%2, w.idle) })
		w.wg.Go(func() { w.imapClient(u, "quiet", i%2, w.quiet) })
		w.wg.Go(func() { w.visitor(u, i) })
	}
	eventually(w.t, "all connections are open", patience, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.opened < 3*len(w.users) {
			return fmt.Errorf("%d", w.opened)
		}
		return nil
	})
}

// wholeClient is one IMAP connection, which has an identity: it is opened once, and its
// end is an event.
type wholeClient struct {
	*survivor
	w      *wholeRun
	u      *loadUser
	opened time.Time
	// since is when the running command began, in nanoseconds; 0: none runs, which is
	// so while it waits in IDLE.
	since atomic.Int64
	pick  int
}

// op runs a command, and records how long the client waited for it.
func (k *wholeClient) op(kind string, do func() error) error {
	began := time.Now()
	k.since.Store(began.UnixNano())
	_ = k.conn.SetDeadline(began.Add(opPatience)) // a socket's cannot fail
	if err := do(); err != nil {
		return fmt.Errorf("%s, begun %s ago: %w", kind, time.Since(began).Round(time.Millisecond), err)
	}
	k.since.Store(0)
	k.w.trip(k.u.name, kind, began)
	return nil
}

// imapClient keeps one connection open and at work. When it ends, it is found out
// whether that is excused, and another takes its place.
func (w *wholeRun) imapClient(u *loadUser, name string, proxy int, work func(*wholeClient) error) {
	id, s := fmt.Sprintf("p%d", proxy+1), &survivors{testCluster: w.c, user: u.name}
	for running(w.stop) {
		began := time.Now()
		k := &wholeClient{w: w, u: u, opened: began}
		k.since.Store(began.UnixNano())
		var err error
		if k.survivor, err = s.selected(1143+proxy, name); err == nil {
			k.since.Store(0)
			w.connected()
			for n := 0; err == nil && running(w.stop); n++ {
				err = work(k)
			}
			if err == nil {
				err = k.bye()
			}
		}
		if k.survivor != nil {
			k.conn.Close()
		}
		if err != nil {
			w.broken(k, id, name, err)
			w.next(200 * time.Millisecond)
		}
	}
}

func (w *wholeRun) connected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened++
}

// broken judges the end of a connection.
func (w *wholeRun) broken(k *wholeClient, proxy, name string, err error) {
	now := time.Now()
	var since time.Time // of the command that runs, if any
	if at := k.since.Load(); at != 0 {
		since = time.Unix(0, at)
	}
	what := ""
	switch {
	case errors.Is(err, errWrong):
	case w.during(killedProxy, proxy, k.opened, now):
		what = "its proxy was killed"
	case !since.IsZero() && w.ranInKilled(k.u.name, since, now):
		what = "a command was running in a killed backend"
	}
	if what == "" {
		w.mistake("I5: %s connection of %s, open for %s, asked at %s: %v (%s)", name, k.u.name, now.Sub(k.opened).Round(time.Millisecond), clock(since), err, w.history(k.u.name))
		what = "no excuse"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended[what]++
}

// active is a client at work: it asks for news, flags, and reads.
func (w *wholeRun) active(k *wholeClient) error {
	if !w.next(w.size.gap) {
		return nil
	}
	k.pick++
	switch {
	case k.pick%8 == 3 && k.exists > 0:
		n := 1 + rand.IntN(k.exists)
		return k.op("STORE", func() error {
			_, err := k.command("STORE %d %sFLAGS (\\Answered)", n, []string{"+", "-"}[k.pick%2])
			return err
		})
	case k.pick%8 == 5 && k.exists > 0:
		return k.op("FETCH", func() error { return k.readOne(1 + rand.IntN(k.exists)) })
	case k.pick%24 == 7:
		return k.op("FETCH 1:* UID", k.right)
	}
	return k.op("NOOP", func() error { _, err := k.command("NOOP"); return err })
}

// quiet is a client that has selected a folder and says nothing for long.
func (w *wholeRun) quiet(k *wholeClient) error {
	if !w.next(8 * time.Second) {
		return nil
	}
	return k.op("rare NOOP", func() error { _, err := k.command("NOOP"); return err })
}

var envelopeSubject = regexp.MustCompile(`"([^" ]+-\d+)"`)

// readOne reads a message whole, and compares its digest with what the sender of that
// subject has sent.
func (k *wholeClient) readOne(n int) error {
	lines, err := k.command("FETCH %d (ENVELOPE BODY.PEEK[TEXT])", n)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if !strings.HasPrefix(l, "* "+strconv.Itoa(n)+" FETCH") || !strings.Contains(l, "ENVELOPE") {
			continue
		}
		m := envelopeSubject.FindStringSubmatch(l)
		if m == nil {
			return fmt.Errorf("%w: no subject in %q", errWrong, l)
		}
		if k.digest != textDigest(m[1]) {
			return fmt.Errorf("%w: message %s was altered: digest %s", errWrong, m[1], k.digest)
		}
		return nil
	}
	return fmt.Errorf("%w: no message in %q", errWrong, lines)
}

// idle waits in IDLE, for news or for its patience to end.
func (w *wholeRun) idle(k *wholeClient) error {
	tag := ""
	err := k.op("IDLE", func() error {
		tag = k.start("IDLE")
		for {
			line, err := k.line()
			if err != nil || strings.HasPrefix(line, "+") {
				return err
			}
			if !strings.HasPrefix(line, "* ") {
				return fmt.Errorf("%w: %s", errWrong, line)
			}
		}
	})
	if err != nil {
		return err
	}
	const rest = 3 * time.Second
	_ = k.conn.SetDeadline(time.Now().Add(rest + opPatience)) // a socket's cannot fail
	said := make(chan struct{})
	go func() {
		defer close(said)
		w.next(rest)
		k.since.Store(time.Now().UnixNano())
		_, _ = k.write("DONE\r\n") // a lost connection shows in the answer
	}()
	_, err = k.answer(tag)
	if err != nil {
		// What it was doing when the connection ended; the sayer may come later.
		since := k.since.Load()
		k.conn.Close()
		<-said
		k.since.Store(since)
		return fmt.Errorf("in IDLE: %w", err)
	}
	<-said
	began := time.Unix(0, k.since.Swap(0))
	w.trip(k.u.name, "DONE", began)
	return nil
}

func (k *wholeClient) write(text string) (int, error) { return k.survivor.w.Write([]byte(text)) }

// visitor comes and goes, by POP3 and by IMAP, and compares all that it is shown with
// what it was shown before.
func (w *wholeRun) visitor(u *loadUser, i int) {
	for n := 0; w.next(8 * w.size.gap); n++ {
		began, proxy := time.Now(), (i+n)%2
		var err error
		if n%2 == 0 {
			err = w.visitPOP3(u, w.c.addr(1110+proxy))
		} else {
			err = u.lookIMAP(w.c.addr(1143 + proxy))
		}
		now := time.Now()
		switch {
		case err == nil:
			w.reads.Add(1)
		case !errors.Is(err, errView) && w.during(killedProxy, fmt.Sprintf("p%d", proxy+1), began, now):
			w.count("visit lost with a killed proxy")
		case !errors.Is(err, errView) && w.ranInKilled(u.name, began, now): // it is command upon command
			w.count("visit lost with a killed backend")
		default:
			w.mistake("I4/I5: visit of %s (POP3: %t) begun %s ago: %v", u.name, n%2 == 0, now.Sub(began).Round(time.Millisecond), err)
		}
	}
}

// visitPOP3 looks through the maildrop and fetches a message.
func (w *wholeRun) visitPOP3(u *loadUser, addr string) error {
	p, err := dialPOP3For(addr, string(u.name), opPatience)
	if err != nil {
		return err
	}
	defer p.c.Close()
	ids, err := p.uidls()
	if err != nil {
		return err
	}
	if err := u.comparePOP3(ids); err != nil {
		return err
	}
	if len(ids) > 0 {
		body, err := p.retr(1 + rand.IntN(len(ids)))
		if err != nil {
			return err
		}
		if subject := subjectIn(body); string(plain(body)) != string(messageFor(subject)) {
			return fmt.Errorf("%w: message %q was altered", errView, subject)
		}
	}
	began := time.Now()
	if _, err := p.cmd("NOOP"); err != nil {
		return err
	}
	w.trip(u.name, "POP3 NOOP", began)
	_, err = p.cmd("QUIT")
	return err
}

func subjectIn(body []byte) string {
	subject, _, _ := strings.Cut(strings.TrimPrefix(string(plain(body)), "Subject: "), "\r\n")
	return subject
}

// sender sends to a user as a sending MTA does: to the other mx where one is away, and
// again where it heard nothing.
func (w *wholeRun) sender(u *loadUser, i int) {
	for n := 0; w.next(6 * w.size.gap); n++ {
		subject := fmt.Sprintf("%s-%d", u.name.Local(), n)
		body := messageFor(subject)
		for try := 0; ; try++ {
			mx := (i + n + try) % 2
			began := time.Now()
			err := send(w.c.addr(2525+mx), "load@example.org", []string{string(u.name)}, body)
			u.mu.Lock()
			switch {
			case err == nil:
				u.acked[subject] = true
			case errors.Is(err, errSilent):
				u.silent[subject]++
			}
			u.mu.Unlock()
			if err == nil {
				w.sent.Add(1)
				w.trip(u.name, "SMTP", began)
				break
			}
			if !w.during(killedMX, fmt.Sprintf("mx%d", mx+1), began, time.Now()) {
				w.mistake("I5: mail to %s, begun %s ago: %v", u.name, time.Since(began).Round(time.Millisecond), err)
			}
			w.resent.Add(1)
			if !w.next(200 * time.Millisecond) {
				return
			}
		}
	}
}
