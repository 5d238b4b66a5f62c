package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/deploy/clifile"
	"waypost/deploy/role"
	"waypost/deploy/up"
	"waypost/internal/cluster"
)

// fakeAPI is a director's admin API over real TLS with real certificates, which
// answers what a test has put there.
type fakeAPI struct {
	t    *testing.T
	data string // the folder with cli.json
	addr string

	mu      sync.Mutex
	answers map[string]answer
	calls   []call
}

type call struct{ method, path, body string }

// answer is what a call gets: a handler, or a status with a body.
type answer struct {
	handle http.HandlerFunc
	status int
	body   string
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	dir := t.TempDir()
	ca, err := cluster.CreateAuthority(dir, "fake")
	if err != nil {
		t.Fatal(err)
	}
	director, operator := cluster.Peer{Role: cluster.RoleDirector, ID: "d1"}, cluster.Peer{Role: cluster.RoleAdmin, ID: "cli"}
	for _, p := range []cluster.Peer{director, operator, {Role: cluster.RoleProxy, ID: "p1"}} {
		if err := ca.IssueTo(dir, p, nil); err != nil {
			t.Fatal(err)
		}
	}
	id, err := cluster.LoadIdentity(filepath.Join(dir, cluster.AuthorityCert), cluster.CertPath(dir, director), cluster.KeyPath(dir, director))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeAPI{t: t, data: dir, addr: ln.Addr().String(), answers: map[string]answer{}}
	s := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(tls.NewListener(ln, id.ServerTLS(cluster.RoleAdmin))) // ends by Close
	}()
	t.Cleanup(func() { s.Close(); <-served })
	err = clifile.Write(dir, clifile.File{
		Admin: f.addr, CA: filepath.Join(dir, cluster.AuthorityCert),
		Cert: cluster.CertPath(dir, operator), Key: cluster.KeyPath(dir, operator),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// on sets the answer to a call, "GET /v1/users/alice@example.test".
func (f *fakeAPI) on(what, body string) { f.put(what, answer{status: http.StatusOK, body: body}) }

func (f *fakeAPI) refuse(what string, status int, code, text string) {
	b, err := json.Marshal(map[string]string{"code": code, "text": text})
	if err != nil {
		f.t.Fatal(err)
	}
	f.put(what, answer{status: status, body: string(b)})
}

func (f *fakeAPI) handle(what string, h http.HandlerFunc) { f.put(what, answer{handle: h}) }

func (f *fakeAPI) put(what string, a answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[what] = a
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := r.Method + " " + r.URL.Path
	if r.URL.RawQuery != "" {
		what += "?" + r.URL.RawQuery
	}
	f.mu.Lock()
	a, ok := f.answers[what]
	f.mu.Unlock()
	if ok && a.handle != nil {
		a.handle(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Errorf("%s: %v", what, err)
	}
	f.mu.Lock()
	f.calls = append(f.calls, call{r.Method, strings.TrimPrefix(what, r.Method+" "), string(body)})
	f.mu.Unlock()
	if !ok {
		f.t.Errorf("nobody expected %s %s", what, body)
		w.WriteHeader(http.StatusTeapot)
		return
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

// forget begins anew: no answers, no calls.
func (f *fakeAPI) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.answers)
	f.calls = nil
}

// took returns the calls so far, less those with a handler of their own.
func (f *fakeAPI) took() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]call(nil), f.calls...)
}

// result is what a command line did.
type result struct {
	code           int
	stdout, stderr string
}

// newTest is an app without terminal, whose waits are short and whose processes
// are none.
func newTest(stdin string) (*app, *syncBuffer, *syncBuffer) {
	var stdout, stderr syncBuffer
	a := newApp(strings.NewReader(stdin), &stdout, &stderr)
	a.getenv = func(string) string { return "" }
	a.pause = func(context.Context, time.Duration) {}
	a.up = func(context.Context, up.Options) error { panic("up was not expected") }
	a.runRole = func(context.Context, role.Config, io.Writer, func()) error { panic("a role was not expected") }
	return a, &stdout, &stderr
}

// run runs a command line against the fake.
func (f *fakeAPI) run(stdin string, args ...string) result {
	f.t.Helper()
	a, stdout, stderr := newTest(stdin)
	a.getenv = func(name string) string { return map[string]string{envData: f.data}[name] }
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	code := a.main(ctx, args)
	return result{code, stdout.String(), stderr.String()}
}

// syncBuffer is a buffer that several goroutines may use.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
