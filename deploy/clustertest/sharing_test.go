package clustertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"waypost/director"
	"waypost/director/admin"
)

// TestGroupMovesTogether: what one member of a sharing group shares with another is
// the same for that one after a move of either, which moves both.
func TestGroupMovesTogether(t *testing.T) {
	beside(t)
	c := newCluster(t)
	c.withUsers(0)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	ann, bob := c.group(t)
	c.share(t, ann, bob, "lrsw")
	before := c.seesShared(t, bob)

	// Who has the folder selected notices nothing, whether he waits for news or not.
	var sessions []*imapclient.Client
	for range 2 {
		cl, err := dialIMAPFor(c.addr(1143), string(bob), 3*patience)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if _, err := cl.Select(sharedFolder, nil).Wait(); err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, cl)
	}
	idle, err := sessions[0].Idle()
	if err != nil {
		t.Fatal(err)
	}
	to := c.elsewhere(t, ann)
	c.letMove(t)
	m, err := c.admin.CreateMove(ctx, string(ann), to)
	if err != nil || len(m.Others) != 1 || m.Others[0].User != bob {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, u := range []director.User{ann, bob} {
		got, err := c.admin.WatchMove(ctx, u, func(admin.Move) {})
		if err != nil || got.Phase != director.PhaseDone || got.To != to {
			t.Fatalf("move of %s: %+v, %v", u, got, err)
		}
	}
	if a, b := c.home(t, ann), c.home(t, bob); a != to || b != to {
		t.Fatalf("ann lives on %s, bob on %s, want %s", a, b, to)
	}
	eventually(t, "the same is shared after the move", patience, func() error {
		after, err := c.trySeeShared(bob)
		if err == nil && after != before {
			err = fmt.Errorf("%s, was %s", after, before)
		}
		return err
	})
	if err := idle.Close(); err != nil {
		t.Error(err)
	}
	if err := idle.Wait(); err != nil {
		t.Errorf("the session that waited for news: %v", err)
	}
	for _, cl := range sessions {
		got, err := cl.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{Flags: true, RFC822Size: true}).Collect()
		if err != nil || len(got) != 1 || got[0].RFC822Size != 28 {
			t.Errorf("in the folder that was selected: %+v, %v", got, err)
		}
	}
}

// group makes two users of one sharing group.
func (c *testCluster) group(t *testing.T) (ann, bob director.User) {
	t.Helper()
	ann, bob = "ann@example.test", "bob@example.test"
	for _, u := range []director.User{ann, bob} {
		eventually(t, "user", patience, func() error {
			_, err := c.admin.CreateUser(t.Context(), admin.CreateUser{User: string(u), PasswordHash: passwordHash, Group: "sales"})
			return err
		})
	}
	home := c.home(t, ann)
	if other := c.home(t, bob); other != home {
		t.Fatalf("bob lives on %s, ann on %s", other, home)
	}
	return ann, bob
}

const sharedFolder = "Other Users/ann@example.test/Shared"

// letMove lets the mover pass its points until the test ends.
func (c *testCluster) letMove(t *testing.T) {
	r := c.procs["r1"]
	r.mu.Lock()
	at := r.at
	r.mu.Unlock()
	done := make(chan struct{})
	ended := make(chan struct{})
	t.Cleanup(func() { close(done); <-ended })
	go func() {
		defer close(ended)
		for {
			select {
			case _, ok := <-at:
				if !ok {
					return
				}
				r.goOn()
			case <-done:
				return
			}
		}
	}()
}

func (c *testCluster) home(t *testing.T, u director.User) director.BackendID {
	t.Helper()
	got, err := c.admin.User(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	return got.Home
}

// share makes the owner's folder with a message, and gives another rights to it.
func (c *testCluster) share(t *testing.T, owner, other director.User, rights string) {
	t.Helper()
	cl, err := dialIMAP(c.addr(1143), owner)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.Create("Shared", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	text := "Subject: shared\r\n\r\nfor all\r\n"
	put := cl.Append("Shared", int64(len(text)), nil)
	if _, err := put.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := put.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := put.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := cl.SetACL("Shared", imap.RightsIdentifier(other), imap.RightModificationReplace, imap.RightSet(rights)).Wait(); err != nil {
		t.Fatal(err)
	}
	flagged, err := dialIMAP(c.addr(1143), other)
	if err != nil {
		t.Fatal(err)
	}
	defer flagged.Close()
	if _, err := flagged.Select(sharedFolder, nil).Wait(); err != nil {
		t.Fatal(err)
	}
	store := imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{"$Label1"}}
	if err := flagged.Store(imap.SeqSetNum(1), &store, nil).Close(); err != nil {
		t.Fatal(err)
	}
}

func (c *testCluster) seesShared(t *testing.T, u director.User) string {
	t.Helper()
	s, err := c.trySeeShared(u)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trySeeShared gives all that a user sees of the others, in one line.
func (c *testCluster) trySeeShared(u director.User) (string, error) {
	cl, err := dialIMAP(c.addr(1144), u)
	if err != nil {
		return "", err
	}
	defer cl.Close()
	all, err := cl.List("", "Other Users/*", nil).Collect()
	if err != nil {
		return "", err
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Mailbox)
	}
	slices.Sort(names)
	sel, err := cl.Select(sharedFolder, nil).Wait()
	if err != nil {
		return "", fmt.Errorf("%v: %w", names, err)
	}
	msgs, err := cl.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{UID: true, Flags: true, InternalDate: true, BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil || len(msgs) != 1 {
		return "", fmt.Errorf("%d messages: %w", len(msgs), err)
	}
	return fmt.Sprintf("%s: UIDVALIDITY %d, UID %d %s %s %q", strings.Join(names, " "), sel.UIDValidity, msgs[0].UID, flagText(msgs[0].Flags), msgs[0].InternalDate.UTC(), msgs[0].BodySection[0].Bytes), nil
}
