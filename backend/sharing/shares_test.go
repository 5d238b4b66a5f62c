package sharing

import (
	"fmt"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

// A listing opens each mailbox once for all sessions, and again only where something
// is another; what somebody did by hand is seen after a while.
func TestListingOpensOnce(t *testing.T) {
	users := []director.User{bob, cy}
	for i := range 20 {
		users = append(users, director.User(fmt.Sprintf("u%02d@example.test", i)))
	}
	w := newWorld(t, append(users, ann)...)
	now := time.Now()
	w.shares = NewShares(func() time.Time { return now })
	own := w.own(ann)
	w.must(own.SetACL(mailbox.Inbox, "anyone", "lr"))
	listed := func(want int) {
		t.Helper()
		before := w.opens()
		for _, u := range users {
			infos, err := w.view(u).Folders()
			w.must(err)
			if len(infos) != 2 || infos[0].Name != string(ann) || !infos[0].NoSelect || !infos[0].HasChildren || infos[1].Name != string(ann)+"/INBOX" {
				t.Fatalf("%s: %+v", u, infos)
			}
		}
		if n := w.opens() - before; n != want {
			t.Errorf("%d mailboxes were opened, want %d", n, want)
		}
	}
	listed(len(users) + 1)
	listed(0)
	w.must(own.SetACL(mailbox.Inbox, string(bob), "lr"))
	listed(1)
	now = now.Add(listFor)
	listed(len(users) + 1)
	w.serve(cy, 3)
	listed(1)
}

// A Box keeps few mailboxes open, and never closes the one whose messages were shown
// last.
func TestOpenIsBounded(t *testing.T) {
	var users []director.User
	for i := range maxOpen + 5 {
		users = append(users, director.User(fmt.Sprintf("u%02d@example.test", i)))
	}
	w := newWorld(t, append(users, bob)...)
	for _, u := range users {
		w.must(w.own(u).SetACL(mailbox.Inbox, "anyone", "lr"))
	}
	b := w.view(bob)
	shown, err := b.Folder(string(users[0]) + "/INBOX")
	w.must(err)
	_, err = shown.Snapshot()
	w.must(err)
	for _, u := range users[1:] {
		f, err := b.Folder(string(u) + "/INBOX")
		w.must(err)
		_, err = f.Status()
		w.must(err)
	}
	if n := len(b.open); n != maxOpen {
		t.Errorf("%d mailboxes are open", n)
	}
	if b.open[users[0]] == nil {
		t.Error("the one that was shown is closed")
	}
}

// A handle is of its folder, not of the next one of that name.
func TestRenamedAway(t *testing.T) {
	w := newWorld(t, ann, bob)
	own, b := w.own(ann), w.view(bob)
	w.must(own.CreateFolder("Shared", ""))
	w.must(own.SetACL("Shared", string(bob), "lr"))
	f, err := b.Folder(shared)
	w.must(err)
	_, err = f.Snapshot()
	w.must(err)
	w.must(own.RenameFolder("Shared", "Private"))
	w.must(own.SetACL("Private", string(bob), ""))
	w.must(own.CreateFolder("Shared", ""))
	w.must(own.SetACL("Shared", string(bob), "lr"))
	_, err = f.Snapshot()
	is(t, "the folder that was renamed", err, mailbox.ErrNoFolder)
	// What is made below has the rights of what is above.
	w.must(own.SetACL("Shared", string(bob), "lrk"))
	w.must(b.CreateFolder(shared+"/Below", ""))
	acl, err := own.ACL("Shared/Below")
	w.must(err)
	if len(acl) != 1 || acl[string(bob)] != "lrk" {
		t.Errorf("%v", acl)
	}
	is(t, "a special use", b.CreateFolder(shared+"/Sent", `\Sent`), mailbox.ErrUse)
	is(t, "on top", b.CreateFolder("ann@example.test/Top", ""), mailbox.ErrNoRight)
	// Private entries are the owner's.
	text := "x"
	w.must(own.SetMetadata("Shared", map[string]*string{"/private/comment": &text, "/shared/comment": &text}))
	all, err := b.Metadata(shared)
	w.must(err)
	if len(all) != 1 || all["/shared/comment"] != text {
		t.Errorf("%v", all)
	}
}
