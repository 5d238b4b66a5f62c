package pop3

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"
	"time"

	"waypost/backend/link/linktest"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/internal/handoff"
)

// TestNotCarried: what cannot go on is told by its reason.
func TestNotCarried(t *testing.T) {
	handed := func(t *testing.T, store *memory.Store) []byte {
		t.Helper()
		c, server := linktest.Pair(t)
		c.SetDeadline(time.Now().Add(30 * time.Second))
		carry := linktest.New(server)
		box := open(t, store, 7)
		ended := make(chan error, 1)
		go func() {
			ended <- New(Options{}).Serve(context.Background(), carry, Session{Box: box, ID: "s1"})
		}()
		io.WriteString(c, "DELE 1\r\n")
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			t.Fatal(line, err)
		}
		store.Freeze(ann)
		if err := <-ended; !errors.Is(err, ErrHandedOff) {
			t.Fatal(err)
		}
		store.Serve(ann, "b1", 9)
		return carry.State()
	}
	changed := func(t *testing.T, sealed []byte, change func(*state)) []byte {
		t.Helper()
		_, body, err := handoff.Open(sealed, protocol)
		if err != nil {
			t.Fatal(err)
		}
		st, err := decodeState(body)
		if err != nil {
			t.Fatal(err)
		}
		change(st)
		return handoff.Seal(handoff.NewID(), protocol, st.encode())
	}
	for _, tt := range []struct {
		name   string
		reason handoff.Reason
		store  func(*memory.Store)
		state  func(*state)
	}{
		{"numbered anew", handoff.Identity, func(s *memory.Store) { s.Renumber(ann, mailbox.Inbox) }, nil},
		{"another user", handoff.Identity, nil, func(st *state) { st.user = "bob@example.test" }},
		{"another folder", handoff.Identity, nil, func(st *state) { st.folder += "x" }},
		{"another size", handoff.Identity, nil, func(st *state) { st.messages[1].size++ }},
		{"UIDNEXT shrank", handoff.Rewound, nil, func(st *state) { st.next++ }},
		{"HIGHESTMODSEQ shrank", handoff.Rewound, nil, func(st *state) { st.modseq++ }},
		{"a message never seen", handoff.UnknownMessages, nil, func(st *state) {
			st.messages = append(st.messages, told{uid: 99, size: 1, id: "x"})
		}},
		{"nothing", "", nil, func(*state) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := drop(t, m1, m2)
			sealed := handed(t, store)
			if tt.store != nil {
				tt.store(store)
			}
			if tt.state != nil {
				sealed = changed(t, sealed, tt.state)
			}
			_, err := New(Options{}).Begin(Session{Box: open(t, store, 9), State: sealed})
			if got, _ := handoff.ReasonOf(err); got != tt.reason {
				t.Errorf("%v, want %q", err, tt.reason)
			}
		})
	}
	store := drop(t, m1, m2)
	sealed := handed(t, store)
	for _, bad := range [][]byte{{}, sealed[:len(sealed)-1], handoff.Seal(handoff.NewID(), "imap", []byte{1}), handoff.Seal(handoff.NewID(), protocol, nil),
		handoff.Seal(handoff.NewID(), protocol, []byte{stateVersion + 1})} {
		_, err := New(Options{}).Begin(Session{Box: open(t, store, 9), State: bad})
		if got, _ := handoff.ReasonOf(err); got != handoff.Version {
			t.Errorf("%v", err)
		}
	}
	// The fence may leave between the opening and the look: that is no reason.
	box := open(t, store, 9)
	store.Freeze(ann)
	if _, err := New(Options{}).Begin(Session{Box: box, State: sealed}); !errors.Is(err, mailbox.ErrFrozen) {
		t.Error(err)
	}
}

func FuzzState(f *testing.F) {
	full := state{
		user: ann, session: "s1", client: "192.0.2.1:99", utf8: true, login: []string{"USER", "STLS"}, folder: "guid", validity: 1 << 31, next: 1000, modseq: 1 << 40,
		messages: []told{{1, 100, "1700000000.M1P1.host"}, {7, 0, "1700000001.M1P1.host"}, {1 << 31, 1 << 40, "x"}}, deleted: []int{0, 2}, unseen: []int{1},
		bad: 3, retrieved: 4, silent: time.Minute, from: 2, input: []byte("QUIT\r\n"),
	}
	f.Add(full.encode())
	f.Add((&state{}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := decodeState(b)
		if err != nil {
			if _, ok := handoff.ReasonOf(err); !ok {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeState(st.encode())
		if err != nil || !reflect.DeepEqual(again, st) {
			t.Fatalf("%+v\n%+v\n%v", st, again, err)
		}
	})
	if st, err := decodeState(full.encode()); err != nil || !reflect.DeepEqual(st, &full) {
		f.Errorf("%+v, %v", st, err)
	}
}

// TestBigState: a maildrop of a hundred thousand messages fits.
func TestBigState(t *testing.T) {
	st := state{session: "s", folder: "f"}
	for i := range 100_000 {
		st.messages = append(st.messages, told{mailbox.UID(i + 1), int64(1000 + i%5000), fmt.Sprintf("%d.%016x.host.example", 1_700_000_000+i*61, uint64(i)*0x9e3779b97f4a7c15)})
	}
	if n := len(st.encode()); n > 3<<20 {
		t.Errorf("%d bytes", n)
	}
}
