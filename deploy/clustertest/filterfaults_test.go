package clustertest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/textproto"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// faulty is the state of TestFiltersUnderFaults: what was sent, and what was
// killed when.
type faulty struct {
	*filters
	t *testing.T

	mu     sync.Mutex // protects what follows
	sent   int
	acked  map[int]bool
	silent map[int]bool
	kills  map[string][]time.Time
	// calm are those that were handed over while no mx died.
	calm map[int]bool
	// own are the subjects of what bob has submitted, club of what went to an alias
	// with a member outside; those that were acknowledged.
	own, club []string
}

const faultyScript = `require ["fileinto", "mailbox", "copy", "vacation"];
fileinto :create "Work";
redirect "archive@outside.example";
vacation :subject "Away" "gone";
`

// TestFiltersUnderFaults: every message is filed, redirected and answered by a
// script, while its home and the mx are killed at chosen moments and under load.
// What was acknowledged is filed once; a redirect and a reply reach the world,
// and twice only if an mx died before it could note the smarthost's answer, or
// before the backend had its answer that it has the message.
func TestFiltersUnderFaults(t *testing.T) {
	beside(t)
	f := &faulty{filters: &filters{testCluster: newCluster(t), world: newSmarthost(t)}, t: t,
		acked: map[int]bool{}, silent: map[int]bool{}, kills: map[string][]time.Time{}, calm: map[int]bool{}}
	f.relayBy(t, f.world)
	f.withUsers(0)
	f.ann = f.user(t, "ann@example.test", "b1")
	f.activate(t, f.ann, faultyScript)
	f.bob = f.user(t, "bob@example.test", "b2")
	if _, err := f.admin.PutAddress(t.Context(), "club@example.test", []string{string(f.bob), "member@outside.example"}); err != nil {
		t.Fatal(err)
	}
	f.send(2525, nil) // the folder is there, and all have met

	for _, victim := range []string{"b1", "mx1", "mx2"} {
		port := map[string]int{"b1": 2525, "mx1": 2525, "mx2": 2526}[victim]
		f.send(port, func() { f.kill(victim) }) // within the message
		f.revive(victim)
		f.send(port, nil)
		f.kill(victim) // after the answer
		f.revive(victim)
	}
	for _, stage := range []string{"mail", "data", "answered"} {
		f.atSmarthost(stage, func(*outMail) string { return "b1" })
		f.atSmarthost(stage, func(m *outMail) string { return strings.TrimSuffix(m.by, ".example.test") })
	}
	f.allDown()
	f.mxAway()
	f.load()
	f.quiet(t)
	f.check()
}

func (f *faulty) kill(name string) {
	f.procs[name].kill()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kills[name] = append(f.kills[name], time.Now())
}

func (f *faulty) revive(names ...string) {
	f.t.Helper()
	for _, n := range names {
		f.procs[n].start(f.t)
	}
	for _, n := range names {
		f.procs[n].waitReady(f.t)
	}
}

// send sends the next message, each from a sender of its own; within is done
// between its halves.
func (f *faulty) send(port int, within func()) {
	f.mu.Lock()
	f.sent++
	n := f.sent
	f.mu.Unlock()
	subject := fmt.Sprintf("fault-%d-", n)
	from := fmt.Sprintf("s%d@sender.example", n)
	text := note(from, string(f.ann), subject, "") // the reply goes to who names the user in To
	text = append(text, strings.Repeat("another line\r\n", 2000)...)
	err := sendWithin(f.addr(port), from, string(f.ann), text, within)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.acked[n] = true
	case errors.Is(err, errSilent):
		f.silent[n] = true
	}
}

