package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"waypost/deploy/clifile"
	"waypost/deploy/role"
	"waypost/deploy/up"
	"waypost/internal/cluster"
)

func TestUpGetsItsOptions(t *testing.T) {
	a, stdout, stderr := newTest("")
	a.getenv = func(string) string { return "/from/env" }
	var got up.Options
	a.up = func(_ context.Context, o up.Options) error { got = o; return nil }
	want := up.Options{Data: "/d", Offset: 5, Demo: true, LogFormat: "json", LogLevel: "debug", Stdout: stdout, Stderr: stderr}
	if code := a.main(t.Context(), strings.Fields("up --data /d --offset 5 --demo --log-format json --log-level debug")); code != exitDone || got != want {
		t.Errorf("exit code %d, %+v", code, got)
	}
	want = up.Options{Data: "/from/env", LogFormat: "text", LogLevel: "warn", Stdout: stdout, Stderr: stderr}
	if code := a.main(t.Context(), []string{"up"}); code != exitDone || got != want {
		t.Errorf("exit code %d, %+v", code, got)
	}
	a.up = func(context.Context, up.Options) error { return errors.New("port 2525 is taken: use --offset") }
	if code := a.main(t.Context(), []string{"up"}); code != exitFailed || stderr.String() != "waypost: port 2525 is taken: use --offset\n" {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

func TestEachRoleRunsFromItsFile(t *testing.T) {
	for _, r := range []cluster.Role{cluster.RoleDirector, cluster.RoleBackend, cluster.RoleMX, cluster.RoleProxy, cluster.RoleRebalance} {
		a, stdout, stderr := newTest("")
		a.loadRole = func(path string, want cluster.Role) (role.Config, error) {
			if path != "f.toml" || want != r {
				t.Errorf("load %s as %s", path, want)
			}
			return role.Config{Node: role.Node{ID: "n1"}}, nil
		}
		ran := false
		a.runRole = func(_ context.Context, c role.Config, logTo io.Writer, ready func()) error {
			ran = c.Node.ID == "n1" && logTo == stderr
			ready()
			return nil
		}
		if code := a.main(t.Context(), []string{string(r), "--config", "f.toml"}); code != exitDone || !ran {
			t.Errorf("%s: exit code %d, %s%s", r, code, stdout, stderr)
		}
		a.checkRole = func(role.Config) error { return errors.New("the key can be read by everybody") }
		if code := a.main(t.Context(), []string{string(r), "--config", "f.toml", "--check-config"}); code != exitFailed || !strings.Contains(stderr.String(), "f.toml: the key") {
			t.Errorf("%s: exit code %d, %s%s", r, code, stdout, stderr)
		}
		a.checkRole = func(role.Config) error { return nil }
		if code := a.main(t.Context(), []string{string(r), "--config", "f.toml", "--check-config"}); code != exitDone || stdout.String() != "ok\n" {
			t.Errorf("%s: exit code %d, %s%s", r, code, stdout, stderr)
		}
	}
}

func TestInitThenCheckForReal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	do := func(want int, args ...string) (string, string) {
		t.Helper()
		a, stdout, stderr := newTest("")
		if code := a.main(t.Context(), args); code != want {
			t.Errorf("%v: exit code %d, %s%s", args, code, stdout, stderr)
		}
		return stdout.String(), stderr.String()
	}
	out, _ := do(exitDone, "init", "--dir", dir, "--cluster", "trial", "--backends", "1", "--mx", "1", "--proxies", "1", "--host", "backend/b1=10.0.0.11")
	if !strings.Contains(out, "backend/b1") || !strings.Contains(out, "10.0.0.11") {
		t.Errorf("init told %s", out)
	}
	do(exitFailed, "init", "--dir", dir, "--cluster", "trial")
	do(exitDone, "init", "node", "backend/b2", "--dir", dir, "--json")
	do(exitFailed, "init", "node", "backend/b2", "--dir", dir)
	do(exitFailed, "init", "node", "backend/b2", "--dir", filepath.Join(dir, "nowhere"))
	do(exitDone, "init", "renew", "--dir", dir, "--json")
	for _, name := range []string{"director-d1", "backend-b1", "backend-b2", "mx-mx1", "proxy-p1", "rebalance-r1"} {
		r, _, _ := strings.Cut(name, "-")
		config := filepath.Join(dir, "nodes", name, name+".toml")
		if out, _ := do(exitDone, r, "--config", config, "--check-config"); out != "ok\n" {
			t.Errorf("%s: %s", name, out)
		}
	}
	config := filepath.Join(dir, "nodes", "backend-b1", "backend-b1.toml")
	if _, stderr := do(exitFailed, "mx", "--config", config, "--check-config"); !strings.Contains(stderr, "backend") {
		t.Errorf("a backend's file for an mx: %s", stderr)
	}
	if err := os.Chmod(filepath.Join(dir, "nodes", "backend-b1", "backend-b1.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, stderr := do(exitFailed, "backend", "--config", config, "--check-config"); !strings.Contains(stderr, "backend-b1.key") {
		t.Errorf("a key for everybody: %s", stderr)
	}
	do(exitFailed, "backend", "--config", filepath.Join(dir, "nowhere.toml"))
	if _, err := clifile.Read(dir); err != nil {
		t.Error(err)
	}
}

// notifySocket is systemd's end.
func notifySocket(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func waitFor(t *testing.T, c *net.UnixConn, want string) {
	t.Helper()
	b := make([]byte, 256)
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if string(b[:n]) == want {
			return
		}
	}
}

func TestSystemdIsTold(t *testing.T) {
	socket := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	health := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer health.Close()
	a, stdout, stderr := newTest("")
	a.loadRole = func(string, cluster.Role) (role.Config, error) {
		return role.Config{Node: role.Node{Metrics: strings.TrimPrefix(health.URL, "http://")}}, nil
	}
	a.runRole = func(ctx context.Context, _ role.Config, _ io.Writer, ready func()) error {
		ready()
		<-ctx.Done()
		return nil
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	code := make(chan int, 1)
	go func() { code <- a.main(ctx, []string{"mx", "--config", "f.toml"}) }()
	waitFor(t, socket, "READY=1")
	waitFor(t, socket, "WATCHDOG=1")
	waitFor(t, socket, "WATCHDOG=1")
	stop()
	waitFor(t, socket, "STOPPING=1")
	if got := <-code; got != exitDone {
		t.Errorf("exit code %d, %s%s", got, stdout, stderr)
	}
}

// A process that does not answer its own /healthz gets no more signs of life.
func TestOnlyAHealthyProcessLives(t *testing.T) {
	status := http.StatusOK
	health := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	s := newSupervisor(strings.TrimPrefix(health.URL, "http://"), t.Errorf)
	if !s.healthy(t.Context(), 30*time.Second) {
		t.Error("200 is not healthy")
	}
	status = http.StatusServiceUnavailable
	if s.healthy(t.Context(), 30*time.Second) {
		t.Error("503 is healthy")
	}
	health.Close()
	if s.healthy(t.Context(), 30*time.Second) {
		t.Error("no answer is healthy")
	}
	if !newSupervisor("", t.Errorf).healthy(t.Context(), time.Second) {
		t.Error("without a metrics listener the process itself is the sign")
	}
}
