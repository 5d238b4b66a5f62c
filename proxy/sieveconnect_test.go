package proxy

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backendsieve "waypost/backend/managesieve"
	"waypost/backend/scripts"
	"waypost/internal/vfs"
	"waypost/internal/wire"
	"waypost/proxy/proxytest"
)

// sieveBackend is a session of the real ManageSieve server over store.
func sieveBackend(store *scripts.Store) func(wire.Hello, net.Conn, *bufio.Reader) {
	server := backendsieve.New(backendsieve.Options{
		Extensions: []string{"fileinto"}, MaxRedirects: 5,
		Compile: func(_ string, src []byte) (string, error) {
			if strings.Contains(string(src), "nonsense") {
				return "", errors.New("line 1: unknown command \"nonsense\"")
			}
			return "", nil
		},
	})
	return func(_ wire.Hello, c net.Conn, r *bufio.Reader) {
		_ = server.Serve(context.Background(), &readFrom{Conn: c, r: r}, backendsieve.Session{
			Scripts: backendsieve.Guarded{
				Name: alice, Ended: make(chan struct{}),
				Do: func(_ bool, op func(*scripts.Store) error) error { return op(store) },
			},
		})
	}
}

type readFrom struct {
	net.Conn
	r *bufio.Reader
}

func (c *readFrom) Read(p []byte) (int, error) { return c.r.Read(p) }

// TestSieveConnect has Debian's client do a user's work, over STARTTLS, through the
// proxy, on the backend's own server.
func TestSieveConnect(t *testing.T) {
	program, err := exec.LookPath("sieve-connect")
	if err != nil {
		t.Skip("Debian's sieve-connect is not installed")
	}
	h, b1 := sieveHouse(t)
	store := scripts.New(vfs.OS, t.TempDir(), scripts.Limits{})
	b1.play = sieveBackend(store)
	h.cfg.AllowPlaintext = false
	h.cfg.CertFile, h.cfg.KeyFile = proxytest.Certificate(t, t.TempDir())
	h.start()
	_, port, err := net.SplitHostPort(h.server.Addrs()[len(h.server.Addrs())-1].Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"good.sieve": "keep;\n", "bad.sieve": "nonsense;\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
		defer cancel()
		args = append([]string{"--server", "localhost", "--4", "--port", port, "--user", string(alice), "--passwordfd", "0",
			"--tlscafile", h.cfg.CertFile, "--authmech", "PLAIN"}, args...)
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Dir, cmd.Stdin, cmd.WaitDelay = dir, strings.NewReader("secret\n"), time.Second
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, c := range []struct {
		args   []string
		want   string
		refuse bool
	}{
		{args: []string{"--upload", "--localsieve", "good.sieve", "--remotesieve", "mine"}},
		{args: []string{"--list"}, want: `"mine"`},
		{args: []string{"--checkscript", "--localsieve", "bad.sieve"}, want: "unknown command", refuse: true},
		{args: []string{"--upload", "--localsieve", "bad.sieve", "--remotesieve", "mine"}, want: "unknown command", refuse: true},
		{args: []string{"--activate", "--remotesieve", "mine"}},
		{args: []string{"--list"}, want: `"mine" ACTIVE`},
		{args: []string{"--delete", "--remotesieve", "mine"}, want: "active", refuse: true},
		{args: []string{"--download", "--remotesieve", "mine", "--localsieve", "back.sieve"}},
		{args: []string{"--deactivate"}},
		{args: []string{"--delete", "--remotesieve", "mine"}},
	} {
		out, err := run(c.args...)
		if (err != nil) != c.refuse || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v, want %q in:\n%s", c.args[0], err, c.want, out)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "back.sieve")); err != nil || !strings.Contains(string(text), "keep;\n") {
		t.Errorf("downloaded %q, %v", text, err)
	}
	if list, err := store.List(); err != nil || len(list) != 0 {
		t.Errorf("left %v, %v", list, err)
	}
}
