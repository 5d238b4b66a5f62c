package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func TestParsePlain(t *testing.T) {
	tests := []struct {
		message, authzid, authcid, password string
		bad                                 bool
	}{
		{message: "\x00tim\x00tanstaaftanstaaf", authcid: "tim", password: "tanstaaftanstaaf"}, // RFC 4616, Section 4
		{message: "Ursel\x00Kurt\x00xipj3plmq", authzid: "Ursel", authcid: "Kurt", password: "xipj3plmq"},
		{message: "\x00jürgen\x00l\xe4rm", authcid: "jürgen", password: "l\xe4rm"},
		{message: "", bad: true},
		{message: "tim", bad: true},
		{message: "\x00tim", bad: true},
		{message: "\x00\x00secret", bad: true},
		{message: "\x00tim\x00", bad: true},
		{message: "\x00tim\x00se\x00cret", bad: true},
		{message: "\x00t\xe4m\x00secret", bad: true},
		{message: "t\xe4m\x00tim\x00secret", bad: true},
		{message: "\x00tim\x00" + strings.Repeat("x", MaxResponseBytes), bad: true},
	}
	for _, test := range tests {
		authzid, authcid, password, err := ParsePlain([]byte(test.message))
		if test.bad {
			if !errors.Is(err, ErrMalformedSASL) {
				t.Errorf("%.40q: %v", test.message, err)
			}
			continue
		}
		if err != nil || authzid != test.authzid || authcid != test.authcid || password != test.password {
			t.Errorf("%.40q: %q, %q, %q, %v", test.message, authzid, authcid, password, err)
		}
	}
}

var errRefused = errors.New("refused by the test")