// sendWithin is send for one recipient, with something done in the middle.
func sendWithin(addr, from, to string, text []byte, within func()) error {
	if within == nil {
		return send(addr, from, []string{to}, text)
	}
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return fmt.Errorf("%w: %w", errAnswered, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(ioTimeout)) // a socket's cannot fail
	c := textproto.NewConn(conn)
	for _, step := range []struct {
		code int
		line string
	}{{220, ""}, {250, "EHLO test.example.org"}, {250, "MAIL FROM:<" + from + ">"}, {250, "RCPT TO:<" + to + ">"}, {354, "DATA"}} {
		if step.line != "" {
			_ = c.PrintfLine("%s", step.line) // the answer tells
		}
		if _, _, err := c.ReadResponse(step.code); err != nil {
			return fmt.Errorf("%w: %w", errAnswered, err)
		}
	}
	w := c.DotWriter()
	_, _ = w.Write(text[:len(text)/2]) // the answer tells
	within()
	_, _ = w.Write(text[len(text)/2:])
	_ = w.Close()
	var refused *textproto.Error
	switch _, _, err := c.ReadResponse(250); {
	case errors.As(err, &refused):
		return fmt.Errorf("%w: %w", errAnswered, err)
	case err != nil:
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return nil
}

// atSmarthost kills whom at names when the next message has come so far there.
func (f *faulty) atSmarthost(stage string, victim func(*outMail) string) {
	f.t.Helper()
	killed := make(chan string, 1)
	var once sync.Once
	f.world.mu.Lock()
	f.world.at = func(s string, m *outMail) {
		if s == stage {
			once.Do(func() {
				name := victim(m)
				f.kill(name)
				killed <- name
			})
		}
	}
	f.world.mu.Unlock()
	f.send(2525, nil)
	select {
	case name := <-killed:
		f.revive(name)
	case <-time.After(patience):
		f.t.Fatalf("nothing came to %s at the smarthost", stage)
	}
	f.world.mu.Lock()
	f.world.at = nil
	f.world.mu.Unlock()
}

// allDown: the home is away, the mx take mail and die.
func (f *faulty) allDown() {
	f.kill("b1")
	f.send(2525, nil)
	f.send(2526, nil)
	f.kill("mx1")
	f.kill("mx2")
	f.revive("mx1", "mx2", "b1")
}

// mxAway: an mx is away when its share is handed over, and there again when the
// home, killed before its journal's next checkpoint, hands over what it does not
// know to be gone.
func (f *faulty) mxAway() {
	f.quiet(f.t)
	f.kill("mx2")
	for range 8 {
		f.calm[f.sent+1] = true
		f.send(2525, nil)
	}
	f.quietOutboxes()
	f.revive("mx2")
	f.kill("b1")
	f.revive("b1")
}

func (f *faulty) quietOutboxes() {
	f.t.Helper()
	eventually(f.t, "outboxes are empty", patience, func() error {
		waiting, err := filepath.Glob(filepath.Join(f.dir, "b?", "outbox", "*.json"))
		if err != nil || len(waiting) > 0 {
			return fmt.Errorf("%d wait: %w", len(waiting), err)
		}
		return nil
	})
}

// load kills one after the other, and in the end all at once, while six send.
func (f *faulty) load() {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { f.leave(stop) })
	for i := range 6 {
		wg.Go(func() {
			pace := time.NewTicker(200 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-stop:
					return
				case <-pace.C:
					f.send(2525+i%2, nil)
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	for _, names := range [][]string{{"b1"}, {"mx1"}, {"mx2"}, {"b1", "mx1"}, {"mx2", "mx1", "b1"}} {
		f.mu.Lock()
		enough := len(f.acked) + 15 + rand.IntN(15)
		f.mu.Unlock()
		eventually(f.t, "mail flows", patience, func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.acked) < enough {
				return fmt.Errorf("%d were taken", len(f.acked))
			}
			return nil
		})
		for _, n := range names {
			f.kill(n)
		}
		f.revive(names...)
	}
}

// leave sends what leaves without a script.
func (f *faulty) leave(stop chan struct{}) {
	pace := time.NewTicker(200 * time.Millisecond)
	defer pace.Stop()
	bob := string(f.bob)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-pace.C:
		}
		own, club := fmt.Sprintf("own-%d-", i), fmt.Sprintf("club-%d-", i)
		if f.submitAs(f.t, bob, bob, []string{"member@outside.example"}, note(bob, "member@outside.example", own, "")) == nil {
			f.own = append(f.own, own)
		}
		if send(f.addr(2525+i%2), "writer@sender.example", []string{"club@example.test"}, note("writer@sender.example", "club@example.test", club, "")) == nil {
			f.club = append(f.club, club)
		}
	}
}

