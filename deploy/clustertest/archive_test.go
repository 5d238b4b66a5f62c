package clustertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"waypost/backend/mailbox/archive"
	"waypost/deploy/up"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/etcd/embedded"
)

// TestArchiveMoves: a user's archive, which all backends see, has the same UIDs after a move, and
// sessions that have a folder of it selected notice nothing, but for what is added to it.
func TestArchiveMoves(t *testing.T) {
	beside(t)
	const ann, folder = director.User("ann@example.test"), "Archive/2024/05"
	tree := t.TempDir()
	mbox := filepath.Join(tree, string(ann), "2024-05.mbox")
	add := func(n int) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(mbox), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(mbox, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(f, "From x@example.test Fri May 17 10:00:00 2024\nSubject: old %d\n\nhello\n\n", n); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c := newClusterWith(t, func(_ *testCluster, us []up.Unit, _ *embedded.EmbedOptions) {
		for _, u := range us {
			if u.Config.Backend != nil {
				u.Config.Backend.Archives = []archive.Config{{Name: "Archive", Format: archive.FormatMbox, Path: tree + "/{user}/{year}-{month}.mbox"}}
			}
		}
	})
	c.withUsers(0)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	eventually(t, "user", patience, func() error {
		_, err := c.admin.CreateUser(ctx, admin.CreateUser{User: string(ann), PasswordHash: passwordHash})
		return err
	})
	for n := range 3 {
		add(n)
	}

	// exists gets the count that the session that waits is told.
	exists := make(chan uint32, 16)
	session := func() (*imapclient.Client, *imap.SelectData) {
		t.Helper()
		cl, err := imapclient.DialInsecure(c.addr(1143), &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
			Mailbox: func(d *imapclient.UnilateralDataMailbox) {
				if d.NumMessages != nil {
					exists <- *d.NumMessages
				}
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cl.Close() })
		if err := cl.Login(string(ann), password).Wait(); err != nil {
			t.Fatal(err)
		}
		got, err := cl.Select(folder, nil).Wait()
		if err != nil {
			t.Fatal(err)
		}
		return cl, got
	}
	fetch := func(cl *imapclient.Client) (got string) {
		t.Helper()
		msgs, err := cl.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{UID: true, Envelope: true, RFC822Size: true, BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			got += fmt.Sprintf("%d %d %s %q\n", m.SeqNum, m.UID, m.Envelope.Subject, m.BodySection[0].Bytes)
		}
		return got
	}
	waits, _ := session()
	rests, selected := session()
	before := fetch(rests)
	idle, err := waits.Idle()
	if err != nil {
		t.Fatal(err)
	}

	to := c.elsewhere(t, ann)
	c.letMove(t)
	if _, err := c.admin.CreateMove(ctx, string(ann), to); err != nil {
		t.Fatal(err)
	}
	if got, err := c.admin.WatchMove(ctx, ann, func(admin.Move) {}); err != nil || got.Phase != director.PhaseDone || got.To != to {
		t.Fatalf("move: %+v, %v", got, err)
	}
	if after := fetch(rests); after != before {
		t.Errorf("after the move:\n%s\nwas\n%s", after, before)
	}
	_, anew := session()
	if anew.UIDValidity != selected.UIDValidity || anew.UIDNext != selected.UIDNext || anew.NumMessages != 3 {
		t.Errorf("selected anew: %+v, was %+v", anew, selected)
	}
	add(3)
	select {
	case n := <-exists:
		if n != 4 {
			t.Errorf("%d messages are told", n)
		}
	case <-ctx.Done():
		t.Error("the session that waits is not told of a message")
	}
	if err := idle.Close(); err != nil {
		t.Error(err)
	}
	if err := idle.Wait(); err != nil {
		t.Errorf("the session that waited for news: %v", err)
	}
	if err := rests.Noop().Wait(); err != nil {
		t.Error(err)
	}
	for _, cl := range []*imapclient.Client{waits, rests} {
		if got, err := cl.Copy(imap.SeqSetNum(4), "INBOX").Wait(); err != nil || len(got.DestUIDs) != 1 {
			t.Errorf("copied out: %+v, %v", got, err)
		}
	}
}
