package managesieve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/backend/link/linktest"
	"waypost/backend/mailbox"
	"waypost/backend/scripts"
	"waypost/internal/handoff"
)

// journey is a session that goes on from home to home: whenever it is fenced it is handed
// off, and taken on with the same scripts.
type journey struct {
	opt   Options
	store *scripts.Store
	// put, if not nil, is called before each Put.
	put func(stop int) error

	mu    sync.Mutex
	home  *home
	stops int
}

func (j *journey) next() *home {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.home != nil {
		j.stops++
	}
	j.home = &home{store: j.store, done: make(chan struct{})}
	return j.home
}

// fence lets the session go on at another home, and waits until it is there.
func (j *journey) fence(t *testing.T) {
	t.Helper()
	j.mu.Lock()
	n := j.stops
	close(j.home.done)
	j.mu.Unlock()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		j.mu.Lock()
		on := j.stops > n
		j.mu.Unlock()
		if on {
			return
		}
		select {
		case <-deadline:
			t.Fatal("the session stays")
		case <-tick.C:
		}
	}
}

func (j *journey) travel(server net.Conn) error {
	ses := Session{Client: "192.0.2.1:99", ID: "s1"}
	for {
		h := j.next()
		ses.Scripts = cut{h.scripts(), j}
		r, err := New(j.opt).Begin(ses)
		if err != nil {
			server.Close()
			return err
		}
		c := linktest.New(server)
		if err = r.Run(context.Background(), c); !errors.Is(err, ErrHandedOff) {
			return err
		}
		ses.State = c.State()
	}
}

// cut are scripts with a fence before Put.
type cut struct {
	Scripts
	j *journey
}

func (c cut) Put(name string, src []byte) error {
	if c.j.put != nil {
		if err := c.j.put(c.j.stops); err != nil {
			return err
		}
	}
	return c.Scripts.Put(name, src)
}

func (j *journey) begin(t *testing.T) *dialogue {
	t.Helper()
	j.opt = options()
	j.store = newHome(t, scripts.Limits{}).store
	client, server := linktest.Pair(t)
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client)}
	ended := make(chan error, 1)
	go func() { ended <- j.travel(server) }()
	d.end = sync.OnceValue(func() error { return <-ended })
	t.Cleanup(func() { client.Close(); d.end() })
	d.Play("C: NOOP\nS: OK \"Done.\"\n")
	return d
}

func TestHandOff(t *testing.T) {
	long := strings.Repeat("# a long script\r\n", 30_000)
	for _, tt := range []struct {
		name string
		said []string // with a fence behind each
		want string
		left string // the script "a"
	}{
		{"between commands", []string{"", "NOOP\r\n"}, "S: OK \"Done.\"", ""},
		{"in a line", []string{"NO", "O", "P\r\n"}, "S: OK \"Done.\"", ""},
		{"pipelined", []string{"PUTSCRIPT \"a\" \"keep;\"\r\nNOOP \"x\"\r\nNOO", "P\r\n"},
			"S: OK \"Script stored.\"\nS: OK (TAG \"x\") \"Done.\"\nS: OK \"Done.\"", "keep;"},
		{"in a literal", []string{"PUTSCRIPT \"a\" {7+}\r\nke", "ep", ";\r\n", "\r\n"}, "S: OK \"Script stored.\"", "keep;\r\n"},
		{"a literal in which there is a command", []string{"PUTSCRIPT \"a\" {8+}\r\nLO", "GOUT", "\r\n", "\r\nNOOP\r\n"}, "S: OK \"Script stored.\"\nS: OK \"Done.\"", "LOGOUT\r\n"},
		{"in the second literal", []string{"PUTSCRIPT {1+}\r\n", "a", " {5+}\r\nkeep", ";\r\n"}, "S: OK \"Script stored.\"", "keep;"},
		{"in a long literal", []string{fmt.Sprintf("PUTSCRIPT \"a\" {%d+}\r\n%s", len(long), long[:100_000]), long[100_000:300_000], long[300_000:], "\r\n"},
			"S: OK \"Script stored.\"", long},
		{"in a literal that is dropped", []string{"PUTSCRIPT {2000+}\r\n", strings.Repeat("x", 999), strings.Repeat("x", 1001) + " {5", "+}\r\nkeep;\r\n"},
			"S: NO (QUOTA/MAXSIZE) \"That is too long.\"", ""},
		{"in one that is dropped behind one that is not", []string{"RENAMESCRIPT {1+}\r\na {2000+}\r\nxx", strings.Repeat("x", 1000), strings.Repeat("x", 998), "\r\n"},
			"S: NO (QUOTA/MAXSIZE) \"That is too long.\"", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := &journey{}
			d := j.begin(t)
			for i, part := range tt.said {
				d.Send(part)
				if i < len(tt.said)-1 {
					j.fence(t)
				}
			}
			d.Play(tt.want + "\nC: LOGOUT\nS: OK \"Goodbye.\"\nEOF")
			if err := d.end(); err != nil {
				t.Error(err)
			}
			if got, err := j.store.Get("a"); string(got) != tt.left || (err != nil) != (tt.left == "") {
				t.Errorf("left %d bytes, want %d; %v", len(got), len(tt.left), err)
			}
		})
	}
}

