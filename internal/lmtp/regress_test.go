package lmtp_test

import (
	"bufio"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"waypost/internal/lmtp"
)

// TestCheckAddress: exactly what commands carry.
func TestCheckAddress(t *testing.T) {
	for address, ok := range map[string]bool{
		"": true, "a@x": true, "a b@x": true, "a<b@x": true, "\u00e4@x": true, "a": true,
		"a\x01@x": false, "a\x7f@x": false, "a@b<c": false, "@x": false, "a\xff@x": false, strings.Repeat("a", 900) + "@x": false,
	} {
		if err := lmtp.CheckAddress(address); (err == nil) != ok || err != nil && !errors.Is(err, lmtp.ErrSyntax) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// TestFinish_oneDeadlineForAllReplies: a home that answers slowly, one reply
// after the other, is not waited for that much longer.
func TestFinish_oneDeadlineForAllReplies(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	const n = 1000
	go func() {
		defer far.Close()
		r := bufio.NewReader(far)
		say := func(s string) { far.Write([]byte(s + "\r\n")) }
		say("220 x")
		for {
			l, err := r.ReadString('\n')
			switch {
			case err != nil:
				return
			case strings.HasPrefix(l, "DATA"):
				say("354 x")
			case l == ".\r\n":
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for range n {
					<-tick.C
					if _, err := far.Write([]byte("250 x\r\n")); err != nil {
						return
					}
				}
			case !strings.HasPrefix(l, "x"):
				say("250 x")
			}
		}
	}()
	c := lmtp.New(near, lmtp.Options{DataTimeout: 200 * time.Millisecond})
	if err := c.Hello("x"); err != nil {
		t.Fatal(err)
	}
	to := make([]lmtp.Recipient, n)
	for i := range to {
		to[i].To = "a@x"
	}
	if _, _, err := c.MailRcpt("s@x", lmtp.MailParams{}, to); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("x\r\n"))
	if replies, err := w.Finish(); !errors.Is(err, os.ErrDeadlineExceeded) || len(replies) == n {
		t.Errorf("%d replies, %v", len(replies), err)
	}
}
