package sftp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
)

const (
	alice = director.User("alice@example.test")
	bob   = director.User("bob@example.test")
)

type rig struct {
	source, staging, halves string
	b1, b2                  *cluster.Identity
	node                    string
	tree                    *liveTree
	target                  *manifest.Tracker
}

// liveTree is a tree at the source. As old it serves only what sources of before did.
type liveTree struct {
	*manifest.Tracker
	root string
	old  bool
	sent map[control.TreePath]int
	mu   sync.Mutex
	// few is how much is hashed before it is sent; all by default.
	how manifest.Hashing
}

func newLiveTree(root string) *liveTree {
	return &liveTree{Tracker: manifest.NewTracker(root), root: root, sent: map[control.TreePath]int{}, how: manifest.HashAll}
}

func (l *liveTree) Root() string { return l.root }

func (l *liveTree) Delta(ctx context.Context, q manifest.Query) (manifest.Delta, error) {
	how := l.how
	if q.Frozen || q.Verify {
		how = manifest.HashAll
	}
	if err := l.Update(ctx, how); err != nil {
		return manifest.Delta{}, err
	}
	return l.Tracker.Delta(q)
}

func (l *liveTree) Learn(path control.TreePath, at manifest.Stamp, d manifest.Digest) {
	l.mu.Lock()
	l.sent[path]++
	l.mu.Unlock()
	l.Tracker.Learn(path, at, d)
}