// TestCutCommand: a command that the fence refuses is executed at the next home; one that failed
// otherwise, at that moment, is not.
func TestCutCommand(t *testing.T) {
	for _, fence := range []error{mailbox.ErrStale, mailbox.ErrFrozen, mailbox.ErrRefused, mailbox.ErrClosed} {
		j := &journey{put: func(stop int) error {
			if stop < 2 {
				return fence
			}
			return nil
		}}
		d := j.begin(t)
		d.Play("C: PUTSCRIPT \"a\" \"keep;\"\nC: LOGOUT\nS: OK \"Script stored.\"\nS: OK \"Goodbye.\"\nEOF")
		if err := d.end(); err != nil || j.stops != 2 {
			t.Errorf("%v: %v, %d stops", fence, err, j.stops)
		}
	}
	j := &journey{}
	j.put = func(int) error {
		close(j.home.done)
		return errors.New("input/output error")
	}
	d := j.begin(t)
	d.Play("C: PUTSCRIPT \"a\" \"keep;\"\nS: BYE (TRYLATER) \"The mailbox is away for a moment, connect again.\"\nEOF")
	if err := d.end(); !errors.Is(err, ErrMoved) || j.stops != 0 {
		t.Error(err, j.stops)
	}
}

func TestStateNotUnderstood(t *testing.T) {
	h := newHome(t, scripts.Limits{})
	good := (&state{user: ann, session: "s1", client: "c", bad: 1, commands: 2, silent: time.Minute, dropped: []int64{0, 5}, input: []byte("NOOP\r\n")}).encode()
	for _, body := range [][]byte{nil, {stateVersion + 1}, good[:1], good[:3], good[:len(good)-8]} {
		if _, err := New(options()).Begin(Session{Scripts: h.scripts(), State: handoff.Seal(handoff.NewID(), protocol, body)}); !isVersion(err) {
			t.Errorf("%q: %v", body, err)
		}
	}
	if _, err := New(options()).Begin(Session{Scripts: h.scripts(), State: []byte("x")}); !isVersion(err) {
		t.Error(err)
	}
	if _, err := New(options()).Begin(Session{Scripts: h.scripts(), State: handoff.Seal(handoff.NewID(), protocol, good)}); err != nil {
		t.Error(err)
	}
	other := (&state{user: "bob@example.test"}).encode()
	_, err := New(options()).Begin(Session{Scripts: h.scripts(), State: handoff.Seal(handoff.NewID(), protocol, other)})
	if r, _ := handoff.ReasonOf(err); r != handoff.Identity {
		t.Error(err)
	}
}

func isVersion(err error) bool {
	r, ok := handoff.ReasonOf(err)
	return ok && r == handoff.Version
}

// TestCheckpoint: a client that is silent has its session kept.
func TestCheckpoint(t *testing.T) {
	h := newHome(t, scripts.Limits{})
	client, server := linktest.Pair(t)
	client.SetDeadline(time.Now().Add(30 * time.Second))
	carry := linktest.New(server)
	srv := New(options())
	srv.checkpoints.After = 10 * time.Millisecond
	ctx, kill := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, carry, Session{Scripts: h.scripts(), ID: "s1"}) }()
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client)}
	d.Play("C: NOOP\nS: OK \"Done.\"\n")
	var last linktest.Checkpoint
	for last.Consumed == 0 {
		last = <-carry.Made
	}
	kill()
	if err := <-ended; !errors.Is(err, context.Canceled) || last.Consumed != 6 || last.Sent != 12 || carry.State() != nil {
		t.Errorf("%+v, %v", last, err)
	}
	if _, err := New(options()).Begin(Session{Scripts: h.scripts(), State: last.State}); err != nil {
		t.Error(err)
	}
}

// TestPoints: a client that was just answered has its session kept.
func TestPoints(t *testing.T) {
	h := newHome(t, scripts.Limits{})
	client, server := linktest.Pair(t)
	client.SetDeadline(time.Now().Add(30 * time.Second))
	carry := linktest.New(server)
	carry.Points = true
	ctx, kill := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- New(options()).Serve(ctx, carry, Session{Scripts: h.scripts(), ID: "s1"}) }()
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client)}
	for n := range uint64(3) {
		d.Play("C: NOOP\nS: OK \"Done.\"\n")
		p := <-carry.Made
		if p.Consumed != 6*(n+1) || p.Sent != 12*(n+1) {
			t.Errorf("%+v", p)
		}
		r, err := New(options()).Begin(Session{Scripts: h.scripts(), State: p.State})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.s.commands; got != int(n)+1 {
			t.Errorf("%d commands", got)
		}
	}
	kill()
	<-ended
}

func FuzzState(f *testing.F) {
	f.Add((&state{user: ann, session: "s1", client: "c", bad: 1, commands: 2, silent: time.Minute, dropped: []int64{0, 5}, input: []byte("NOOP\r\n")}).encode())
	f.Add((&state{}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := decodeState(b)
		if err != nil {
			if !isVersion(err) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeState(st.encode())
		if err != nil || !reflect.DeepEqual(again, st) || !bytes.Equal(again.input, st.input) {
			t.Fatalf("%+v\n%+v\n%v", st, again, err)
		}
	})
}
