package director

import (
	"errors"
	"strings"
	"testing"
)

func TestRecordEncoding(t *testing.T) {
	for _, c := range []struct {
		r    Record
		want string
	}{
		{Record{"b1", 1, Active, ""}, "1 b1 1 active"},
		{Record{"b1", 2, Busy, "b2"}, "1 b1 2 busy b2"},
		{Record{"b_9-x", 18446744073709551615, Deleted, ""}, "1 b_9-x 18446744073709551615 deleted"},
	} {
		if s := c.r.String(); s != c.want {
			t.Errorf("%+v is %q, want %q", c.r, s, c.want)
		}
		if r, err := DecodeRecord([]byte(c.want)); err != nil || r != c.r {
			t.Errorf("%q is %+v, %v", c.want, r, err)
		}
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	for _, s := range []string{
		"", "1", "1 b1 1", "2 b1 1 active", "1 b1 0 active", "1 b1 -1 active", "1 b1 +1 active", "1 b1 01 active",
		"1 b1 18446744073709551616 active", "1 b1 x active", "1 b1 1 sleeping", "1 b1 1 Active",
		"1 b1 1 active b2", "1 b1 1 busy", "1 b1 1 busy b1", "1 b1 1 deleted b2", "1 b1 1 busy b2 b3",
		"1 B1 1 active", "1 b/1 1 active", "1 " + strings.Repeat("b", 33) + " 1 active",
		"1  b1 1 active", " 1 b1 1 active", "1 b1 1 active\n", "1\tb1 1 active", "1 b1\u00a01 active",
	} {
		if r, err := DecodeRecord([]byte(s)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %+v, %v", s, r, err)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, s := range []string{"1 b1 1 active", "1 b1 2 busy b2", "1 b1 3 deleted", "1 b1 1 busy b1", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if string(r.Encode()) != string(b) {
			t.Fatalf("%q is read as %q", b, r.Encode())
		}
	})
}

func TestParseUser(t *testing.T) {
	for in, want := range map[string]User{
		"ann@example.test":                      "ann@example.test",
		" Ann.B@Example.TEST\n":                 "ann.b@example.test",
		"o'brien=x@a-b.test":                    "o'brien=x@a-b.test",
		"jörg@bücher.test":                      "jörg@bücher.test",
		"a@localhost":                           "a@localhost",
		strings.Repeat("l", 64) + "@x.test":     User(strings.Repeat("l", 64) + "@x.test"),
		"ab@" + strings.Repeat("d.", 108) + "t": User("ab@" + strings.Repeat("d.", 108) + "t"),
	} {
		u, err := ParseUser(in)
		if err != nil || u != want {
			t.Errorf("%q: %q, %v", in, u, err)
		}
		if u.Local()+"@"+u.Domain() != string(u) {
			t.Errorf("%q: parts %q and %q", u, u.Local(), u.Domain())
		}
	}
	for _, in := range []string{
		"", "@", "ann", "ann@", "@example.test", "ann@@example.test", "a@b@example.test", "a b@example.test",
		"a/b@example.test", "../x@example.test", ".@example.test", ".a@example.test", "a.@example.test", "a..b@example.test",
		"a+b@example.test", "a\x00@example.test", "a\\b@example.test", "a:b@example.test", `"a"@example.test`,
		"\xff@example.test", "a\u0085b@example.test", "a\u2028b@example.test", "a\u00a0b@example.test",
		"a@-example.test", "a@example-.test", "a@example..test", "a@example.test.", "a@.test", "a@exa_mple.test",
		"a@exam ple.test", "a@[192.0.2.1]", "a@" + strings.Repeat("d", 64) + ".test", "a@a\u0085b.test",
		strings.Repeat("l", 65) + "@x.test", "a@" + strings.Repeat("d.", 127) + "t", "a@" + strings.Repeat("d.", 109) + "t",
	} {
		if u, err := ParseUser(in); !errors.Is(err, ErrInvalid) || u != "" {
			t.Errorf("%q: %q, %v", in, u, err)
		}
	}
}

func FuzzParseUser(f *testing.F) {
	for _, s := range []string{"ann@example.test", "ÄÖ@İ.test", "a/b@c", "\xff@x", "a@b@c", " @ "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUser(s)
		if err != nil {
			return
		}
		if again, err := ParseUser(string(u)); err != nil || again != u {
			t.Fatalf("%q is %q, then %q, %v", s, u, again, err)
		}
		if len(u) > 220 || strings.ContainsAny(string(u), "/\\ \t\r\n\x00+\"") || strings.HasPrefix(string(u), ".") {
			t.Fatalf("%q is taken as %q", s, u)
		}
		if base, folder := SplitSubaddress(string(u)); base != string(u) || folder != "" {
			t.Fatalf("%q has the sub-address %q of %q", u, folder, base)
		}
	})
}

