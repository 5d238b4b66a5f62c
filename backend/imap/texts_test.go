package imap

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// texts is an index that knows where one string may be.
type texts struct {
	uids  []mailbox.UID
	asked []string
}

func (x *texts) Candidates(_ context.Context, f mailbox.Folder, all mailbox.Messages, needle string, body bool) ([]mailbox.UID, bool) {
	x.asked = append(x.asked, fmt.Sprint(f.Name(), all.Len(), needle, body))
	return x.uids, needle == "HELLO"
}

// TestTextIndex: a session asks the index that it was given, and verifies what that says.
func TestTextIndex(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for _, text := range []string{"hello", "nothing", "hello"} {
		r.deliver(b, mailbox.Inbox, "Subject: x\n\n"+text+"\n")
	}
	x := &texts{uids: []mailbox.UID{1, 2}} // it leaves one out, so that it shows
	nc, done := r.serve(t.Context(), Session{Box: b, Store: r.store, Texts: x})
	c := &client{t: t, nc: nc, br: bufio.NewReader(nc), done: done}
	c.line()
	for _, cmd := range []struct{ command, want string }{
		{"SELECT INBOX", ""}, {"SEARCH BODY hello", "* SEARCH 1"}, {"SEARCH TEXT other", "* SEARCH"}, {"LOGOUT", ""},
	} {
		if _, err := fmt.Fprintf(nc, "a %s\r\n", cmd.command); err != nil {
			t.Fatal(err)
		}
		var all []string
		for line := c.line(); ; line = c.line() {
			if strings.HasPrefix(line, "a ") {
				if !strings.HasPrefix(line, "a OK") {
					t.Fatalf("%s: %s", cmd.command, line)
				}
				break
			}
			all = append(all, line)
		}
		if cmd.want != "" && !slices.Contains(all, cmd.want) {
			t.Errorf("%s: %q", cmd.command, all)
		}
	}
	if want := []string{"INBOX3HELLOtrue", "INBOX3OTHERfalse"}; !slices.Equal(x.asked, want) {
		t.Errorf("asked for %q, want %q", x.asked, want)
	}
}
