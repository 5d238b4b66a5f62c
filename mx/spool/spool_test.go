package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waypost/director"
	"waypost/internal/durable"
	"waypost/mx/spool"
)

func open(t testing.TB, dir string, o spool.Options) *spool.Spool {
	t.Helper()
	s, err := spool.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func envelope(id string, users ...director.User) spool.Envelope {
	e := spool.Envelope{ID: id, Sender: "s@y.test", Received: time.Now(), Client: "192.0.2.1:9"}
	for _, u := range users {
		e.Recipients = append(e.Recipients, spool.Recipient{User: u, Home: "b1"})
	}
	return e
}

func add(t testing.TB, s *spool.Spool, e spool.Envelope, body string, delay time.Duration) {
	t.Helper()
	d := s.Draft()
	io.WriteString(d, body)
	if err := s.Add(d, e, delay); err != nil {
		t.Fatal(err)
	}
}

func message(t testing.TB, s *spool.Spool, id string) string {
	t.Helper()
	m, err := s.Message(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := io.ReadAll(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// files lists what is on disk, the lock excepted.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	for _, pat := range []string{"*/*", "*/.*"} {
		m, err := filepath.Glob(filepath.Join(dir, pat))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range m {
			rel, _ := filepath.Rel(dir, f)
			names = append(names, rel)
		}
	}
	return names
}

func TestSurvivesReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.Options{MemoryBytes: 10})
	small, large := "12345", string(bytes.Repeat([]byte("x\r\n"), 1000))
	add(t, s, envelope("a1", "u@x.test", "v@x.test"), small, time.Hour)
	add(t, s, envelope("a2", "u@x.test"), large, time.Hour)
	if _, err := spool.Open(dir, spool.Options{}); !errors.Is(err, durable.ErrLocked) {
		t.Fatalf("opened twice: %v", err)
	}
	s.Close()
	for _, litter := range []string{"tmp/draft-1", "queue/zz.msg", "queue/" + durable.TempPrefix + "1", "dead/yy.msg"} {
		if err := os.WriteFile(filepath.Join(dir, litter), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, spool.Options{})
	l := s.List()
	if len(l) != 2 || l[0].ID != "a1" || len(l[0].Recipients) != 2 || l[1].Size != int64(len(large)) || l[0].State != spool.Queued {
		t.Fatalf("%+v", l)
	}
	if message(t, s, "a1") != small || message(t, s, "a2") != large {
		t.Error("a message changed")
	}
	if f := files(t, dir); len(f) != 4 {
		t.Errorf("litter: %q", f)
	}
}

func TestUnreadableEntries(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, spool.Options{}).Close()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("queue/a.env", "{")
	write("queue/a.msg", "text")
	write("queue/b.env", `{"v":1,"id":"b","recipients":[{"user":"u@x"}]}`) // no message
	s := open(t, dir, spool.Options{})
	if len(s.List()) != 0 {
		t.Error("it read what cannot be read")
	}
	for _, f := range []string{"a.env", "a.msg", "b.env"} {
		if _, err := os.Stat(filepath.Join(dir, "bad", f)); err != nil {
			t.Error(err)
		}
	}
	s.Close()
	write("queue/c.env", `{"v":2,"id":"c","recipients":[{"user":"u@x"}]}`)
	write("queue/c.msg", "text")
	if _, err := spool.Open(dir, spool.Options{}); err == nil {
		t.Error("opened what a newer waypost wrote")
	}
}

func TestAddErrors(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.Options{MaxEntries: 1, MemoryBytes: 1})
	for _, e := range []spool.Envelope{envelope("../a", "u@x"), envelope("", "u@x"), envelope("a")} {
		if s.Add(s.Draft(), e, 0) == nil {
			t.Errorf("added %+v", e)
		}
	}
	add(t, s, envelope("a", "u@x"), "a", time.Hour)
	if err := s.Add(s.Draft(), envelope("b", "u@x"), 0); !errors.Is(err, spool.ErrFull) {
		t.Error(err)
	}
	if err := s.Drop("a"); err != nil {
		t.Fatal(err)
	}
	d := s.Draft()
	io.WriteString(d, "spilled")
	if !d.Spilled() {
		t.Error("not in a file")
	}
	os.RemoveAll(filepath.Join(dir, "queue"))
	if err := s.Add(d, envelope("c", "u@x"), 0); err == nil {
		t.Error("added without a folder")
	}
	os.RemoveAll(filepath.Join(dir, "tmp"))
	d = s.Draft()
	if _, err := io.WriteString(d, "spilled"); err == nil {
		t.Error("spilled without a folder")
	}
	if err := s.Add(d, envelope("c", "u@x"), 0); err == nil || len(s.List()) != 0 {
		t.Error("added a failed draft")
	}
}

