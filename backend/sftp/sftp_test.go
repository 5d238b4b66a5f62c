package sftp

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pkgsftp "github.com/pkg/sftp"

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
	source, staging string
	b1, b2          *cluster.Identity
	node            string
	target          *manifest.Digester
}

func newRig(t *testing.T) *rig {
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
	r := &rig{source: t.TempDir(), staging: t.TempDir(), target: manifest.NewDigester(),
		b1: ident(cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}), b2: ident(cluster.Peer{Role: cluster.RoleBackend, ID: "b2"})}
	log := slog.New(slog.DiscardHandler)
	srv := &Server{Log: log, Open: func(_ context.Context, from cluster.Peer, u director.User, epoch director.Epoch) (string, error) {
		if from.ID != "b2" || u != alice || epoch != 7 {
			return "", errors.New("not your move")
		}
		return r.source, nil
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

func (r *rig) dial(ctx context.Context) (*pkgsftp.Client, error) {
	return Dial(ctx, r.b2, r.node, "b1", alice, 7)
}

// pull makes one pass against the source's manifest as it is now.
func (r *rig) pull(t *testing.T, final bool) control.PullProgress {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	want, err := manifest.NewDigester().Scan(ctx, r.source)
	if err != nil {
		t.Fatal(err)
	}
	p := Pull{Staging: r.staging, Digests: r.target, Dial: r.dial, Final: final}
	done, err := p.Run(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	// A digester that knows nothing reads what is really on the disk.
	have, err := manifest.NewDigester().Scan(ctx, r.staging)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(want.Entries, have.Entries) {
		t.Fatalf("staging differs: want %v, have %v", want.Entries, have.Entries)
	}
	if manifest.Summary(want) != manifest.Summary(have) {
		t.Fatal("summaries differ")
	}
	return done
}

func (r *rig) write(t *testing.T, rel, body string, mtime int64) {
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

// TestVanishing: what vanishes between manifest and fetch is left to the next
// hot pass, and is an error in the final one.
func TestVanishing(t *testing.T) {
	r := newRig(t)
	want := control.Manifest{Entries: []control.ManifestEntry{{Path: "Maildir/"}, {Path: "Maildir/cur/"},
		{Path: "Maildir/cur/9.M.h:2,", Size: 1, MTime: 1, Digest: fmt.Sprintf("%x", sha256.Sum256([]byte("x")))}}}
	for _, final := range []bool{false, true} {
		p := Pull{Staging: r.staging, Digests: r.target, Dial: r.dial, Final: final}
		if _, err := p.Run(context.Background(), want); (err != nil) != final {
			t.Errorf("final %v: %v", final, err)
		}
	}
	r.write(t, "Maildir/cur/9.M.h:2,", "y", 1)
	p := Pull{Staging: r.staging, Digests: r.target, Dial: r.dial, Final: true}
	if _, err := p.Run(context.Background(), want); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("other contents: %v", err)
	}
}

// TestOneTreeOnly: another user, another epoch, another backend, a path out of
// the tree, a symbolic link out of it, and writing are refused.
func TestOneTreeOnly(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for name, dial := range map[string]func() (*pkgsftp.Client, error){
		"user":    func() (*pkgsftp.Client, error) { return Dial(ctx, r.b2, r.node, "b1", bob, 7) },
		"epoch":   func() (*pkgsftp.Client, error) { return Dial(ctx, r.b2, r.node, "b1", alice, 8) },
		"backend": func() (*pkgsftp.Client, error) { return Dial(ctx, r.b1, r.node, "b1", alice, 7) },
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

// TestManifestStaysInside: a target believes no path that leads out.
func TestManifestStaysInside(t *testing.T) {
	r := newRig(t)
	for _, p := range []control.TreePath{"../x", "/etc/x", "a/../../x", "", "../d/"} {
		e := control.ManifestEntry{Path: p, Digest: "00"}
		if strings.HasSuffix(string(p), "/") {
			e.Digest = ""
		}
		pull := Pull{Staging: r.staging, Digests: r.target, Dial: r.dial}
		if _, err := pull.Run(context.Background(), control.Manifest{Entries: []control.ManifestEntry{e}}); err == nil {
			t.Errorf("%q was taken", p)
		}
	}
}
