package maildir

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

// crashEnv tells a process that it is the one to be killed, and its mailbox.
const crashEnv = "WAYPOST_TEST_CRASH"

// flagSet: the number of checks was asked for. tctx is the context of tests that
// have no other.
var (
	flagSet bool
	tctx    = context.Background()
)

func TestMain(m *testing.M) {
	if base := os.Getenv(crashEnv); base != "" {
		if err := victim(base); err != nil {
			fmt.Fprintln(os.Stderr, "victim:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	flag.Visit(func(f *flag.Flag) { flagSet = flagSet || f.Name == "rapid.checks" })
	if !flagSet {
		// Each check syncs some hundred times.
		_ = flag.Set("rapid.checks", "15")
	}
	os.Exit(m.Run())
}

// victim works on a mailbox until it is killed. Before each change it writes a
// line with a capital, after it the same with a small letter. A message is
// known by its size, which is its id plus one.
func victim(base string) error {
	first, _ := strconv.Atoi(os.Getenv(crashEnv + "_FIRST"))
	rng := rand.New(rand.NewPCG(uint64(first), 7))
	log := slog.New(slog.DiscardHandler)
	j, stager, err := bootJournal(vfs.OS, base, 1<<20, nil, log, testUser)
	if err != nil {
		return err
	}
	a, err := Open(Options{
		FS: vfs.OS, Journal: j, User: testUser,
		Root: filepath.Join(base, "user"), Guard: &guard{}, Limit: func() mailbox.Limit { return mailbox.Limit{} },
		Log: log, Now: time.Now, Host: "victim", Views: "test", Killed: time.Now(),
	})
	if err != nil {
		return err
	}
	a.viewLeast = 0
	b := a.Box(testUser, 0, nil)
	inbox, err := b.Folder("INBOX")
	if err != nil {
		return err
	}
	v := &victimState{b: b, inbox: inbox, stager: stager, next: first}
	for {
		if err := v.step(rng); err != nil {
			return err
		}
	}
}

type victimState struct {
	b      mailbox.Box
	inbox  mailbox.Folder
	stager *Stager
	next   int
	told   mailbox.UID // the highest UID that was said
}

func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

func (v *victimState) step(rng *rand.Rand) error {
	if rng.IntN(2) == 0 {
		return v.deliver()
	}
	snap, err := v.inbox.Snapshot()
	if err != nil || snap.Messages.Len() == 0 {
		return err
	}
	for _, m := range snap.Messages.All() {
		if m.UID > v.told {
			v.told = m.UID
			say("u %d %d", m.Size-1, m.UID)
		}
	}
	m := snap.Messages.At(rng.IntN(snap.Messages.Len()))
	id, one := m.Size-1, []mailbox.UID{m.UID}
	switch rng.IntN(4) {
	case 0:
		say("X %d", id)
		_, err = v.inbox.Expunge(one)
		say("x %d", id)
	case 1:
		say("M %d", id)
		_, err = v.inbox.Move(one, "Other")
		say("m %d", id)
	default:
		flags := mailbox.Flags{System: mailbox.System(rng.IntN(32))}
		say("F %d %d", id, flags.System)
		_, err = v.inbox.SetFlags(one, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: flags})
		say("f %d %d", id, flags.System)
	}
	return err
}

func (v *victimState) deliver() error {
	id := v.next
	v.next++
	m, err := v.stager.Stage(context.Background(), "", strings.NewReader(strings.Repeat("x", id+1)), 0)
	if err != nil {
		return err
	}
	defer m.Discard()
	say("D %d", id)
	if err := v.b.Deliver(context.Background(), one(strconv.Itoa(id), m, "", false)); err != nil {
		return err
	}
	say("d %d", id)
	return nil
}

// story is what the victims have said so far.
type story struct {
	begun, done map[string]map[int64]bool // by letter, id
	uid         map[int64]mailbox.UID     // in INBOX
	flags       map[int64]mailbox.System  // of the last change that ended
	flagsOpen   map[int64]bool            // a change has begun and not ended
	next        int
}

func (s *story) hear(line string) {
	f := strings.Fields(line)
	if len(f) < 2 {
		return
	}
	id, _ := strconv.ParseInt(f[1], 10, 64)
	arg := 0
	if len(f) > 2 {
		arg, _ = strconv.Atoi(f[2])
	}
	mark := func(m map[string]map[int64]bool) {
		if m[f[0]] == nil {
			m[f[0]] = map[int64]bool{}
		}
		m[f[0]][id] = true
	}
	switch f[0] {
	case "u":
		s.uid[id] = mailbox.UID(arg)
	case "F":
		s.flagsOpen[id] = true
	case "f":
		s.flags[id], s.flagsOpen[id] = mailbox.System(arg), false
	case "D", "X", "M":
		mark(s.begun)
	default:
		mark(s.done)
	}
	if f[0] == "D" {
		s.next = max(s.next, int(id)+1)
	}
}

func TestKilledAtAnyPoint(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("Other", ""))
	s.shut()
	tale := &story{
		begun: map[string]map[int64]bool{}, done: map[string]map[int64]bool{},
		uid: map[int64]mailbox.UID{}, flags: map[int64]mailbox.System{}, flagsOpen: map[int64]bool{},
	}
	for round := range 12 {
		runVictim(t, filepath.Dir(s.root), tale, 5+rand.IntN(100))
		s.boot()
		s.open()
		s.judge(tale)
		s.shut()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("%d ids, %d expunged, %d moved", tale.next, len(tale.done["x"]), len(tale.done["m"]))
}

// runVictim lets a process work until it has said some lines, and kills it.
func runVictim(t *testing.T, base string, tale *story, lines int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+base, crashEnv+"_FIRST="+strconv.Itoa(tale.next))
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	heard := 0
	for in := bufio.NewScanner(out); in.Scan(); heard++ {
		tale.hear(in.Text())
		if heard == lines {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait() // it was killed
	if heard < lines || complaint.Len() > 0 {
		t.Fatalf("victim ended by itself: %s", complaint.String())
	}
}

// judge compares a recovered mailbox with what was said before the crash.
func (s *setup) judge(tale *story) {
	t := s.t
	t.Helper()
	s.quotaIsExact()
	// What the mx has no answer for it delivers again, and more than that.
	for id := range int64(tale.next) {
		m := s.stage(strings.Repeat("x", int(id)+1))
		must(t, s.b.Deliver(context.Background(), one(strconv.FormatInt(id, 10), m, "", false)))
		m.Discard()
	}
	same(t, "files in tmp", len(s.files("tmp")), 0)
	s.quotaIsExact()
	inbox, other := s.snapshot(s.folder("INBOX")), s.snapshot(s.folder("Other"))
	count := map[int64]int{}
	for _, in := range []mailbox.Messages{inbox.Messages, other.Messages} {
		for _, m := range in.All() {
			id := m.Size - 1
			count[id]++
			if want, told := tale.flags[id]; told && !tale.flagsOpen[id] && m.Flags.System != want {
				t.Errorf("message %d has flags %b, was told %b", id, m.Flags.System, want)
			}
		}
	}
	for _, m := range inbox.Messages.All() {
		id := m.Size - 1
		if uid, told := tale.uid[id]; told && uid != m.UID {
			t.Errorf("message %d has UID %d, was told %d", id, m.UID, uid)
		}
		if tale.done["m"][id] {
			t.Errorf("message %d was moved away and is here", id)
		}
	}
	for id := range int64(tale.next) {
		switch n := count[id]; {
		case tale.done["x"][id] && n != 0:
			t.Errorf("message %d was expunged and is there", id)
		case !tale.begun["X"][id] && n != 1:
			t.Errorf("message %d is there %d times", id, n)
		case n > 1:
			t.Errorf("message %d is there %d times", id, n)
		}
	}
	for id, uid := range tale.uid {
		if uid >= inbox.UIDNext {
			t.Errorf("message %d had UID %d, next is %d", id, uid, inbox.UIDNext)
		}
	}
}