func TestSplitSubaddress(t *testing.T) {
	for _, c := range []struct{ in, base, folder string }{
		{"Ann@Example.Test", "ann@example.test", ""},
		{"ann+Work@example.test", "ann@example.test", "Work"},
		{"ann+a+b@example.test", "ann@example.test", "a+b"},
		{"ann+@example.test", "ann@example.test", ""},
		{"+x@example.test", "+x@example.test", ""},
		{"ann+a@b@example.test", "ann@example.test", "a@b"},
		{"ann@ex+ample.test", "ann@ex+ample.test", ""},
		{"Postmaster", "postmaster", ""},
		{"", "", ""},
		{"@", "@", ""},
	} {
		if base, folder := SplitSubaddress(c.in); base != c.base || folder != c.folder {
			t.Errorf("%q: %q and %q, want %q and %q", c.in, base, folder, c.base, c.folder)
		}
	}
}

func FuzzSplitSubaddress(f *testing.F) {
	f.Add("ann+Work@example.test")
	f.Add("+@")
	f.Fuzz(func(t *testing.T, s string) {
		base, folder := SplitSubaddress(s)
		if b, f := SplitSubaddress(base); b != base && f == "" {
			t.Fatalf("%q: %q, then %q", s, base, b)
		}
		if folder != "" && !strings.Contains(s, "+"+folder) {
			t.Fatalf("%q: folder %q", s, folder)
		}
	})
}

// TestTransitions tries every transition from every kind of record: what is
// not in the table is illegal.
func TestTransitions(t *testing.T) {
	records := map[State]Record{
		Active:  {"b1", 7, Active, ""},
		Busy:    {"b1", 7, Busy, "b2"},
		Deleted: {"b1", 7, Deleted, ""},
	}
	transitions := map[string]func(Record) (Record, error){
		"create":       func(r Record) (Record, error) { return Create(&r, "b3") },
		"busy":         func(r Record) (Record, error) { return r.MarkBusy("b2") },
		"busy to home": func(r Record) (Record, error) { return r.MarkBusy("b1") },
		"busy to none": func(r Record) (Record, error) { return r.MarkBusy("") },
		"flip":         Record.Flip,
		"rollback":     Record.Rollback,
		"delete":       Record.Delete,
		"reassign":     func(r Record) (Record, error) { return r.Reassign(BackendLost, "b3") },
		// The home must have been declared lost, and be another.
		"reassign of a home that is away": func(r Record) (Record, error) { return r.Reassign(BackendOffline, "b3") },
		"reassign of a home that serves":  func(r Record) (Record, error) { return r.Reassign(BackendActive, "b3") },
		"reassign to the lost home":       func(r Record) (Record, error) { return r.Reassign(BackendLost, "b1") },
		"reassign to none":                func(r Record) (Record, error) { return r.Reassign(BackendLost, "") },
	}
	legal := map[State]map[string]Record{
		Active:  {"busy": {"b1", 8, Busy, "b2"}, "delete": {"b1", 8, Deleted, ""}, "reassign": {"b3", 9, Active, ""}},
		Busy:    {"flip": {"b2", 8, Active, ""}, "rollback": {"b1", 8, Active, ""}, "reassign": {"b3", 9, Active, ""}},
		Deleted: {"create": {"b3", 8, Active, ""}},
	}
	for state, r := range records {
		for name, do := range transitions {
			next, err := do(r)
			want, ok := legal[state][name]
			if !ok {
				if !errors.Is(err, ErrIllegal) {
					t.Errorf("%s from %q: %q, %v; want it illegal", name, r, next, err)
				}
				continue
			}
			if err != nil || next != want {
				t.Errorf("%s from %q: %q, %v; want %q", name, r, next, err, want)
			}
			if back, err := DecodeRecord(next.Encode()); err != nil || back != next {
				t.Errorf("%s from %q cannot be stored: %v", name, r, err)
			}
		}
	}
	if r, err := Create(nil, "b1"); err != nil || r != (Record{"b1", 1, Active, ""}) {
		t.Errorf("create: %q, %v", r, err)
	}
	if _, err := Create(nil, "B 1"); !errors.Is(err, ErrInvalid) {
		t.Errorf("create on an invalid backend: %v", err)
	}
	if _, err := records[Active].MarkBusy("B 1"); !errors.Is(err, ErrInvalid) {
		t.Errorf("busy to an invalid backend: %v", err)
	}
}

func TestValuesRefuseNewerVersions(t *testing.T) {
	for name, dec := range map[string]func([]byte) error{
		"account": func(b []byte) error { _, err := DecodeAccount(b); return err },
		"address": func(b []byte) error { _, err := DecodeAddress(b); return err },
		"domain":  func(b []byte) error { _, err := DecodeDomain(b); return err },
		"backend": func(b []byte) error { _, err := DecodeBackend(b); return err },
		"move":    func(b []byte) error { _, err := DecodeMove(b); return err },
	} {
		for _, bad := range []string{`{"v":2}`, `{`, ``, `[]`, `{"v":"1"}`} {
			if err := dec([]byte(bad)); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s %q: %v", name, bad, err)
			}
		}
		if err := dec([]byte(`{"v":1,"later":"field"}`)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
