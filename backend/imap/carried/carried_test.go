package carried

import (
	"bytes"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

func spans(uids ...mailbox.UID) []mailbox.UIDRange {
	var out []mailbox.UIDRange
	for i := 0; i < len(uids); i += 2 {
		out = append(out, mailbox.UIDRange{First: uids[i], Last: uids[i+1]})
	}
	return out
}

// full has something in every field.
func full() *State {
	return &State{
		Session: "p1-17", Client: "192.0.2.1:1", User: "ann@example.test", Enabled: QResync | UIDOnly, Deflate: true, Bads: 3,
		Waited: 29 * time.Minute, Saved: spans(1, 1, 3, 9), Updates: &Updates{spans(7, 8), []Update{{"a1", true, "UNSEEN", spans(1, 7)}, {Keys: "NOT ALL"}}},
		Selected: &Selected{
			Name: "Grüße/x", ID: "f7", UIDValidity: 1 << 31, ReadOnly: true, Dead: true, Told: spans(1, 100_000, 100_002, 100_002, 1<<32-1, 1<<32-1),
			UIDNext: 1<<32 - 1, Highest: 5, Synced: 1<<63 + 1, Unsure: spans(7, 7), Recent: spans(8, 9), Noted: spans(11, 11), Own: spans(4, 4),
			Unfetched: spans(2, 2), Keywords: []string{"$a", "b"}, Untold: true,
		},
		Notify: &Notify{
			Selected: 7, Delayed: true, Fetch: "(UID BODY.PEEK[])", Groups: []Group{{1, 2, []string{"a", ""}}, {0, 255, nil}},
			Account: []Entry{}, Folders: []Folder{
				{Name: "INBOX", Flags: 3, ID: "f1", Counts: true, UIDValidity: 1, UIDNext: 2, Messages: 3, Unseen: -1, ModSeq: 1 << 40},
				{Name: "x", Metadata: []Entry{{"/private/comment", 1<<64 - 1}}},
			},
		},
		UnderWay: UnderWay{Granted: 2, Answered: true, Left: 1 << 40, After: 77, Lost: true},
		Pending:  []byte("a APPEND INBOX {5}\r\nab"),
	}
}

func TestRoundTrip(t *testing.T) {
	for _, s := range []*State{{}, {Selected: &Selected{}}, {Notify: &Notify{}}, full()} {
		if s.Pending == nil {
			s.Pending = []byte{}
		}
		b := Encode(s)
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%v\n got %+v\nwant %+v", err, got, s)
		}
		for i := range b {
			if _, err := Decode(b[:i]); reasonOf(err) != handoff.Version {
				t.Fatalf("%d of %d bytes: %v", i, len(b), err)
			}
		}
		if _, err := Decode(append(b, 0)); reasonOf(err) != handoff.Version {
			t.Errorf("a byte too many: %v", err)
		}
	}
}

func reasonOf(err error) handoff.Reason {
	r, _ := handoff.ReasonOf(err)
	return r
}

func TestDecodeRefuses(t *testing.T) {
	newer := Encode(full())
	newer[0]++
	if _, err := Decode(newer); reasonOf(err) != handoff.Version {
		t.Errorf("newer: %v", err)
	}
	if _, err := Decode(Encode(&State{Enabled: All + 1})); reasonOf(err) != handoff.Capability {
		t.Errorf("enabled: %v", err)
	}
	for name, told := range map[string][]mailbox.UIDRange{
		"zero": spans(0, 1), "touch": spans(1, 2, 3, 4), "overlap": spans(1, 5, 5, 6), "fall": spans(5, 6, 1, 2), "backwards": spans(5, 1),
	} {
		if _, err := Decode(Encode(&State{Selected: &Selected{Told: told}})); reasonOf(err) != handoff.Version {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// 100,000 messages without a gap take some bytes.
func TestCompact(t *testing.T) {
	one, many := full(), full()
	one.Selected.Told, many.Selected.Told = spans(1, 1), spans(1, 100_000)
	if more := len(Encode(many)) - len(Encode(one)); more > 4 {
		t.Errorf("%d bytes more", more)
	}
}

// FuzzTip: anything makes of a state one that can be encoded, or is refused.
func FuzzTip(f *testing.F) {
	tip := &Tip{
		Bads: 2, Granted: 1, Selected: true, UIDNext: 77, Highest: 9, Synced: 11, Fresh: spans(200_000, 200_003), Gone: spans(1, 7, 100_002, 200_000),
		Recent: spans(8, 8, 200_001, 200_003), Unsure: spans(9, 9), Pending: []byte("a IDLE\r\n"),
		Updated: []Updated{{spans(9, 9), spans(2, 3)}, {In: spans(5, 5)}},
	}
	f.Add(AppendTip(nil, tip))
	f.Add(AppendTip(nil, &Tip{}))
	f.Add([]byte{})
	one := func() *State {
		s := full()
		s.Selected.Told = spans(1, 100_000, 100_002, 100_002)
		return s
	}
	s := one()
	if err := Apply(s, AppendTip(nil, tip)); err != nil {
		f.Fatal(err)
	}
	if sel := s.Selected; !reflect.DeepEqual(sel.Told, spans(8, 100_000, 200_001, 200_003)) || !reflect.DeepEqual(sel.Recent, spans(8, 9, 200_001, 200_003)) ||
		sel.UIDNext != 77 || s.UnderWay != (UnderWay{Granted: 1}) || string(s.Pending) != "a IDLE\r\n" ||
		!reflect.DeepEqual(s.Updates.All[0].Hits, spans(1, 1, 4, 7, 9, 9)) || !reflect.DeepEqual(s.Updates.All[1].Hits, spans(5, 5)) {
		f.Errorf("%+v %+v", s, sel)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := one()
		if err := Apply(s, b); err != nil {
			if reasonOf(err) != handoff.Version {
				t.Errorf("%v", err)
			}
			return
		}
		if again, err := Decode(Encode(s)); err != nil || !reflect.DeepEqual(again, s) && len(s.Pending) > 0 {
			t.Errorf("%v\n got %+v\nwant %+v", err, again.Selected, s.Selected)
		}
	})
}

// FuzzDecode: what is decoded encodes to the same state again, and nothing makes Decode
// allocate out of proportion.
func FuzzDecode(f *testing.F) {
	f.Add(Encode(full()))
	f.Add(Encode(&State{}))
	f.Add([]byte{version, 0, 0, 0, 0, 2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add(append([]byte{version, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}, strings.Repeat("\x02\x00", 100)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, err := Decode(b)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10+64*uint64(len(b)) {
			t.Errorf("%d bytes allocated for %d", got, len(b))
		}
		if err != nil {
			if r := reasonOf(err); r != handoff.Version && r != handoff.Capability {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := Decode(Encode(s))
		if err != nil || !reflect.DeepEqual(again, s) || !bytes.Equal(again.Pending, s.Pending) {
			t.Errorf("%v\n got %+v\nwant %+v", err, again, s)
		}
	})
}
