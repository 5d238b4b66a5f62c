package backend

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/mailbox/archive"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/frames"
	"waypost/internal/wire"
)

// A session of IMAP sees the archives, whose UIDs lie in the user's own tree; check
// knows them.
func TestArchives(t *testing.T) {
	tree := t.TempDir()
	mbox := filepath.Join(tree, string(alice), "2024.mbox")
	if err := os.MkdirAll(filepath.Dir(mbox), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mbox, []byte("From a Fri May 17 10:00:00 2024\nSubject: old\n\nhello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	n := r.start(Config{ID: "b1", Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: "b1", OwnerGrace: time.Hour,
		Archives: []archive.Config{{Name: "Archive", Format: archive.FormatMbox, Path: tree + "/{user}/{year}.mbox"}}})
	rec := r.create("b1")
	say := r.imap("b1", rec.Epoch)
	for i, command := range []string{"SELECT Archive/2024", "FETCH 1 ENVELOPE", "COPY 1 INBOX", "STATUS INBOX (MESSAGES)", "LOGOUT"} {
		got := say(command)
		want := []string{"* 1 EXISTS", `"old"`, "COPYUID", "MESSAGES 1", "BYE"}[i]
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s", command, got)
		}
	}
	if _, err := os.Stat(filepath.Join(n.disk.live(alice), archive.Dir)); err != nil {
		t.Error(err)
	}
	u := n.use(alice)
	defer n.release(u)
	rep, err := n.checkTree(t.Context(), u, true)
	r.must(err)
	for _, f := range rep.Findings {
		if f.Kind == control.KindForeign {
			t.Errorf("%+v", f)
		}
	}
}

// imap begins a session of alice's as a proxy does. What it gives says a command, and gives the
// answer whole.
func (r *rig) imap(id director.BackendID, epoch director.Epoch) func(command string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	r.t.Cleanup(cancel)
	proxy := r.identity(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"})
	conn, err := proxy.Dial(ctx, r.nodes[id].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: string(id)}, cluster.ProtoSession)
	r.must(err)
	link, err := frames.Dial(ctx, conn, frames.Options{})
	r.must(err)
	r.t.Cleanup(func() { link.Close() })
	s, w, err := link.Open(ctx, wire.Hello{Version: wire.Version, Protocol: "imap", User: string(alice), Home: string(id), Epoch: uint64(epoch), Client: "192.0.2.1:1", Session: "s"})
	r.must(err)
	if w.Status != wire.StatusOK {
		r.t.Fatalf("%+v", w)
	}
	r.must(s.SetDeadline(time.Now().Add(30 * time.Second)))
	br := bufio.NewReader(s)
	n := 0
	return func(command string) (got string) {
		r.t.Helper()
		n++
		tag := fmt.Sprintf("t%d ", n)
		_, err := io.WriteString(s, tag+command+"\r\n")
		r.must(err)
		for !strings.Contains(got, "\n"+tag) && !strings.HasPrefix(got, tag) {
			line, err := br.ReadString('\n')
			r.must(err)
			got += line
		}
		return got
	}
}

// TestFolderNames: clients that come from Courier, or from a Dovecot of its names, find their
// folders where they were, beside archives; the tree and its lists stay Maildir++.
func TestFolderNames(t *testing.T) {
	r := newRig(t)
	n := r.start(Config{ID: "b1", Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: "b1", OwnerGrace: time.Hour, AutoFolders: []string{"Sent", "Lists/Go"},
		FolderSeparator: ".", FolderPrefix: "INBOX.",
		Archives: []archive.Config{{Name: "Archive", Format: archive.FormatMbox, Path: t.TempDir() + "/{user}/{year}.mbox"}}})
	rec := r.create("b1")
	say := r.imap("b1", rec.Epoch)
	for _, x := range []struct{ command, want string }{
		{"NAMESPACE", `(("Archive." ".")("INBOX." "."))`},
		{`LIST "" *`, `"." INBOX.Lists.Go`}, {`LIST "" INBOX.%`, `\Sent) "." INBOX.Sent`}, {`LSUB "" *`, "INBOX.Lists.Go"},
		{"CREATE INBOX.Lists.Rust", "OK"}, {"SUBSCRIBE INBOX.Lists.Rust", "OK"}, {"CREATE Lists", "NO"}, {"CREATE INBOX.a/b", "NO"},
		{"SELECT INBOX.Lists.Rust", "OK [READ-WRITE]"}, {"LOGOUT", "BYE"},
	} {
		if got := say(x.command); !strings.Contains(got, x.want) {
			t.Errorf("%s: %s", x.command, got)
		}
	}
	tree := filepath.Join(n.disk.live(alice), "Maildir")
	if _, err := os.Stat(filepath.Join(tree, ".Lists.Rust", "cur")); err != nil {
		t.Error(err)
	}
	if subs, err := os.ReadFile(filepath.Join(tree, "subscriptions")); err != nil || !strings.Contains(string(subs), "Lists\tRust") && !strings.Contains(string(subs), "Lists.Rust") || strings.Contains(string(subs), "INBOX") {
		t.Errorf("%q, %v", subs, err)
	}
	cfg := n.cfg
	for _, bad := range [][2]string{{"x", ""}, {"//", ""}, {".", "INBOX/"}, {"/", "INBOX."}, {"", "Mail/"}} {
		cfg.FolderSeparator, cfg.FolderPrefix = bad[0], bad[1]
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "folder_") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
