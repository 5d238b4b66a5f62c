package clustertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"waypost/director"
)

// load is constant delivery and reading, and the record of what it was told.
type load struct {
	c     *testCluster
	t     *testing.T
	users []*loadUser
	stop  chan struct{}
	wg    sync.WaitGroup

	sent, resent, reads, pauses atomic.Int64
}

// loadUser is what is known of one user's mailbox from outside.
type loadUser struct {
	name director.User

	mu sync.Mutex
	// acked are subjects that got a 250; silent counts attempts that got no
	// answer, each of which may have made a copy.
	acked  map[string]bool
	silent map[string]int
	// uids and flags are what clients were shown, by subject.
	validity uint32
	uids     map[uint32]string
	flagged  map[uint32]bool
	most     int
	uidl     []string
}

// start begins the load: one sender and one reader a user, in lock step with
// nothing.
func startLoad(c *testCluster, t *testing.T, users []director.User) *load {
	l := &load{c: c, t: t, stop: make(chan struct{})}
	for i, u := range users {
		x := &loadUser{name: u, acked: make(map[string]bool), silent: make(map[string]int), uids: make(map[uint32]string), flagged: make(map[uint32]bool)}
		l.users = append(l.users, x)
		l.wg.Go(func() { l.sendTo(x, i) })
		l.wg.Go(func() { l.readOf(x, i) })
	}
	return l
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
	l.t.Logf("load: %d messages acknowledged, %d sent again, %d reads, %d of them paused or closed", l.sent.Load(), l.resent.Load(), l.reads.Load(), l.pauses.Load())
}

// flow waits until so many more messages were acknowledged.
func (l *load) flow(n int64) {
	l.t.Helper()
	want := l.sent.Load() + n
	eventually(l.t, "mail flows", 2*patience, func() error {
		if have := l.sent.Load(); have < want {
			return fmt.Errorf("%d messages of %d", have, want)
		}
		return nil
	})
}

// next waits a little, and says when to stop.
func (l *load) next(d time.Duration) bool {
	select {
	case <-l.stop:
		return false
	case <-time.After(d/2 + rand.N(d)):
		return true
	}
}

func (l *load) sendTo(u *loadUser, i int) {
	for n := 0; l.next(700 * time.Millisecond); n++ {
		subject := fmt.Sprintf("%s-%d", u.name.Local(), n)
		body := messageFor(subject)
		for try := 0; ; try++ {
			err := send(l.c.addr(2525+(i+n+try)%2), "load@example.org", []string{string(u.name)}, body)
			u.mu.Lock()
			if err == nil {
				u.acked[subject] = true
			} else if errors.Is(err, errSilent) {
				u.silent[subject]++
			}
			u.mu.Unlock()
			if err == nil {
				l.sent.Add(1)
				break
			}
			if permanent(err) {
				l.t.Errorf("I5: %s was refused for good: %v", u.name, err)
				return
			}
			// A sending MTA tries again later: connection refused, 4xx, silence.
			l.resent.Add(1)
			if !l.next(300 * time.Millisecond) {
				return
			}
		}
	}
}

func messageFor(subject string) []byte {
	return []byte("Subject: " + subject + "\r\nFrom: load@example.org\r\n\r\n" + strings.Repeat(subject+" line\r\n", 20))
}

// readOf opens the mailbox now and then, by IMAP or POP3, flags a message, and
// compares with all it was shown before: nothing may vanish or change its UID.
func (l *load) readOf(u *loadUser, i int) {
	for n := 0; l.next(900 * time.Millisecond); n++ {
		var err error
		if n%3 == 2 {
			err = u.lookPOP3(l.c.addr(1110 + (i+n)%2))
		} else {
			err = u.lookIMAP(l.c.addr(1143 + (i+n)%2))
		}
		l.reads.Add(1)
		switch {
		case errors.Is(err, errView):
			l.t.Errorf("I4/I5: %s: %v", u.name, err)
			return
		case err != nil && !pause(err):
			l.t.Errorf("I5: %s saw an error: %v", u.name, err)
			return
		case err != nil:
			l.pauses.Add(1)
		}
	}
}

// errView: a client was shown something that cannot be.
var errView = errors.New("wrong view")

// pause tells what a client may see while homes and proxies are killed: a
// closed or refused connection, BYE, or a temporary code that clients retry.
func pause(err error) bool {
	s := err.Error()
	for _, ok := range []string{"EOF", "connection refused", "connection reset", "broken pipe", "closed", "BYE", "[UNAVAILABLE]", "[SYS/TEMP]", "[IN-USE]", "[INUSE]", "i/o timeout"} {
		if strings.Contains(s, ok) {
			return true
		}
	}
	return false
}

