package clustertest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"waypost/director"
)

func (p *proc) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// starve leaves a process about that many descriptors more than it has open. feed
// gives it back what it had.
func (p *proc) starve(t *testing.T, left int) (feed func()) {
	t.Helper()
	pid := p.pid()
	open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	low := before
	low.Cur = uint64(len(open) + left)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &low, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

// shortages counts the lines of a log that complain of descriptors.
func (p *proc) shortages(t *testing.T) int {
	t.Helper()
	log, err := os.ReadFile(p.logPath)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(log, []byte("too many open files"))
}

// crowd connects many times and says nothing; go closes all.
func crowd(t *testing.T, addr string, n int) (leave func()) {
	t.Helper()
	var conns []net.Conn
	for range n {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	return func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
}

var servesAt = regexp.MustCompile(`msg="backend serves".* address=(\S+)`)

// TestOutOfDescriptors: a backend, an mx and a proxy have no descriptors left, with
// constant mail and reading and a crowd at their ports. None ends, or spins at its
// listener; who comes waits, or is told to come again. With descriptors there again
// they go on as if nothing had been, and all that was acknowledged is there once.
func TestOutOfDescriptors(t *testing.T) {
	beside(t)
	c := newCluster(t)
	c.withUsers(0)
	var users []director.User
	for i := range 6 {
		users = append(users, c.user(t, fmt.Sprintf("u%d@example.test", i), pickHome(i)))
	}
	log, err := os.ReadFile(c.procs["b1"].logPath)
	m := servesAt.FindSubmatch(log)
	if err != nil || m == nil {
		t.Fatalf("no address of b1: %v", err)
	}
	l := startLoad(c, t, users)
	l.more(10)
	for _, victim := range []struct{ name, addr string }{
		{"b1", string(m[1])}, {"mx1", c.addr(2525)}, {"p1", c.addr(1143)},
	} {
		p := c.procs[victim.name]
		pid, reads := p.pid(), l.reads.Load()
		feed := p.starve(t, 0)
		began := time.Now()
		leave := crowd(t, victim.addr, 30)
		eventually(t, victim.name+" runs out of descriptors", patience, func() error {
			if p.shortages(t) == 0 || victim.name == "b1" && l.reads.Load() < reads+6 {
				return fmt.Errorf("%d complaints, %d reads", p.shortages(t), l.reads.Load()-reads)
			}
			return nil
		})
		for i := range 3 { // the rest of the cluster serves
			if err := send(c.addr(2526), "s@example.org", []string{string(users[i])}, messageFor("beside "+victim.name+strconv.Itoa(i))); err != nil {
				t.Errorf("while %s has no descriptors: %v", victim.name, err)
			}
		}
		// A listener that spins complains some ten thousand times a second.
		if n, took := p.shortages(t), time.Since(began); n > 100+100*int(took.Seconds()) {
			t.Errorf("%s complains %d times within %s", victim.name, n, took)
		}
		feed()
		leave()
		l.more(10)
		for i, u := range l.users {
			eventually(t, fmt.Sprintf("%s reads after %s", u.name, victim.name), patience, func() error { return u.lookIMAP(c.addr(1143 + i%2)) })
		}
		if p.pid() != pid || unix.Kill(pid, 0) != nil {
			t.Errorf("%s has ended", victim.name)
		}
		t.Logf("%s: %d complaints, %d reads, %s", victim.name, p.shortages(t), l.reads.Load()-reads, time.Since(began).Round(time.Millisecond))
	}
	c.spoolStarves(t, users[0])
	l.end()
	if !t.Failed() {
		l.settled(patience)
		l.check()
	}
}

// spoolStarves: a message's home is away, and the mx has no descriptor left to keep
// it with when it has come half: the sender is to send it again, and so it does. Where one of the
// load's connections ends just then, there is a descriptor again, and the message is kept.
func (c *testCluster) spoolStarves(t *testing.T, u director.User) {
	t.Helper()
	c.procs["b1"].kill()
	mx := c.procs["mx1"]
	var subjects []string
	for try := range 10 {
		subjects = append(subjects, fmt.Sprint("starved ", try))
		text := messageFor(subjects[try])
		var feed, leave func()
		err := sendWithin(c.addr(2525), "s@example.org", string(u), text, func() {
			before := mx.shortages(t)
			feed = mx.starve(t, 0)
			leave = crowd(t, c.addr(2525), 10)
			eventually(t, "mx1 runs out of descriptors", patience, func() error {
				if mx.shortages(t) == before {
					return errors.New("no complaint")
				}
				return nil
			})
		})
		if feed != nil {
			feed()
			leave()
		}
		if err == nil {
			continue
		}
		if feed == nil || !errors.Is(err, errAnswered) || permanent(err) {
			t.Errorf("a message that cannot be kept: %v", err)
		}
		if err := send(c.addr(2525), "s@example.org", []string{string(u)}, text); err != nil {
			t.Errorf("with descriptors again: %v", err)
		}
		c.revive(t, "b1")
		c.arrive(t, u, subjects)
		return
	}
	t.Error("the mx kept ten messages without a descriptor")
}

// arrive waits until each of these messages, all of which were acknowledged, is in INBOX, and sees
// that none is there twice.
func (c *testCluster) arrive(t *testing.T, u director.User, subjects []string) {
	t.Helper()
	eventually(t, "what waited arrives", patience, func() error {
		s, err := readIMAP(c.addr(1143), u, "INBOX", true)
		if err != nil {
			return err
		}
		times := make(map[string]int)
		for _, m := range s.msgs {
			times[subjectOf(m.body)]++
		}
		for _, subject := range subjects {
			switch times[subject] {
			case 0:
				return fmt.Errorf("%q is not there", subject)
			case 1:
			default:
				t.Fatalf("%q is there %d times", subject, times[subject])
			}
		}
		return nil
	})
}
