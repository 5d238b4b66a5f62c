package managesieve

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"waypost/backend/link/linktest"
	"waypost/backend/scripts"
	"waypost/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ann = "ann@example.test"

// compile finds errors in what has "error" and warnings in what has "warn".
func compile(name string, src []byte) (string, error) {
	switch text := string(src); {
	case strings.Contains(text, "errors"):
		return "", errors.New("line 1: no\nline 2: \"no\"\n")
	case strings.Contains(text, "error"):
		return "", fmt.Errorf("line 1: %q is wrong", name)
	case strings.Contains(text, "warn"):
		return "line 3: unused", nil
	}
	return "", nil
}

// home is a user's scripts behind a lock and a fence.
type home struct {
	store *scripts.Store
	done  chan struct{}

	mu     sync.Mutex // protects fence
	fence  error
	writes int
}

func newHome(t testing.TB, l scripts.Limits) *home {
	t.Helper()
	return &home{store: scripts.New(vfs.OS, t.TempDir(), l), done: make(chan struct{})}
}

func (h *home) refuse(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fence = err
}

func (h *home) scripts() Scripts {
	return Guarded{Name: ann, Ended: h.done, Do: func(write bool, op func(*scripts.Store) error) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.fence != nil {
			return fmt.Errorf("%s: %w", ann, h.fence)
		}
		if write {
			h.writes++
		}
		return op(h.store)
	}}
}

// dialogue is a served connection; end waits for Serve's result.
type dialogue struct {
	*linktest.Dialogue
	cancel context.CancelFunc
	end    func() error
}

func options() Options {
	return Options{
		Compile: compile, Extensions: []string{"fileinto", "vacation"}, Notify: []string{"mailto"}, MaxRedirects: 5,
	}
}

func serve(t testing.TB, opt Options, s Scripts) *dialogue {
	t.Helper()
	client, server := linktest.Pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	d := &dialogue{Dialogue: linktest.NewDialogue(t, client), cancel: cancel}
	ended := make(chan error, 1)
	srv := New(opt)
	go func() { ended <- srv.Serve(ctx, server, Session{Scripts: s, Client: "192.0.2.1:99", ID: "s1"}) }()
	d.end = sync.OnceValue(func() error { return <-ended })
	t.Cleanup(func() { cancel(); client.Close(); d.end() })
	return d
}