func (u *loadUser) lookIMAP(addr string) error {
	c, err := dialIMAP(addr, u.name)
	if err != nil {
		return err
	}
	defer c.Close()
	sel, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		return err
	}
	if sel.NumMessages == 0 {
		return u.shrunk(0)
	}
	var all imap.SeqSet
	all.AddRange(1, 0)
	msgs, err := c.Fetch(all, &imap.FetchOptions{UID: true, Flags: true, Envelope: true}).Collect()
	if err != nil {
		return err
	}
	if len(msgs) < int(sel.NumMessages) {
		return fmt.Errorf("%d of %d messages came: EOF", len(msgs), sel.NumMessages)
	}
	if err := u.compare(sel.UIDValidity, msgs); err != nil {
		return err
	}
	return u.flagOne(c, msgs)
}

func (u *loadUser) shrunk(n int) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n < u.most {
		return fmt.Errorf("%w: %d messages, %d were there before", errView, n, u.most)
	}
	u.most = n
	return nil
}

func (u *loadUser) compare(validity uint32, msgs []*imapclient.FetchMessageBuffer) error {
	if err := u.shrunk(len(msgs)); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.validity != 0 && u.validity != validity {
		return fmt.Errorf("%w: UIDVALIDITY %d, was %d", errView, validity, u.validity)
	}
	u.validity = validity
	now := make(map[uint32]string, len(msgs))
	last := uint32(0)
	for _, m := range msgs {
		uid := uint32(m.UID)
		if uid <= last {
			return fmt.Errorf("%w: UID %d after %d", errView, uid, last)
		}
		last = uid
		now[uid] = m.Envelope.Subject
		if u.flagged[uid] && !strings.Contains(flagText(m.Flags), "\\flagged") {
			return fmt.Errorf("%w: UID %d has lost its flag", errView, uid)
		}
	}
	for uid, subject := range u.uids {
		if now[uid] != subject {
			return fmt.Errorf("%w: UID %d was %q and is %q", errView, uid, subject, now[uid])
		}
	}
	u.uids = now
	return nil
}

// flagOne flags a message; the flag counts once the server said OK.
func (u *loadUser) flagOne(c *imapclient.Client, msgs []*imapclient.FetchMessageBuffer) error {
	uid := msgs[rand.N(len(msgs))].UID
	var set imap.UIDSet
	set.AddNum(uid)
	if err := c.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagFlagged}}, nil).Close(); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.flagged[uint32(uid)] = true
	return nil
}

func (u *loadUser) lookPOP3(addr string) error {
	p, err := dialPOP3(addr, u.name)
	if err != nil {
		return err
	}
	defer p.quit()
	ids, err := p.uidls()
	if err != nil {
		return err
	}
	return u.comparePOP3(ids)
}

func (u *loadUser) comparePOP3(ids []string) error {
	if err := u.shrunk(len(ids)); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	have := make(map[string]bool, len(ids))
	for _, id := range ids {
		have[id] = true
	}
	for _, id := range u.uidl {
		if !have[id] {
			return fmt.Errorf("%w: UIDL %s is gone", errView, id)
		}
	}
	u.uidl = ids
	return nil
}

// settled waits until everything that was acknowledged is in the mailbox.
func (l *load) settled(within time.Duration) {
	for i, u := range l.users {
		eventually(l.t, string(u.name)+" has all its mail", within, func() error {
			s, err := readIMAP(l.c.addr(1143+i%2), u.name, "INBOX", true)
			if err != nil {
				return err
			}
			return u.complete(s)
		})
	}
}

// complete is I2 and I3: every message that got a 250 is there, unaltered, and
// once; one more copy is allowed only for an attempt that got no answer.
func (u *loadUser) complete(s seen) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	copies := make(map[string]int)
	for _, m := range s.msgs {
		body := string(plain(m.body))
		subject, _, _ := strings.Cut(strings.TrimPrefix(body, "Subject: "), "\r\n")
		if body != string(messageFor(subject)) {
			return fmt.Errorf("message %q was altered:\n%.300q", subject, body)
		}
		copies[subject]++
	}
	for subject := range u.acked {
		n := copies[subject]
		if n < 1 {
			return fmt.Errorf("message %s was acknowledged and is not there", subject)
		}
		if n > 1+u.silent[subject] {
			return fmt.Errorf("message %s is there %d times, with %d unanswered attempts", subject, n, u.silent[subject])
		}
	}
	return nil
}

// check is what must hold when all is quiet.
func (l *load) check() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i, u := range l.users {
		if err := u.lookIMAP(l.c.addr(1143 + i%2)); err != nil {
			l.t.Errorf("I4: %s: %v", u.name, err)
		}
		if err := u.lookPOP3(l.c.addr(1110 + i%2)); err != nil {
			l.t.Errorf("I4: %s: %v", u.name, err)
		}
		got, err := l.c.admin.User(ctx, u.name)
		if err != nil {
			l.t.Errorf("%s: %v", u.name, err)
			continue
		}
		if got.Move != nil || got.State != director.Active {
			l.t.Errorf("I6: %s is %s, move %+v", u.name, got.State, got.Move)
		}
		l.checkQuota(u, got.UsedBytes, got.UsedMessages, got.Home)
	}
}
