package relay

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"waypost/mx/spool"
	"waypost/mx/spool/entries"
)

// kill opens what is on disk as if the process had died at this moment, and
// gives a rig on a copy of it.
func (r *rig) kill() *rig {
	r.t.Helper()
	dir := r.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(r.dir)); err != nil {
		r.t.Fatal(err)
	}
	k := &rig{t: r.t, h: newSmarthost(r.t, r.h.script()), dir: dir, cfg: r.cfg, logs: &logBuffer{}, resolve: r.resolve}
	k.open()
	r.t.Cleanup(k.close)
	return k
}

// TestCrash_taking: an entry is there from the moment it is answered for, and
// before that it is nothing.
func TestCrash_taking(t *testing.T) {
	r := newRig(t, script{}, nil)
	d := r.q.Draft()
	defer d.Discard()
	io.WriteString(d, testBody)
	if k := r.kill(); len(k.q.List()) != 0 {
		t.Error("a draft is an entry")
	}
	e := envelope("id1", "a@out.test")
	res, err := r.q.Reserve(d, e)
	if err != nil {
		t.Fatal(err)
	}
	k := r.kill()
	if l := k.q.List(); len(l) != 1 || l[0].ID != "id1" {
		t.Fatalf("%+v", l)
	}
	k.run()
	k.eventually("sent", func() bool { return len(k.q.List()) == 0 })
	if g := k.h.got(); g[0].body != testBody {
		t.Errorf("%+v", g)
	}
	if err := res.Cancel(); err != nil {
		t.Fatal(err)
	}
	if k := r.kill(); len(k.q.List()) != 0 {
		t.Error("a cancelled one is there")
	}
	// One draft may be put again, and each has its own copy.
	r.add(e)
	if err := r.q.Add(d, envelope("id2", "a@out.test")); err != nil {
		t.Fatal(err)
	}
	d.Discard()
	litter := filepath.Join(r.dir, "relay", "queue", "id3.msg")
	if err := os.WriteFile(litter, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(r.dir, "relay", "queue", "id4.env")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	k = r.kill()
	if l := k.q.List(); len(l) != 2 {
		t.Errorf("%+v", l)
	}
	if _, err := os.Stat(filepath.Join(k.dir, "relay", "queue", "id3.msg")); err == nil {
		t.Error("litter stays")
	}
	if _, err := os.Stat(filepath.Join(k.dir, "relay", "bad", "id4.env")); err != nil {
		t.Error("a broken one is not put aside")
	}
}

// TestCrash_ending: a process that dies between two steps of the end does them
// again without harm.
func TestCrash_ending(t *testing.T) {
	t.Run("the id is remembered, the entry still there", func(t *testing.T) {
		r := newRig(t, script{}, nil)
		e := envelope("id1", "a@out.test")
		e.Remember = true
		r.add(e)
		if err := r.q.done.add("id1", e.Received); err != nil {
			t.Fatal(err)
		}
		k := r.kill()
		if l := k.q.List(); len(l) != 0 || !k.q.Known("id1") {
			t.Errorf("%+v", l)
		}
	})
	t.Run("dead, and still in the queue", func(t *testing.T) {
		r := newRig(t, script{rcpt: func(string) string { return "550 5.1.1 no" }}, nil)
		e := envelope("id1", "a@out.test", "b@out.test")
		e.Kind, e.User, e.Reports, e.Remember = Forward, "", false, true
		r.add(e)
		one := e
		one.Version, one.Recipients = envelopeVersion, e.Recipients[:1]
		if err := r.q.store.Copy(entries.Queue, entries.Dead, "id1", one); err != nil {
			t.Fatal(err)
		}
		k := r.kill()
		k.run()
		k.eventually("dead", func() bool { l := k.q.List(); return len(l) == 1 && l[0].State == Dead && len(l[0].Recipients) == 2 })
		// It has ended, and is back by the operator's hand: that outlives a crash.
		if err := k.q.Retry("id1"); err != nil {
			t.Fatal(err)
		}
		k.close()
		k.h.set(func() { k.h.sc.rcpt = nil })
		k.open()
		if l := k.q.List(); len(l) != 1 {
			t.Fatalf("%+v", l)
		}
	})
	t.Run("spooled, and still in the queue", func(t *testing.T) {
		r := newRig(t, script{}, nil)
		r.add(envelope("id1", "u1@x.test"))
		a := &attempt{q: r.q, env: r.q.List()[0].Envelope, log: r.q.log}
		if err := a.deliver([]spool.Recipient{{User: "u1@x.test"}}); err != nil {
			t.Fatal(err)
		}
		k := r.kill()
		k.run()
		k.eventually("ended", func() bool { return len(k.q.List()) == 0 })
		if s := k.spooled(); len(s) != 1 || s[0].body != testBody {
			t.Errorf("%+v", s)
		}
	})
	t.Run("reported, and still in the queue", func(t *testing.T) {
		r := newRig(t, script{rcpt: func(string) string { return "550 5.1.1 no" }}, nil)
		r.add(envelope("id1", "a@out.test"))
		a := &attempt{q: r.q, env: r.q.List()[0].Envelope, log: r.q.log}
		if err := a.report(actionFailed, []reported{{a.env.Recipients[0], outcome{status: "5.1.1"}}}); err != nil {
			t.Fatal(err)
		}
		k := r.kill()
		k.run()
		k.eventually("ended", func() bool { return len(k.q.List()) == 0 })
		if s := k.spooled(); len(s) != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestCrash_batch: what a batch has sent is not sent again when the process
// dies in the next one.
func TestCrash_batch(t *testing.T) {
	r := newRig(t, script{}, func(c *Config) { c.BatchRecipients, c.MaxConnections = 1, 1 })
	var k *rig
	r.h.set(func() {
		r.h.sc.end = func(g got) string {
			if strings.Contains(g.rcpts[0], "<b@") && k == nil {
				k = r.kill()
			}
			return "250 2.0.0 ok"
		}
	})
	r.add(envelope("id1", "a@out.test", "b@out.test", "c@out.test"))
	r.run()
	r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
	if l := k.q.List(); len(l) != 1 || len(l[0].Recipients) != 2 || l[0].Recipients[0].To != "b@out.test" {
		t.Errorf("%+v", l)
	}
}

// TestDiskFull: what cannot be written down is kept in memory, is not done
// twice, and is written when that is possible again.
func TestDiskFull(t *testing.T) {
	r := newRig(t, script{}, nil)
	e := envelope("id1", "a@out.test")
	e.Remember = true
	r.add(e)
	done := filepath.Join(r.dir, "relay", "done")
	if err := os.Rename(done, done+"-away"); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.eventually("tried", func() bool { l := r.q.List(); return len(l) == 1 && l[0].Attempts == 1 })
	if err := os.Rename(done+"-away", done); err != nil {
		t.Fatal(err)
	}
	if err := r.q.Retry("id1"); err != nil {
		t.Fatal(err)
	}
	r.eventually("ended", func() bool { return len(r.q.List()) == 0 })
	if n := len(r.h.got()); n != 1 {
		t.Errorf("sent %d times", n)
	}
	if k := r.kill(); len(k.q.List()) != 0 || !k.q.Known("id1") {
		t.Errorf("%+v", k.q.List())
	}
}