// checkLeft: all of it has left, and the alias's member here has it once.
func (f *faulty) checkLeft() {
	inbox, err := f.folder(f.bob, "INBOX")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Logf("%d submitted, %d sent to an alias", len(f.own), len(f.club))
	for _, subject := range slices.Concat(f.own, f.club) {
		out := f.world.mails(subject, "member@outside.example")
		if len(out) == 0 {
			f.t.Errorf("%s has not left", subject)
		} else {
			f.mayBeTwice(subject, out, false)
		}
	}
	for _, subject := range f.club {
		if n := len(inbox[subject]); n != 1 {
			f.t.Errorf("%s: filed %d times", subject, n)
		}
	}
}

func (f *faulty) check() {
	t := f.t
	f.checkLeft()
	filed, err := f.folder(f.ann, "Work")
	if err != nil {
		t.Fatal(err)
	}
	if inbox, err := f.folder(f.ann, "INBOX"); err != nil || len(inbox) > 0 {
		t.Errorf("in INBOX: %q, %v", slices.Collect(maps.Keys(inbox)), err)
	}
	t.Logf("%d sent: %d acknowledged, %d without an answer; %d filed; kills: %d of b1, %d of mx1, %d of mx2", f.sent, len(f.acked), len(f.silent),
		len(filed), len(f.kills["b1"]), len(f.kills["mx1"]), len(f.kills["mx2"]))
	by := map[string][]*outMail{}
	f.world.mu.Lock()
	for _, m := range f.world.got {
		by[m.to[0]+" "+m.from+" "+m.head.Get("Subject")] = append(by[m.to[0]+" "+m.from+" "+m.head.Get("Subject")], m)
	}
	f.world.mu.Unlock()
	twice := 0
	for n := 1; n <= f.sent; n++ {
		subject, from := fmt.Sprintf("fault-%d-", n), fmt.Sprintf("s%d@sender.example", n)
		copies := len(filed[subject])
		if f.acked[n] && copies != 1 || copies > 1 || copies > 0 && !f.acked[n] && !f.silent[n] {
			t.Errorf("%s: filed %d times; acknowledged: %v, without an answer: %v", subject, copies, f.acked[n], f.silent[n])
		}
		for what, out := range map[string][]*outMail{"redirect": by["archive@outside.example "+from+" "+subject], "reply": by[from+"  Away"]} {
			if (copies > 0) != (len(out) > 0) {
				t.Errorf("%s: filed %d times, %d of its %s", subject, copies, len(out), what)
			}
			if len(out) > 1 {
				twice++
				f.mayBeTwice(fmt.Sprintf("%s of %s", what, subject), out, f.calm[n])
			}
		}
	}
	t.Logf("%d messages left twice", twice)
}

// soon is how soon an mx has noted the smarthost's answer on its disk, and a
// backend has the mx's.
const soon = time.Second

// mayBeTwice: the same message came more than once. Each but the last was sent
// by an mx that was killed about when it was answered; or one of the two was, so
// that the backend, without its answer, has asked the other.
func (f *faulty) mayBeTwice(what string, out []*outMail, calm bool) {
	last := out[len(out)-1]
	for _, m := range out[:len(out)-1] {
		excused := m.by == last.by && f.died(m.by, m.at) || m.by != last.by && !calm && (f.died(m.by, m.at) || f.died(last.by, m.at) || f.died(last.by, last.at))
		if !excused || m.id != last.id {
			f.t.Errorf("%s left twice: at %s by %s as %s, and at %s by %s as %s", what, m.at.Format(time.TimeOnly+".000"), m.by, m.id,
				last.at.Format(time.TimeOnly+".000"), last.by, last.id)
		}
	}
}

// died tells whether an mx was killed at about that time.
func (f *faulty) died(mx string, at time.Time) bool {
	return slices.ContainsFunc(f.kills[strings.TrimSuffix(mx, ".example.test")], func(k time.Time) bool {
		return k.After(at.Add(-soon)) && k.Before(at.Add(soon))
	})
}
