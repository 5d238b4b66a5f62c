package child

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start("it", filepath.Join(t.TempDir(), "log"), exec.Command("sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLife(t *testing.T) {
	p := start(t, "echo serving; exec sleep 60")
	if err := p.Await(t.Context(), func(context.Context) error {
		if !strings.Contains(p.Log(), "serving") {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestEndsByItself(t *testing.T) {
	p := start(t, "echo no luck; exit 3")
	never := func(context.Context) error { return errors.New("not yet") }
	if err := p.Await(t.Context(), never); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("await: %v", err)
	}
	if err := p.Stop(); !errors.Is(err, ErrEnded) {
		t.Errorf("stop: %v", err)
	}
	if _, err := Start("it", filepath.Join(t.TempDir(), "log"), exec.Command("/does/not/exist")); err == nil {
		t.Error("started what is not there")
	}
}

func TestListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	try := Listens("tcp", ln.Addr().String())
	if err := try(t.Context()); err != nil {
		t.Error(err)
	}
	ln.Close()
	if try(t.Context()) == nil {
		t.Error("nobody listens")
	}
}