// run starts the deliveries of s and gives each attempt to the test, which
// answers it.
type try struct {
	spool.Attempt
	result chan spool.Result
}

func run(t *testing.T, s *spool.Spool) (tries chan try, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	tries = make(chan try)
	var wg sync.WaitGroup
	wg.Go(func() {
		s.Run(ctx, func(ctx context.Context, a spool.Attempt) spool.Result {
			tr := try{a, make(chan spool.Result)}
			select {
			case tries <- tr:
				return <-tr.result
			case <-ctx.Done():
				return spool.Result{}
			}
		})
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return tries, stop
}

// TestSchedule runs on synthetic time.
func TestSchedule(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, spool.Options{MinBackoff: 10 * time.Second, MaxBackoff: time.Minute, WakeJitter: time.Second})
		tries, stop := run(t, s)
		defer stop()
		start := time.Now()
		add(t, s, envelope("a", "u@x.test", "v@x.test"), "body", 0)
		fail := func(home director.BackendID) spool.Result {
			return spool.Result{Later: map[director.User]spool.Later{"u@x.test": {Home: home, Error: "busy"}}}
		}
		waits := []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute}
		for i, want := range waits {
			tr := <-tries
			if w := time.Since(start); w < want*4/5 || w > want*6/5 {
				t.Errorf("attempt %d after %v, want about %v", i, w, want)
			}
			if tr.Attempts != i {
				t.Errorf("attempt %d says %d", i, tr.Attempts)
			}
			if i == 1 {
				res := fail("b2")
				res.Done = []director.User{"v@x.test"}
				tr.result <- res
			} else {
				tr.result <- fail("")
			}
			start = time.Now()
		}
		l := s.List()
		if len(l) != 1 || len(l[0].Recipients) != 1 || l[0].Recipients[0].Home != "b2" || l[0].Error != "busy" {
			t.Fatalf("%+v", l)
		}
		s.Wake("w@x.test") // another
		s.WakeHome("b1")
		s.Wake("u@x.test")
		tr := <-tries
		if w := time.Since(start); w > time.Second {
			t.Errorf("woken after %v", w)
		}
		s.Wake("u@x.test") // while it runs
		tr.result <- fail("")
		start = time.Now()
		tr = <-tries
		if w := time.Since(start); w > time.Second {
			t.Errorf("woken after %v", w)
		}
		if err := s.Drop("a"); !errors.Is(err, spool.ErrBusy) {
			t.Errorf("dropped while running: %v", err)
		}
		if err := s.Retry("a"); !errors.Is(err, spool.ErrBusy) {
			t.Errorf("retried while running: %v", err)
		}
		tr.result <- spool.Result{Soon: 3 * time.Second}
		start = time.Now()
		tr = <-tries
		if w := time.Since(start); w != 3*time.Second {
			t.Errorf("soon is %v", w)
		}
		tr.result <- fail("")
		s.WakeHome("b2")
		tr = <-tries
		tr.result <- spool.Result{Done: []director.User{"u@x.test"}}
		synctest.Wait()
		if l := s.List(); len(l) != 0 {
			t.Errorf("%+v", l)
		}
		if f := files(t, dir); len(f) != 0 {
			t.Errorf("left over: %q", f)
		}
	})
}

