package clustertest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"waypost/director"
)

// TestMoveWaitsForALongMessage: a client is in the middle of an APPEND of 8 MB, of which too much
// has come to be carried along, when its user is moved: the move waits until the message is there, and
// the session goes on at the target.
func TestMoveWaitsForALongMessage(t *testing.T) {
	beside(t)
	c := newCluster(t)
	c.withUsers(0)
	alice := &survivors{testCluster: c, user: c.user(t, "alice@example.test", "b1")}
	alice.movedInALongMessage("INBOX", alice.user, "b2", 1)
}

// TestMoveWaitsForAnothersLongMessage: the same of one that is for a folder of another member of
// the sharing group, when that one is moved.
func TestMoveWaitsForAnothersLongMessage(t *testing.T) {
	beside(t)
	c := newCluster(t)
	c.withUsers(0)
	ann, bob := c.group(t)
	c.share(t, ann, bob, "lrswi")
	to := c.elsewhere(t, ann)
	c.letMove(t)
	(&survivors{testCluster: c, user: bob}).movedInALongMessage(sharedFolder, ann, to, 2)
}

// movedInALongMessage moves a user while a client of s is in the middle of an APPEND into a folder,
// which has as many messages behind it.
func (s *survivors) movedInALongMessage(folder string, moved director.User, to director.BackendID, messages int) {
	t := s.t
	k, err := s.dialSurvivor(1143, "k")
	if err != nil {
		t.Fatal(err)
	}
	defer k.conn.Close()
	text := "Subject: long\r\n\r\n" + strings.Repeat("0123456789abcdef", 8<<20/16)
	const most = 5 << 20
	tag := k.start("APPEND %q {%d}", folder, len(text))
	if line, err := k.line(); err != nil || !strings.HasPrefix(line, "+") {
		t.Fatal(line, err)
	}
	// The connection takes no more than some hundred kilobytes that nobody reads.
	if _, err := io.WriteString(k.w, text[:most]); err != nil {
		t.Fatal(err)
	}
	appended := make(chan error, 1)
	go func() { appended <- s.sendRest(k, tag, text[most:], moved) }()
	if m := s.move(t, moved, to); m.Phase != director.PhaseDone {
		t.Fatalf("%+v", m)
	}
	if err := <-appended; err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{fmt.Sprintf("SELECT %q", folder), "NOOP"} {
		if _, err := k.command("%s", command); err != nil || k.exists != messages {
			t.Fatalf("%s: %d messages, %v", command, k.exists, err)
		}
	}
}

// sendRest sends what is left of a command once the move of a user waits for it.
func (s *survivors) sendRest(k *survivor, tag, left string, moved director.User) error {
	waits := false
	for end := time.Now().Add(30 * time.Second); !waits; {
		m, err := s.admin.Move(s.t.Context(), moved)
		switch {
		case err == nil && m.Phase.Finished(), time.Now().After(end):
			return fmt.Errorf("the move did not wait: %+v, %w", m, err)
		case err != nil && !errors.Is(err, director.ErrNotFound):
			return err
		}
		waits = strings.HasPrefix(m.Waiting, "a client is in the middle of sending a long message")
	}
	if _, err := io.WriteString(k.w, left+"\r\n"); err != nil {
		return err
	}
	_, err := k.answer(tag)
	return err
}
