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
	proxy := r.identity(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := proxy.Dial(ctx, n.Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}, cluster.ProtoSession)
	r.must(err)
	link, err := frames.Dial(ctx, conn, frames.Options{})
	r.must(err)
	defer link.Close()
	s, w, err := link.Open(ctx, wire.Hello{Version: wire.Version, Protocol: "imap", User: string(alice), Home: "b1", Epoch: uint64(rec.Epoch), Client: "192.0.2.1:1", Session: "s"})
	r.must(err)
	if w.Status != wire.StatusOK {
		t.Fatalf("%+v", w)
	}
	r.must(s.SetDeadline(time.Now().Add(30 * time.Second)))
	br := bufio.NewReader(s)
	for i, command := range []string{"SELECT Archive/2024", "FETCH 1 ENVELOPE", "COPY 1 INBOX", "STATUS INBOX (MESSAGES)", "LOGOUT"} {
		tag := fmt.Sprintf("t%d ", i)
		_, err := io.WriteString(s, tag+command+"\r\n")
		r.must(err)
		var got string
		for !strings.Contains(got, "\n"+tag) && !strings.HasPrefix(got, tag) {
			line, err := br.ReadString('\n')
			r.must(err)
			got += line
		}
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
	rep, err := n.checkTree(ctx, u, true)
	r.must(err)
	for _, f := range rep.Findings {
		if f.Kind == control.KindForeign {
			t.Errorf("%+v", f)
		}
	}
}
