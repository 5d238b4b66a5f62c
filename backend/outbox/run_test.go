package outbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waypost/director"
	"waypost/internal/vfs"
)

func (m *mx) send(_ context.Context, e Entry, message vfs.File) error {
	if err := m.refuse[e.ID]; err != nil {
		return err
	}
	data, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	if string(data) != text(e.ID) {
		m.t.Errorf("%s was sent torn: %.100q", e.ID, data)
	}
	m.sent[e.ID]++
	return nil
}

func (m *mx) sender(b *Box) *sender {
	return &sender{box: b, send: m.send, log: slog.New(slog.NewTextHandler(&m.log, nil)), failed: map[string]bool{}}
}

// running is a Run whose Send a test answers.
type running struct {
	mu     sync.Mutex
	answer func(Entry) error
	tries  []string
	log    strings.Builder
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *running) took() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := strings.Join(r.tries, " ")
	r.tries = nil
	return out
}

func (r *running) set(answer func(Entry) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// start runs b within a synctest bubble.
func start(t *testing.T, b *Box, answer func(Entry) error) *running {
	t.Helper()
	r := &running{answer: answer}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.Run(ctx, func(_ context.Context, e Entry, _ vfs.File) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.tries = append(r.tries, e.ID)
			return r.answer(e)
		}, slog.New(slog.NewTextHandler(r, nil)))
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return r
}

// after lets time pass and gives what was tried in it.
func (r *running) after(d time.Duration) string {
	<-time.After(d)
	synctest.Wait()
	return r.took()
}

func yes(Entry) error { return nil }

func TestRunSendsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFS(t, 1)
		b := open(t, f)
		var want []string
		for i := range 20 {
			id := fmt.Sprint(i)
			must(t, put(f, b, id))
			want = append(want, id)
			<-time.After(time.Millisecond)
		}
		r := start(t, b, yes)
		if got := r.after(0); got != strings.Join(want, " ") || b.Waiting() != 0 || len(names(t, f)) != 0 {
			t.Errorf("sent %s, %d wait", got, b.Waiting())
		}
		must(t, put(f, b, "new"))
		if got := r.after(0); got != "new" {
			t.Errorf("sent %q", got)
		}
		if got := r.after(time.Hour); got != "" {
			t.Errorf("an hour later %q is sent", got)
		}
	})
}

// While no mx takes anything few are asked for, ever more rarely; then all goes.
func TestRunWhileNoMXIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFS(t, 1)
		b := open(t, f)
		for i := range 10 {
			must(t, putFor(f, b, director.User(fmt.Sprintf("u%d@example.test", i)), fmt.Sprint(i)))
			<-time.After(time.Millisecond)
		}
		r := start(t, b, func(Entry) error { return errors.New("no mx is alive") })
		if got := r.after(0); got != "0 1 2" {
			t.Errorf("tried %q", got)
		}
		must(t, put(f, b, "new"))
		if got := r.after(0); got != "" {
			t.Errorf("tried %q at once", got)
		}
		if got := r.after(firstPause); got != "3 4 5" {
			t.Errorf("tried %q", got)
		}
		if got := len(strings.Fields(r.after(time.Hour))); got < 100 || got > 250 {
			t.Errorf("%d tries in an hour", got)
		}
		r.set(yes)
		if got := len(strings.Fields(r.after(lastPause))); got != 11 || b.Waiting() != 0 {
			t.Errorf("%d were sent, %d wait", got, b.Waiting())
		}
	})
}

// A user who may not send now does not hold up the others.
func TestRunWithALimitedUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFS(t, 1)
		b := open(t, f)
		for i := range 10 {
			must(t, put(f, b, fmt.Sprintf("a%d", i)))
			<-time.After(time.Millisecond)
		}
		must(t, putFor(f, b, "bea@example.test", "b1"))
		r := start(t, b, func(e Entry) error {
			if e.User == ann {
				return errors.New("limited")
			}
			return nil
		})
		if got := r.after(0); got != "a0 b1" {
			t.Errorf("tried %q", got)
		}
		must(t, putFor(f, b, "bea@example.test", "b2"))
		if got := r.after(0); got != "b2" {
			t.Errorf("tried %q", got)
		}
		r.set(yes)
		if got := r.after(2 * firstPause); len(strings.Fields(got)) != 10 || b.Waiting() != 0 {
			t.Errorf("sent %q", got)
		}
	})
}