func newRig(t testing.TB) *rig {
	t.Helper()
	dir := t.TempDir()
	a, err := cluster.CreateAuthority(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	ident := func(p cluster.Peer) *cluster.Identity {
		if err := a.IssueTo(dir, p, []string{"127.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		id, err := cluster.LoadIdentity(dir+"/ca.crt", cluster.CertPath(dir, p), cluster.KeyPath(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	r := &rig{source: t.TempDir(), staging: t.TempDir(), halves: filepath.Join(t.TempDir(), "halves"),
		b1: ident(cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}), b2: ident(cluster.Peer{Role: cluster.RoleBackend, ID: "b2"})}
	r.tree, r.target = newLiveTree(r.source), manifest.NewDurable(r.staging)
	log := slog.New(slog.DiscardHandler)
	srv := &Server{Log: log, Open: func(_ context.Context, from cluster.Peer, u director.User, epoch director.Epoch) (Tree, error) {
		if from.ID != "b2" || u != alice || epoch != 7 {
			return nil, errors.New("not your move")
		}
		return r.tree, nil
	}}
	mux, err := r.b1.Listen("127.0.0.1:0", log)
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle(cluster.ProtoSFTP, []cluster.Role{cluster.RoleBackend}, func(ctx context.Context, c *tls.Conn, from cluster.Peer) { srv.Serve(ctx, c, from) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = mux.Serve(ctx) }()
	t.Cleanup(func() { cancel(); mux.Close(); <-done })
	r.node = mux.Addr().String()
	return r
}

func (r *rig) dial(ctx context.Context) (*Conn, error) {
	c, err := Dial(ctx, r.b2, r.node, "b1", alice, 7)
	if err == nil && r.tree.old {
		c.Version = 0
	}
	return c, err
}

func (r *rig) newPull(final bool) *Pull {
	return &Pull{Staging: r.staging, Staged: r.target, Halves: r.halves, Dial: r.dial, Final: final,
		Manifest: func(ctx context.Context) (control.Manifest, error) { return manifest.Scan(ctx, r.source) }}
}

// pull makes one pass against the source as it is now.
func (r *rig) pull(t testing.TB, final bool) control.PullProgress {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	done, err := r.newPull(final).Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.same(t)
	return done
}

// same compares what is really on the disk, and what the Tracker says is.
func (r *rig) same(t testing.TB) {
	t.Helper()
	want, err := manifest.Scan(t.Context(), r.source)
	if err != nil {
		t.Fatal(err)
	}
	have, err := manifest.Scan(t.Context(), r.staging)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(want.Entries, have.Entries) {
		t.Fatalf("staging differs: want %v, have %v", want.Entries, have.Entries)
	}
	if manifest.Summary(want) != r.target.Summary() {
		t.Fatal("summaries differ")
	}
}

func (r *rig) write(t testing.TB, rel, body string, mtime int64) {
	t.Helper()
	p := filepath.Join(r.source, rel)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(mtime, 0)
	if err := os.Chtimes(p, at, at); err != nil {
		t.Fatal(err)
	}
}

// TestPasses: a first pass copies, a second sends nothing, renames are applied
// as renames, what was deleted does not come back, empty folders and odd names
// go along, and modification times stay.
func TestPasses(t *testing.T) {
	r := newRig(t)
	for i := range 200 {
		r.write(t, fmt.Sprintf("Maildir/cur/17000%03d.M1P1.b1,S=%d,W=%d:2,", i, 6, 7), fmt.Sprintf("msg %02d", i), int64(1700000000+i))
	}
	r.write(t, "Maildir/.Gr&APw-n \xff/cur/1.M1.h:2,S", "odd name", 1600000000)
	r.write(t, "Maildir/dovecot-uidlist", "3 V1 N201\n", 1)
	r.write(t, "Maildir/tmp/half", "litter", 1)
	r.write(t, "Maildir/maildirsize.lock", "", 1)
	if err := os.MkdirAll(filepath.Join(r.source, "Maildir/.Empty/new"), 0o700); err != nil {
		t.Fatal(err)
	}
	first := r.pull(t, false)
	if first.Files != 202 {
		t.Errorf("first pass sent %d files", first.Files)
	}
	if again := r.pull(t, false); again.Files != 0 || again.Bytes != 0 {
		t.Errorf("second pass sent %+v", again)
	}
	cur := filepath.Join(r.source, "Maildir/cur")
	es, err := os.ReadDir(cur)
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(cur, es[7].Name())
	if err := os.Rename(old, old+"S"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(cur, es[8].Name())); err != nil {
		t.Fatal(err)
	}
	r.write(t, "Maildir/dovecot-uidlist", "3 V1 N202\n201 :x\n", 2)
	delta := r.pull(t, true)
	if delta.Files != 1 || delta.Renamed != 1 || delta.Removed != 1 {
		t.Errorf("delta %+v", delta)
	}
	st, err := os.Stat(filepath.Join(r.staging, "Maildir/cur", es[7].Name()+"S"))
	if err != nil || st.ModTime().Unix() != 1700000007 {
		t.Errorf("modification time %v (%v)", st.ModTime().Unix(), err)
	}
	if _, err := os.Stat(filepath.Join(r.staging, "Maildir/tmp/half")); !errors.Is(err, os.ErrNotExist) {
		t.Error("litter was carried")
	}
}

// TestSameBytesOtherFile: staging that an aborted move left, with right names
// and sizes and wrong contents, is replaced (Fastmail 2006).
func TestSameBytesOtherFile(t *testing.T) {
	r := newRig(t)
	r.write(t, "Maildir/cur/1.M1.h,S=5,W=6:2,S", "right", 1700000000)
	bad := filepath.Join(r.staging, "Maildir/cur/1.M1.h,S=5,W=6:2,S")
	if err := os.MkdirAll(filepath.Dir(bad), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(bad, time.Unix(1700000000, 0), time.Unix(1700000000, 0)); err != nil {
		t.Fatal(err)
	}
	if p := r.pull(t, true); p.Files != 1 {
		t.Errorf("pass %+v", p)
	}
}

// TestOneTreeOnly: another user, another epoch, another backend, a path out of
// the tree, a symbolic link out of it, and writing are refused.
func TestOneTreeOnly(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for name, dial := range map[string]func() (*Conn, error){
		"user":    func() (*Conn, error) { return Dial(ctx, r.b2, r.node, "b1", bob, 7) },
		"epoch":   func() (*Conn, error) { return Dial(ctx, r.b2, r.node, "b1", alice, 8) },
		"backend": func() (*Conn, error) { return Dial(ctx, r.b1, r.node, "b1", alice, 7) },
	} {
		if c, err := dial(); err == nil {
			c.Close()
			t.Errorf("another %s may read", name)
		}
	}
	secret := filepath.Join(filepath.Dir(r.source), "secret")
	if err := os.WriteFile(secret, []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(r.source, "link")); err != nil {
		t.Fatal(err)
	}
	r.write(t, "file", "f", 1)
	c, err := r.dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, p := range []string{"/../secret", "../secret", "/link", secret} {
		if f, err := c.Open(p); err == nil {
			f.Close()
			t.Errorf("%s can be read", p)
		}
	}
	if f, err := c.Create("/new"); err == nil {
		f.Close()
		t.Error("the source can be written to")
	}
	if err := c.Remove("/file"); err == nil {
		t.Error("the source's files can be removed")
	}
	if es, err := c.ReadDir("/"); err != nil || len(es) != 2 {
		t.Errorf("listing %v (%v)", es, err)
	}
}

// cutting is a relay to the source that hangs up for good after so many bytes.
func (r *rig) cutting(t *testing.T, bytes int64) (addr string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var left atomic.Int64
	left.Store(bytes)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	relay := func(c net.Conn) {
		defer c.Close()
		up, err := net.Dial("tcp", r.node)
		if err != nil {
			return
		}
		defer up.Close()
		defer context.AfterFunc(ctx, func() { c.Close(); up.Close() })()
		wg.Go(func() { defer up.Close(); _, _ = io.Copy(up, c) })
		buf := make([]byte, 16<<10)
		for {
			n, err := up.Read(buf)
			if left.Add(int64(-n)) < 0 {
				cancel()
			}
			if err != nil || ctx.Err() != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { relay(c) })
		}
	})
	return ln.Addr().String(), func() { cancel(); ln.Close(); wg.Wait() }
}
