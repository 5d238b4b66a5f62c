package carry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/internal/handoff"
	"waypost/internal/wire"
)

// steps note what is done, and fail where they are told to.
type steps struct {
	done       []string
	fails      map[string]error
	x          Session
	former     *Session
	acceptedIt bool
}

func (s *steps) step(what string) error {
	s.done = append(s.done, what)
	return s.fails[what]
}

func (s *steps) Open() error { return s.step("open") }

func (s *steps) Register() (x, former *Session, err error) {
	return &s.x, s.former, s.step("register")
}

func (s *steps) Speak() error   { return s.step("speak") }
func (s *steps) Welcome() error { return s.step("welcome") }

func (s *steps) Accept(handoff.ID) (bool, error) { return !s.acceptedIt, s.step("accept") }

// TestBegin: the order, where it stops, and what is answered.
func TestBegin(t *testing.T) {
	strict := handoff.Seal(handoff.NewID(), "imap", []byte("body"))
	quiet := handoff.Seal(handoff.NewQuietID(), "imap", []byte("body"))
	lost := errors.New("connection lost")
	for _, c := range []struct {
		name       string
		state      []byte
		fails      map[string]error
		id         string
		user       director.User // the former's; empty: there is none
		try, later uint64        // later: the former's
		accepted   bool
		done       string
		status     wire.Status // empty: begun, or lost
		text       string
	}{
		{name: "new", done: "open register speak welcome"},
		{name: "strict", state: strict, done: "open register speak accept welcome"},
		{name: "quiet", state: quiet, done: "open register speak welcome"},
		{name: "no state", state: []byte("x"), status: wire.StatusUnresumable},
		{name: "of POP3", state: handoff.Seal(handoff.NewID(), "pop3", nil), status: wire.StatusUnresumable},
		{name: "too early", state: strict, fails: map[string]error{"open": fmt.Errorf("open: %w", mailbox.ErrFrozen)}, done: "open", status: wire.StatusBusy},
		{name: "wrong place", state: strict, fails: map[string]error{"open": mailbox.ErrStale}, done: "open", status: wire.StatusStale},
		{name: "too many", fails: map[string]error{"register": errors.New("too many")}, done: "open register", status: wire.StatusRefused, text: "refused: too many"},
		{name: "not proven", state: strict, fails: map[string]error{"speak": &handoff.Error{Reason: handoff.Unproven}}, done: "open register speak",
			status: wire.StatusUnresumable, text: string(handoff.Unproven)},
		{name: "in use", fails: map[string]error{"speak": &Refused{Status: wire.StatusInUse, Err: lost}}, done: "open register speak", status: wire.StatusInUse},
		{name: "not accepted", state: strict, fails: map[string]error{"accept": lost}, done: "open register speak accept", status: wire.StatusRefused},
		{name: "twice", state: strict, accepted: true, done: "open register speak accept", status: wire.StatusUnresumable, text: string(handoff.Twice)},
		{name: "lost", fails: map[string]error{"welcome": lost}, done: "open register speak welcome"},
		{name: "former", state: quiet, id: "s", user: "a", try: 2, later: 1, done: "open register end speak welcome"},
		{name: "its own try again", id: "s", user: "a", try: 2, later: 2, done: "open register end speak welcome"},
		{name: "late", state: quiet, id: "s", user: "a", try: 2, later: 3, done: "open register", status: wire.StatusRefused, text: "refused: " + ErrOvertaken.Error()},
		{name: "without tries", state: quiet, id: "s", user: "a", later: 3, done: "open register end speak welcome"},
		{name: "another's", state: quiet, id: "s", user: "b", try: 2, later: 3, done: "open register speak welcome"},
		{name: "without an id", user: "a", try: 2, later: 1, done: "open register speak welcome"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &steps{fails: c.fails, acceptedIt: c.accepted, x: Session{ID: c.id, User: "a", Try: c.try}}
			if c.user != "" {
				s.former = &Session{ID: c.id, User: c.user, Try: c.later, End: func(why error) {
					if why != handoff.ErrKicked {
						t.Errorf("ended by %v", why)
					}
					s.done = append(s.done, "end")
				}}
			}
			err := Begin("imap", c.state, s)
			if got := strings.Join(s.done, " "); got != c.done {
				t.Errorf("done: %s", got)
			}
			var refused *Refused
			switch is := errors.As(err, &refused); {
			case is != (c.status != ""), !is && err != c.fails["welcome"]:
				t.Errorf("answer: %v", err)
			case is:
				if w := refused.Welcome(); w.Status != c.status || c.text != "" && w.Text != c.text {
					t.Errorf("answer: %+v", w)
				}
			}
		})
	}
}

// TestNames: one that was refused leaves the id to who had it, one that ended does not.
func TestNames(t *testing.T) {
	n := Names{}
	var all []*Session
	for range 3 {
		all = append(all, &Session{ID: "s", End: func(error) {}})
	}
	a, b, c := all[0], all[1], all[2]
	if got := []*Session{n.Add(a), n.Add(b)}; !slices.Equal(got, []*Session{nil, a}) {
		t.Fatal(got)
	}
	n.Remove(b)
	if got := n.Add(c); got != a {
		t.Errorf("behind one that was refused comes %v", got)
	}
	n.Remove(a)
	n.Remove(c)
	if len(n) != 0 {
		t.Errorf("left: %v", n)
	}
}

// TestLateTry: a try that comes late does not hide a newer one from the next.
func TestLateTry(t *testing.T) {
	n := Names{}
	session := func(try uint64) *Session { return &Session{ID: "s", Try: try, End: func(error) {}} }
	newer, late, next := session(2), session(1), session(3)
	n.Add(newer)
	if got := n.Add(late); got != newer || !errors.Is(late.endFormer(got), ErrOvertaken) {
		t.Errorf("the late try comes behind %v", got)
	}
	if got := n.Add(next); got != newer || next.endFormer(got) != nil {
		t.Errorf("the next try comes behind %v", got)
	}
	n.Remove(late)
	n.Remove(newer)
	if n["s"] != next {
		t.Error("the next try is not known")
	}
	n.Remove(next)
	if len(n) != 0 {
		t.Errorf("left: %v", n)
	}
}
