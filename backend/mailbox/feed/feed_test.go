package feed

import (
	"fmt"
	"slices"
	"testing"

	"waypost/backend/mailbox"
)

func TestFeed(t *testing.T) {
	var f Feed
	u, wait := f.Since(0)
	if u.Version != 0 || u.Listing || u.All || u.Folders != nil || !f.Waiting() {
		t.Fatalf("%+v", u)
	}
	f.Messages("b")
	<-wait
	f.Messages("a")
	f.Listing()
	u, _ = f.Since(0)
	if u.Version != 3 || !u.Listing || u.All || !slices.Equal(u.Folders, []string{"a", "b"}) {
		t.Fatalf("%+v", u)
	}
	if u, _ = f.Since(1); !slices.Equal(u.Folders, []string{"a"}) || !u.Listing {
		t.Fatalf("%+v", u)
	}
	u, wait = f.Since(3)
	if u.Folders != nil || u.Listing || u.All {
		t.Fatalf("%+v", u)
	}
	f.Wake()
	<-wait
	if u, _ = f.Since(4); !u.All {
		t.Fatal("a version that never was is known")
	}
	for i := range mailbox.MaxUpdates + 1 {
		f.Messages(fmt.Sprint(i))
	}
	if u, _ = f.Since(3); !u.All || len(u.Folders) > mailbox.MaxUpdates {
		t.Fatalf("%+v", u)
	}
	if u, _ = f.Since(u.Version); u.All || len(u.Folders) > 0 {
		t.Fatalf("%+v", u)
	}
}