// In a conversation a nil response is "none sent".
func TestExchanges(t *testing.T) {
	long := strings.Repeat("x", MaxResponseBytes+1)
	text := func(s string) []byte { return []byte(s) }
	tests := []struct {
		name, mechanism string
		responses       [][]byte
		challenges      []string // before done
		want            string   // what is authenticated
		err             error
	}{
		{name: "plain with initial response", mechanism: "plain", responses: [][]byte{text("\x00u\x00secret")}, want: "|u|secret"},
		{name: "plain without", mechanism: "PLAIN", responses: [][]byte{nil, text("a\x00u\x00secret")}, challenges: []string{""}, want: "a|u|secret"},
		{name: "plain empty initial", mechanism: "PLAIN", responses: [][]byte{{}}, err: ErrMalformedSASL},
		{name: "plain nothing twice", mechanism: "PLAIN", responses: [][]byte{nil, nil}, challenges: []string{""}, err: ErrMalformedSASL},
		{name: "plain refused", mechanism: "PLAIN", responses: [][]byte{text("\x00u\x00wrong")}, want: "|u|wrong", err: errRefused},
		{name: "login", mechanism: "LOGIN", responses: [][]byte{nil, text("u"), text("secret")}, challenges: []string{"Username:", "Password:"}, want: "|u|secret"},
		{name: "login with initial response", mechanism: "Login", responses: [][]byte{text("u"), text("secret")}, challenges: []string{"Password:"}, want: "|u|secret"},
		{name: "login refused", mechanism: "LOGIN", responses: [][]byte{text("u"), text("wrong")}, challenges: []string{"Password:"}, want: "|u|wrong", err: errRefused},
		{name: "login NUL in password", mechanism: "LOGIN", responses: [][]byte{text("u"), text("se\x00cret")}, challenges: []string{"Password:"}, err: ErrMalformedSASL},
		{name: "login empty password", mechanism: "LOGIN", responses: [][]byte{text("u"), {}}, challenges: []string{"Password:"}, err: ErrMalformedSASL},
		{name: "login empty user", mechanism: "LOGIN", responses: [][]byte{nil, {}}, challenges: []string{"Username:"}, err: ErrMalformedSASL},
		{name: "login long password", mechanism: "LOGIN", responses: [][]byte{text("u"), text(long)}, challenges: []string{"Password:"}, err: ErrMalformedSASL},
		{name: "login user not UTF-8", mechanism: "LOGIN", responses: [][]byte{text("\xe4")}, err: ErrMalformedSASL},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			m, err := NewMechanism(test.mechanism, func(authzid, authcid, password string) error {
				got = authzid + "|" + authcid + "|" + password
				if password != "secret" {
					return errRefused
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, response := range test.responses {
				challenge, done, err := m.Next(response)
				if i < len(test.challenges) {
					if done || err != nil || challenge == nil || string(challenge) != test.challenges[i] {
						t.Fatalf("step %d: %q, %v, %v", i, challenge, done, err)
					}
					continue
				}
				if !done || !errors.Is(err, test.err) || challenge != nil {
					t.Fatalf("end: %q, %v, %v", challenge, done, err)
				}
			}
			if got != test.want {
				t.Errorf("authenticated %q, want %q", got, test.want)
			}
			if _, done, err := m.Next([]byte("more")); !done || !errors.Is(err, ErrExchangeOver) {
				t.Errorf("after the end: %v, %v", done, err)
			}
		})
	}
}

func TestNewMechanismUnknown(t *testing.T) {
	if _, err := NewMechanism("CRAM-MD5", nil); !errors.Is(err, ErrUnknownMechanism) {
		t.Errorf("error is %v", err)
	}
}

func TestDecode(t *testing.T) {
	tests := []struct {
		text    string
		initial bool
		want    string
		err     error
	}{
		{text: "AHRpbQB0YW5zdGFhZnRhbnN0YWFm", initial: true, want: "\x00tim\x00tanstaaftanstaaf"},
		{text: "AHRpbQB0YW5zdGFhZnRhbnN0YWFm", want: "\x00tim\x00tanstaaftanstaaf"},
		{text: "=", initial: true, want: ""},
		{text: "", initial: true, err: ErrMalformedSASL},
		{text: "*", initial: true, err: ErrMalformedSASL},
		{text: "", want: ""},
		{text: "*", err: ErrCancelled},
		{text: "=", err: ErrMalformedSASL},
		{text: "!!", err: ErrMalformedSASL},
		{text: "c2Vj\ncmV0", err: ErrMalformedSASL},
		{text: strings.Repeat("A", MaxResponseBytes), want: strings.Repeat("\x00", MaxResponseBytes/4*3)},
		{text: strings.Repeat("A", MaxResponseBytes+4), err: ErrMalformedSASL},
	}
	for _, test := range tests {
		decode := DecodeResponse
		if test.initial {
			decode = DecodeInitial
		}
		got, err := decode(test.text)
		if !errors.Is(err, test.err) || string(got) != test.want || err == nil && got == nil {
			t.Errorf("%.20q (initial %v): %.20q, %v", test.text, test.initial, got, err)
		}
	}
}

func FuzzParsePlain(f *testing.F) {
	f.Add([]byte("\x00tim\x00tanstaaftanstaaf"))
	f.Add([]byte("a\x00b\x00c\x00"))
	f.Fuzz(func(t *testing.T, message []byte) {
		authzid, authcid, password, err := ParsePlain(message)
		if err != nil {
			return
		}
		if authcid == "" || password == "" || strings.Contains(password, "\x00") {
			t.Errorf("accepted %q", message)
		}
		if again := []byte(authzid + "\x00" + authcid + "\x00" + password); !bytes.Equal(again, message) {
			t.Errorf("%q came back as %q", message, again)
		}
	})
}

func FuzzDecodeResponse(f *testing.F) {
	f.Add("*")
	f.Add("=")
	f.Add("AHRpbQB0YW5zdGFhZnRhbnN0YWFm")
	f.Fuzz(func(t *testing.T, line string) {
		raw, err := DecodeResponse(line)
		if err != nil {
			return
		}
		if len(raw) > MaxResponseBytes || len(line) != base64.StdEncoding.EncodedLen(len(raw)) {
			t.Errorf("%q decoded to %d bytes", line, len(raw))
		}
	})
}
