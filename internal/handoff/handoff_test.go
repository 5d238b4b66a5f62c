package handoff

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func TestEnvelope(t *testing.T) {
	for _, body := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("state"), 1000)} {
		id := NewID()
		state := Seal(id, "imap", body)
		if len(state) > len(body)+Overhead {
			t.Errorf("%d bytes of %d", len(state), len(body))
		}
		got, out, err := Open(state, "imap")
		if err != nil || got != id || !bytes.Equal(out, body) {
			t.Fatalf("%v %q %v", got, out, err)
		}
		for _, other := range []string{"pop3", "imaps", "", "ima"} {
			if _, _, err := Open(state, other); !is(err, Version) {
				t.Errorf("%q: %v", other, err)
			}
		}
		for i := range state {
			damaged := bytes.Clone(state)
			damaged[i] ^= 1
			if _, _, err := Open(damaged, "imap"); !is(err, Version) {
				t.Fatalf("byte %d: %v", i, err)
			}
			if _, _, err := Open(state[:i], "imap"); !is(err, Version) {
				t.Fatalf("%d bytes: %v", i, err)
			}
		}
	}
	if a, b := NewID(), NewID(); a == b || len(a.String()) != 32 {
		t.Error(a, b)
	}
}

func TestTip(t *testing.T) {
	for _, body := range [][]byte{nil, bytes.Repeat([]byte("state"), 1000)} {
		id := NewQuietID()
		base, other := SealBase(id, "imap", body), SealBase(NewID(), "imap", body)
		if len(base.Sealed) > len(body)+Overhead {
			t.Errorf("%d bytes of %d", len(base.Sealed), len(body))
		}
		whole := base.AppendTip(base.Sealed, []byte("tip"))
		for _, x := range []struct {
			state []byte
			tip   string
		}{{base.Sealed, ""}, {whole, "tip"}} {
			got, out, tip, err := OpenBase(x.state, "imap")
			if err != nil || got != id || !bytes.Equal(out, body) || string(tip) != x.tip || (tip == nil) != (x.tip == "") {
				t.Fatalf("%v %q %q %v", got, out, tip, err)
			}
			if _, _, _, err := OpenBase(x.state, "pop3"); !is(err, Version) {
				t.Error(err)
			}
			if _, _, err := Open(x.state, "imap"); !is(err, Version) {
				t.Error(err)
			}
			for i := range x.state {
				damaged := bytes.Clone(x.state)
				damaged[i] ^= 1
				if _, _, _, err := OpenBase(damaged, "imap"); !is(err, Version) {
					t.Fatalf("byte %d: %v", i, err)
				}
				if _, _, _, err := OpenBase(x.state[:i], "imap"); !is(err, Version) && i != len(base.Sealed) {
					t.Fatalf("%d bytes: %v", i, err)
				}
			}
		}
		if _, _, _, err := OpenBase(other.AppendTip(base.Sealed, []byte("tip")), "imap"); !is(err, Version) {
			t.Errorf("another's tip: %v", err)
		}
	}
	state := Seal(NewID(), "imap", []byte("x"))
	if id, body, tip, err := OpenBase(state, "imap"); err != nil || id.Quiet() || string(body) != "x" || tip != nil {
		t.Errorf("%v %q %q %v", id, body, tip, err)
	}
}

func TestQuiet(t *testing.T) {
	quiet, other := NewQuietID(), NewID()
	if !quiet.Quiet() || other.Quiet() || quiet == NewQuietID() {
		t.Error(quiet, other)
	}
	for state, want := range map[string]bool{
		string(Seal(quiet, "imap", nil)): true, string(SealBase(quiet, "pop3", nil).Sealed): true, string(Seal(other, "imap", nil)): false,
		"": false, "WPHO": false, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00": false,
	} {
		if Quiet([]byte(state)) != want {
			t.Errorf("%q", state)
		}
	}
}

func is(err error, want Reason) bool {
	r, ok := ReasonOf(err)
	return ok && r == want
}

func TestError(t *testing.T) {
	behind := errors.New("behind")
	err := fmt.Errorf("resume: %w", &Error{Identity, behind})
	if !is(err, Identity) || !errors.Is(err, behind) || err.Error() != "resume: session not carried: identity: behind" {
		t.Errorf("%v", err)
	}
	if _, ok := ReasonOf(behind); ok || (&Error{Reason: Folder}).Error() != "session not carried: folder" {
		t.Error("without a reason")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(Seal(ID{}, "imap", []byte("x")), "imap")
	f.Add([]byte("WPHO\x01"), "")
	f.Fuzz(func(t *testing.T, state []byte, protocol string) {
		if len(protocol) > maxName {
			return
		}
		id, body, err := Open(state, protocol)
		if err != nil {
			if !is(err, Version) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(Seal(id, protocol, body), state) {
			t.Error("not what it was made of")
		}
	})
}
