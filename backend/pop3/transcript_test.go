package pop3

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"waypost/backend/link/linktest"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
)

const ann = "ann@example.test"

// drop makes a store with one user and the given messages in the inbox.
func drop(t testing.TB, messages ...string) *memory.Store {
	t.Helper()
	store := memory.New()
	store.Serve(ann, "b1", 7)
	box := open(t, store, 7)
	for i, text := range messages {
		m, err := store.Stage(t.Context(), "", strings.NewReader(text), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := box.Deliver(t.Context(), mailbox.Delivery{ID: fmt.Sprint("id", i), Message: m, Places: []mailbox.Place{{}}}); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

func open(t testing.TB, store *memory.Store, epoch int) mailbox.Box {
	t.Helper()
	box, err := store.Open(context.Background(), ann, "b1", 7)
	if epoch != 7 {
		box, err = store.Open(context.Background(), ann, "b1", 9)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.Close)
	return box
}

// inbox lists what a store holds: the first line of each message and whether
// it is seen.
func inbox(t testing.TB, box mailbox.Box) string {
	t.Helper()
	f, err := box.Folder(mailbox.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range snap.Messages.All() {
		body, err := f.Open(m.UID)
		if err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(body).ReadString('\n')
		body.Close()
		line = strings.TrimSpace(line)
		if m.Flags.Has(mailbox.Seen) {
			line += "*"
		}
		out = append(out, line)
	}
	return strings.Join(out, " ")
}

// dialogue is a served connection; end waits for Serve's result.
type dialogue struct {
	*linktest.Dialogue
	cancel context.CancelFunc
	end    func() error
}

func serve(t testing.TB, opt Options, box mailbox.Box) *dialogue {
	t.Helper()
	return serveSession(t, opt, Session{Box: box})
}

func serveSession(t testing.TB, opt Options, ses Session) *dialogue {
	t.Helper()
	ses.Client, ses.ID = "192.0.2.1:99", "s1"
	client, server := linktest.Pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client), cancel: cancel}
	ended := make(chan error, 1)
	srv := New(opt)
	go func() { ended <- srv.Serve(ctx, server, ses) }()
	d.end = sync.OnceValue(func() error { return <-ended })
	t.Cleanup(func() { cancel(); client.Close(); d.end() })
	return d
}

// uid is the unique id of message n of a drop: the memory store's GUID, which it
// counts.
func uid(n int) string { return fmt.Sprintf("%016x", firstGUID()+uint64(n-1)) }

var firstGUID = sync.OnceValue(func() uint64 {
	store := memory.New()
	store.Serve(ann, "b1", 7)
	box, err := store.Open(context.Background(), ann, "b1", 7)
	if err == nil {
		defer box.Close()
		var m mailbox.Staged
		if m, err = store.Stage(context.Background(), "", strings.NewReader(m2), 0); err == nil {
			err = box.Deliver(context.Background(), mailbox.Delivery{ID: "1", Message: m, Places: []mailbox.Place{{}}})
		}
	}
	var snap mailbox.Snapshot
	if err == nil {
		var f mailbox.Folder
		if f, err = box.Folder(mailbox.Inbox); err == nil {
			snap, err = f.Snapshot()
		}
	}
	n := uint64(0)
	if err == nil {
		n, err = strconv.ParseUint(snap.Messages.At(0).GUID, 16, 64)
	}
	if err != nil {
		panic(err) // only in tests
	}
	return n
})