// What is refused for good is set aside, told, and can be tried again by hand.
func TestRunSetsAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFS(t, 1)
		b := open(t, f)
		for _, id := range []string{"1", "2", "3"} {
			must(t, put(f, b, id))
			<-time.After(time.Millisecond)
		}
		must(t, vfs.ReplaceFile(f, dir+"/"+key(ann, "3")+envelopeSuffix, []byte("nonsense"), 0o600))
		must(t, vfs.ReplaceFile(f, dir+"/lonely"+envelopeSuffix, []byte("{}"), 0o600))
		must(t, vfs.ReplaceFile(f, dir+"/huge"+envelopeSuffix, make([]byte, maxEnvelope+1), 0o600))
		r := start(t, b, func(e Entry) error {
			if e.ID == "1" {
				return fmt.Errorf("%w: loop", ErrRefused)
			}
			return nil
		})
		if got := r.after(0); got != "1 2" || b.Waiting() != 0 || b.Refused() != 4 {
			t.Errorf("tried %q, %d wait, %d are refused\n%s", got, b.Waiting(), b.Refused(), &r.log)
		}
		if log := r.log.String(); strings.Count(log, "level=ERROR") != 4 || !strings.Contains(log, key(ann, "1")) {
			t.Errorf("%s", log)
		}
		r.set(yes)
		must(t, f.Rename(dir+"/"+key(ann, "1")+refusedSuffix, dir+"/"+key(ann, "1")+envelopeSuffix))
		must(t, put(f, b, "4")) // any round will do
		got := strings.Fields(r.after(0))
		if slices.Sort(got); strings.Join(got, " ") != "1 4" || b.Refused() != 3 {
			t.Errorf("tried %q, %d are refused", got, b.Refused())
		}
	})
}

// A Send that hangs is given up, and ends with Run.
func TestRunWithASlowMX(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFS(t, 1)
		b := open(t, f)
		must(t, put(f, b, "1"))
		ctx, cancel := context.WithCancel(t.Context())
		tries, ended := make(chan error, 10), make(chan struct{})
		var log strings.Builder
		go func() {
			defer close(ended)
			b.Run(ctx, func(ctx context.Context, _ Entry, _ vfs.File) error {
				<-ctx.Done()
				tries <- ctx.Err()
				return ctx.Err()
			}, slog.New(slog.NewTextHandler(&log, nil)))
		}()
		begin := time.Now()
		if err := <-tries; !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != sendTimeout {
			t.Errorf("given up after %v with %v", time.Since(begin), err)
		}
		<-time.After(2 * firstPause) // the second try is under way
		cancel()
		<-ended
		if err := <-tries; !errors.Is(err, context.Canceled) || b.Waiting() != 1 || strings.Count(log.String(), "waits") != 1 {
			t.Errorf("%v, %d wait\n%s", err, b.Waiting(), &log)
		}
	})
}

// An entry that an operator takes away is gone, and the folder may fail.
func TestRunWithAnOperator(t *testing.T) {
	f := newFS(t, 1)
	b := open(t, f)
	must(t, put(f, b, "1"))
	must(t, put(f, b, "2"))
	m := mx{t: t, sent: map[string]int{}, refuse: map[string]error{"1": errors.New("later"), "2": errors.New("later")}}
	s := m.sender(b)
	s.round(t.Context(), true)
	must(t, f.Remove(dir+"/"+key(ann, "1")+envelopeSuffix))
	m.refuse = nil
	s.round(t.Context(), true)
	if len(m.sent) != 1 || m.sent["2"] != 1 || b.Waiting() != 0 || len(s.failed) != 1 {
		t.Errorf("sent %v, %d wait", m.sent, b.Waiting())
	}
	must(t, f.RemoveAll(dir))
	if s.round(t.Context(), true); !s.stuck || !strings.Contains(m.log.String(), "not readable") {
		t.Errorf("%s", &m.log)
	}
}

// Users deliver while entries are sent.
func TestConcurrentUse(t *testing.T) {
	f := newFS(t, 1)
	b := open(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	sent := make(chan string, 200)
	var all, run sync.WaitGroup
	run.Go(func() {
		b.Run(ctx, func(_ context.Context, e Entry, _ vfs.File) error { sent <- e.ID; return nil }, slog.New(slog.DiscardHandler))
	})
	for u := range 4 {
		all.Go(func() {
			for i := range 25 {
				if err := putFor(f, b, director.User(fmt.Sprintf("u%d@example.test", u)), fmt.Sprintf("%d.%d", u, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for len(seen) < 100 {
		select {
		case id := <-sent:
			if seen[id] {
				t.Errorf("%s was sent twice", id)
			}
			seen[id] = true
		case <-time.After(30 * time.Second):
			t.Fatalf("only %d were sent", len(seen))
		}
	}
	cancel()
	run.Wait()
	if b.Waiting() != 0 || len(names(t, f)) != 0 {
		t.Errorf("%d wait, %v are left", b.Waiting(), names(t, f))
	}
}