func TestHeld(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, spool.Options{})
		add(t, s, envelope("a", "u@x.test"), "body", 31*24*time.Hour)
		tries, stop := run(t, s)
		defer stop()
		<-time.After(40 * 24 * time.Hour) // of synthetic time
		if st := s.Stats(); st.Held != 1 || st.Queued != 0 {
			t.Fatalf("%+v", st)
		}
		s.Wake("u@x.test")
		<-time.After(time.Hour)
		select {
		case <-tries:
			t.Fatal("a held entry was tried by itself")
		default:
		}
		if err := s.Retry("a"); err != nil {
			t.Fatal(err)
		}
		tr := <-tries
		tr.result <- spool.Result{Later: map[director.User]spool.Later{"u@x.test": {Error: "no"}}}
		<-time.After(24 * time.Hour)
		if l := s.List(); l[0].State != spool.Held {
			t.Errorf("%+v", l)
		}
		if n := s.RetryUser("u@x.test"); n != 1 {
			t.Error(n)
		}
		(<-tries).result <- spool.Result{Done: []director.User{"u@x.test"}}
	})
}

func TestDead(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir, spool.Options{})
		tries, stop := run(t, s)
		defer stop()
		add(t, s, envelope("a", "u@x.test", "v@x.test", "w@x.test"), "body", 0)
		(<-tries).result <- spool.Result{Dead: map[director.User]string{"u@x.test": "gone"}}
		(<-tries).result <- spool.Result{Dead: map[director.User]string{"v@x.test": "gone too"}}
		synctest.Wait()
		l := s.List()
		if len(l) != 2 || l[0].State != spool.Dead || len(l[0].Recipients) != 2 || l[0].Recipients[1].Error != "gone too" ||
			len(l[1].Recipients) != 1 || l[1].Recipients[0].User != "w@x.test" {
			t.Fatalf("%+v", l)
		}
		stop()
		s.Close()
		s = open(t, dir, spool.Options{})
		if n := len(s.List()); n != 2 {
			t.Fatal(n)
		}
		if err := s.Retry("a"); err != nil { // merges with what is queued
			t.Fatal(err)
		}
		l = s.List()
		if len(l) != 1 || l[0].State != spool.Queued || len(l[0].Recipients) != 3 {
			t.Fatalf("%+v", l)
		}
		tries, stop = run(t, s)
		defer stop()
		tr := <-tries
		tr.result <- spool.Result{Done: []director.User{"w@x.test"}, Dead: map[director.User]string{"u@x.test": "", "v@x.test": ""}}
		synctest.Wait()
		if l := s.List(); len(l) != 1 || l[0].State != spool.Dead {
			t.Fatalf("%+v", l)
		}
		if message(t, s, "a") != "body" {
			t.Error("the message changed")
		}
		if err := s.Retry("a"); err != nil { // the queue has none
			t.Fatal(err)
		}
		(<-tries).result <- spool.Result{Dead: map[director.User]string{"u@x.test": "", "v@x.test": ""}}
		synctest.Wait()
		if err := s.Drop("a"); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{s.Drop("a"), s.Retry("a")} {
			if !errors.Is(err, spool.ErrNotFound) {
				t.Error(err)
			}
		}
		if f := files(t, dir); len(f) != 0 {
			t.Errorf("left over: %q", f)
		}
	})
}

// TestConcurrency: no more attempts at once than allowed, and none lost.
func TestConcurrency(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.Options{Concurrency: 3})
	for i := range 20 {
		add(t, s, envelope(fmt.Sprint("e", i), "u@x.test"), "b", 0)
	}
	var mu sync.Mutex
	now, peak := 0, 0
	done := make(chan bool, 20)
	full := make(chan bool)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		s.Run(ctx, func(context.Context, spool.Attempt) spool.Result {
			mu.Lock()
			now++
			peak = max(peak, now)
			if now == 3 && peak == 3 {
				select {
				case <-full:
				default:
					close(full)
				}
			}
			mu.Unlock()
			<-full
			mu.Lock()
			now--
			mu.Unlock()
			done <- true
			return spool.Result{Done: []director.User{"u@x.test"}}
		})
	})
	for range 20 {
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("stuck")
		}
	}
	cancel()
	wg.Wait()
	if peak != 3 || len(s.List()) != 0 {
		t.Errorf("%d at once, %d left", peak, len(s.List()))
	}
}
